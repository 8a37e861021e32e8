"""METEOR's own behaviour; that its numbers are the jar's is in tests/parity/test_meteor_parity.py."""

import doctest
import gzip
import json
import shutil
import threading
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplet.errors import InputError, MissingExtraError, ModelError
from cliplet.metrics import meteor as module
from cliplet.metrics.meteor import Meteor, check_meteor, meteor, tables
from cliplet.metrics.meteor.alignment import align
from cliplet.metrics.meteor.hashing import append_word, line_hashes, power, string_hashes
from cliplet.metrics.meteor.lexicon import build_lexicon
from cliplet.metrics.meteor.matching import find_matches
from cliplet.metrics.meteor.normalizer import normalize
from cliplet.metrics.meteor.stemmer import stem

WORDS = [
    "a",
    "the",
    "dog",
    "dogs",
    "runs",
    "running",
    "man",
    "men",
    "on",
    "in",
    "street",
    "road",
    "big",
    "large",
]
captions = st.lists(st.sampled_from(WORDS), max_size=14)


def words(text: str) -> list[str]:
    return text.split()


@pytest.fixture
def little_meteor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pycocoevalcap with tables of a few words; gives the cache folder."""
    jar, paraphrases = tmp_path / "meteor-1.5.jar", tmp_path / "paraphrase-en.gz"
    with ZipFile(jar, "w") as archive:
        archive.writestr("function/english.words", "a\nthe\n")
        archive.writestr("nonbreaking/english.prefixes", "# comment\nmr\nno #NUMERIC_ONLY#\n")
        archive.writestr("synonym/english.synsets", "goose\n7 8\ncar\n1\nautomobile\n1 2\ngander\n8\n")
        archive.writestr("synonym/english.exceptions", "goose\ngeese\n")
    with gzip.open(paraphrases, "wt") as file:
        file.write("0.5\na lot of\nmany\n0.4\na lot of\nlots of\n0.1\nmany\nseveral\n")
    monkeypatch.setattr(tables, "find_sources", lambda: (jar, paraphrases))
    monkeypatch.setenv("CLIPLET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("running", "run"), ("hopped", "hop"), ("hoping", "hope"), ("skies", "sky"), ("dying", "die"), ("ties", "tie"),
        ("cries", "cri"), ("gas", "gas"), ("gaps", "gap"), ("sayings", "say"), ("boy's", "boy"),
        ("luxuriated", "luxuri"),
        ("generalization", "general"), ("conditionally", "condit"), ("communism", "communism"), ("inning", "inning"),
        ("youth", "youth"), ("feed", "feed"), ("agreed", "agre"), ("rationally", "ration"), ("controlling", "control"),
        ("adjustment", "adjust"), ("adoption", "adopt"), ("bead", "bead"), ("geologist", "geologist"), ("as", "as"),
    ],
)  # fmt: skip
def test_stems_are_those_of_the_snowball_vocabulary(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog runs", "a dog runs"),
        ("a well-known t-shirt", "a well known t shirt"),
        ("u.s.a. flag", "usa flag"),
        ("he left . mr. smith", "he left . mr. smith"),
        ("the end.", "the end ."),
        ("the end. it is", "the end. it is"),
        ("3.5 and 1,000", "3.5 and 1,000"),
        ("it's 5's o'clock", "it 's 5 's o 'clock"),
        ("“hi” ‘so’", "\" hi \" ' so '"),
        ("wait ... what", "wait ... what"),
        ("no. 5 and no. x", "no. 5 and no. x"),
        ("no. !", "no . !"),
        ("\u00a0dog\u2003cat", "dog cat"),
        ("", ""),
        ("\x01\x02", ""),
        ("\x01 a \x02 b \x03", "a \x02 b"),
    ],
)
def test_captions_are_split_as_meteor_does(text: str, expected: str) -> None:
    assert normalize([text], {"mr": False, "no": True}) == expected.split()


def test_phrase_hashes_follow_from_word_hashes() -> None:
    words = ["a", "lot", "öf", "", "x" * 300]
    hashes, shifts = string_hashes(words), power(np.array([len(w.encode()) for w in words]))
    phrase = hashes[:1]
    for k in range(1, len(words)):
        phrase = append_word(phrase, hashes[k : k + 1], shifts[k : k + 1])
    text = " ".join(words)
    assert phrase[0] == string_hashes([text])[0]
    lines = np.frombuffer(f"{text}\n\nlot\n".encode(), dtype=np.uint8)
    assert list(line_hashes(lines)) == list(string_hashes([text, "", "lot"]))
    assert len(set(string_hashes([f"w{k}" for k in range(10_000)]).tolist())) == 10_000


def test_the_score_follows_the_published_formula(little_meteor: Path) -> None:
    # content words match: dog/dog exact, runs/running by stem; function words: a is not matched, the neither
    candidate, reference = words("a dog runs fast"), words("the dog was running")
    precision = (0.75 * 1 + 0.75 * 0.6) / (3 * 0.75 + 1 * 0.25)
    recall = (0.75 * 1 + 0.75 * 0.6) / (3 * 0.75 + 1 * 0.25)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    penalty = 0.6 * (2 / 2) ** 0.2
    result = meteor([candidate], [[reference]])
    assert result.name == "METEOR"
    assert result.per_caption[0] == pytest.approx(mean * (1 - penalty), abs=1e-12)
    assert result.corpus == pytest.approx(result.per_caption[0], abs=1e-12)


@pytest.mark.parametrize(
    ("candidate", "reference", "matched", "weight"),
    [
        ("car", "automobile", 1, 0.8),
        ("geese", "gander", 1, 0.8),  # through the irregular form's base word
        ("cars", "automobile", 1, 0.8),  # through the regular one's
        ("car", "gander", 0, 0.0),
        ("many", "a lot of", 1, 0.6),
        ("lots of", "a lot of", 1, 0.6),
        ("several", "many", 1, 0.6),  # the table has it in one direction, it counts in both
        ("several", "a lot of", 0, 0.0),
    ],
)
def test_synonyms_and_paraphrases_match_with_their_weight(
    little_meteor: Path, candidate: str, reference: str, matched: int, weight: float
) -> None:
    score = meteor([words(candidate)], [[words(reference)]]).per_caption[0]
    if not matched:
        assert score == 0
        return
    # all words of both sides are matched in one chunk, so precision and recall are the weight
    assert score == pytest.approx(weight, abs=1e-12)


def test_the_cache_is_made_once_and_for_each_content(
    little_meteor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Meteor()
    assert "once" in capsys.readouterr().err
    (folder,) = little_meteor.iterdir()
    made = (folder / "phrase_values.npy").stat().st_mtime_ns
    Meteor()
    assert (folder / "phrase_values.npy").stat().st_mtime_ns == made
    assert capsys.readouterr() == ("", "")
    assert not list(little_meteor.glob(".*")), "temporary folders are left"
    sources = tables.find_sources()
    assert sources is not None
    with gzip.open(sources[1], "at") as file:
        file.write("0.1\ncar\nbig car\n")
    assert meteor([words("big car")], [[words("car")]]).per_caption[0] > 0
    assert len(list(little_meteor.iterdir())) == 2


def test_a_damaged_cache_and_damaged_sources_are_named(little_meteor: Path) -> None:
    Meteor()
    (folder,) = little_meteor.iterdir()
    (folder / "phrase_starts.npy").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=rf"{folder.name}.*delete that folder"):
        Meteor()
    shutil.rmtree(folder)
    sources = tables.find_sources()
    assert sources is not None
    sources[1].write_bytes(sources[1].read_bytes()[:40])
    with pytest.raises(ModelError, match="cannot be made"):
        Meteor()
    assert not list(little_meteor.iterdir())


def test_a_cache_that_cannot_be_made_says_what_to_do(
    little_meteor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_meteor.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="set CLIPLET_CACHE"):
        Meteor()


def test_without_the_tables_it_is_another_metric_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, reference = words("a dog runs in the road"), words("the dog running on a street")
    installed = Meteor(exact_stem=True)([candidate], [[reference]])
    monkeypatch.setattr(tables, "find_sources", lambda: None)
    monkeypatch.setattr(module, "find_sources", lambda: None)
    with pytest.raises(MissingExtraError, match=r"cliplet\[meteor\]"):
        Meteor()
    assert any("cliplet[meteor]" in line for line in check_meteor())
    result = Meteor(exact_stem=True)([candidate], [[reference]])
    assert result.name == "METEOR-exact-stem"
    assert result.per_caption[0] == installed.per_caption[0] > 0


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIPLET_CACHE", str(tmp_path / "own"))
    assert tables.cache_root() == tmp_path / "own"
    monkeypatch.delenv("CLIPLET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tables.cache_root() == tmp_path / "xdg" / "cliplet"


def test_extremes(little_meteor: Path) -> None:
    scorer = Meteor()
    result = scorer(
        [words("the dog runs"), [], words("cat"), []],
        [[words("the dog runs")], [words("a dog")], [words("dog"), []], [[]]],
    )
    assert result.per_caption.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert scorer([words("a the")], [[words("the a")]]).per_caption[0] < 1


@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_caption_scores_the_same_in_any_company(rows: list[tuple[list[str], list[list[str]]]]) -> None:
    scorer = Meteor(exact_stem=True)
    together = scorer([c for c, _ in rows], [r for _, r in rows]).per_caption
    alone = [max(scorer([c], [[r]]).per_caption[0] for r in group) for c, group in rows]
    np.testing.assert_array_equal(together, alone)
    assert ((together >= 0) & (together <= 1)).all()


@given(captions, captions, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_two_searches_agree(candidate: list[str], reference: list[str], repeats: int) -> None:
    """The search of many pairs at once and that of one long pair, on captions that fill the beam."""
    candidate = candidate * (1 + repeats)
    lexicon = build_lexicon([candidate, reference], frozenset(["a", "the"]), None)
    batch = module._as_batch([candidate, reference], np.array([0]), lexicon)
    matches = find_matches(batch, lexicon, None)
    is_function = lexicon.is_function[batch.words]
    together, alone = (align(batch, matches, is_function, limit) for limit in (64, -1))
    np.testing.assert_array_equal(together.candidate, alone.candidate)
    np.testing.assert_array_equal(together.reference, alone.reference)
    np.testing.assert_array_equal(together.chunks, alone.chunks)


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [[list(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(4)] for _ in range(60)]
    candidates, references = [row[0] for row in rows], [row[1:] for row in rows]
    scorer = Meteor(exact_stem=True)
    whole = scorer(candidates, references)
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", 7)
    parts = scorer(candidates, references)
    np.testing.assert_array_equal(whole.per_caption, parts.per_caption)
    assert whole.corpus == parts.corpus


def test_threads_share_a_scorer(little_meteor: Path) -> None:
    scorer = Meteor()
    rng = np.random.default_rng(1)
    jobs = [[list(rng.choice(WORDS, 9)) for _ in range(40)] for _ in range(8)]
    expected = [scorer(job, [[job[0]]] * 40).per_caption for job in jobs]
    found: dict[int, np.ndarray] = {}

    def work(k: int) -> None:
        found[k] = scorer(jobs[k], [[jobs[k][0]]] * 40).per_caption

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(8):
        np.testing.assert_array_equal(found[k], expected[k])


def test_wrong_input_is_named() -> None:
    scorer = Meteor(exact_stem=True)
    with pytest.raises(InputError, match="2 candidates"):
        scorer([["a"], ["b"]], [[["a"]]])
    with pytest.raises(InputError, match="image 1 has no reference"):
        scorer([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(InputError, match="tokenise"):
        scorer(["a dog"], [["a dog"]])


def test_the_cache_holds_no_pickles(little_meteor: Path) -> None:
    Meteor()
    (folder,) = little_meteor.iterdir()
    for path in folder.iterdir():
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        else:
            json.loads(path.read_text())


def test_the_docstring_shows_the_truth() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 3
    assert result.failed == 0
