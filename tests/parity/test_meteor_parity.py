"""METEOR against the jar that pycocoevalcap ships, both from raw text. ``benchmarks/meteor.py`` does it at length."""

import shutil
from itertools import chain

import numpy as np
import pytest

from cliplet.metrics.meteor import Meteor
from tests.parity import meteor_cases as cases
from tests.shared_data import data_root

pytest.importorskip("pycocoevalcap")
if shutil.which("java") is None:
    pytest.skip("the reference implementation needs Java", allow_module_level=True)

REAL = {
    "COCO, results file": lambda: cases.coco_results(),
    "COCO, a person's caption": lambda: cases.coco_people(),
    "Flickr8k, a person's caption": lambda: cases.flickr8k_people(),
    "Flickr8k, spoilt": lambda: cases.spoilt(cases.flickr8k_people(), 400),
}
EACH = 250


@pytest.fixture(scope="module")
def compared() -> dict[str, tuple[np.ndarray, np.ndarray, cases.Cases]]:
    """Name of a set -> (our scores, the jar's, the captions). One run of the jar, whose start takes seconds."""
    sets = {"hard": cases.hard(), "random": cases.random_text(EACH)}
    if data_root().exists():
        sets |= {name: tuple(part[:EACH] for part in make()) for name, make in REAL.items()}  # type: ignore[misc]
    everything = tuple(list(chain.from_iterable(case[side] for case in sets.values())) for side in (0, 1))
    ours, theirs = cases.our_scores(everything), cases.reference_scores(everything)
    found = {"everything": (np.array([ours.corpus]), np.array([theirs["corpus"]]), everything)}
    start = 0
    for name, case in sets.items():
        part = slice(start, start := start + len(case[0]))
        found[name] = (ours.per_caption[part], np.array(theirs["per_caption"])[part], case)
    return found


@pytest.mark.parametrize("name", ["hard", "random", *REAL])
def test_every_caption_scores_as_in_the_jar(
    compared: dict[str, tuple[np.ndarray, np.ndarray, cases.Cases]], name: str
) -> None:
    if name not in compared:
        pytest.skip("the test data are not here; set CLIPLET_TEST_DATA to the folder that holds them")
    ours, theirs, (candidates, references) = compared[name]
    assert len(ours) >= 200
    assert theirs.max() > 0.03
    wrong = [(candidates[k], references[k]) for k in np.flatnonzero(np.abs(ours - theirs) > 1e-9)]
    assert not wrong


def test_the_corpus_scores_as_in_the_jar(
    compared: dict[str, tuple[np.ndarray, np.ndarray, cases.Cases]],
) -> None:
    ours, theirs, _ = compared["everything"]
    assert theirs[0] > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_with_punctuation_it_scores_as_the_jar_does_given_the_same_tokens() -> None:
    case = tuple(part[:EACH] for part in REAL["Flickr8k, spoilt"]())
    words, groups = cases.tokens(case, "ptb-punctuation")  # type: ignore[arg-type]
    assert any("." in caption for caption in words)
    text = [" ".join(w) for w in words], [[" ".join(w) for w in group] for group in groups]
    theirs = np.array(cases.reference_scores(text, "--tokenized")["per_caption"])
    np.testing.assert_allclose(Meteor()(words, groups).per_caption, theirs, rtol=0, atol=1e-9)
    assert np.abs(theirs - cases.our_scores(case).per_caption).max() > 0.01  # type: ignore[arg-type]
