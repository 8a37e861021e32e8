"""The table of metrics on references: its rows fit together, one tokenisation serves all, a user's own take part."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cliplet.errors import InputError
from cliplet.evaluation.human import ScoreRequest
from cliplet.evaluation.scores import reference_columns
from cliplet.metrics import cider as cider_module
from cliplet.metrics import registry
from cliplet.metrics.base import check_distinct
from cliplet.metrics.bleu import bleu
from cliplet.metrics.cider import DocumentFrequencies, cider
from cliplet.metrics.clipscore import MODEL_SCORES
from cliplet.metrics.registry import (
    METRICS,
    ReferenceMetric,
    ReferenceScores,
    find_metrics,
    reference_scores,
    row_fields,
    word_scores,
)
from cliplet.metrics.rouge import rouge_l
from cliplet.metrics.tokenizer import tokenize_many
from tests.tiny_model import build_tiny_model

CAPTIONS = ["A dog runs.", "a cat sits on a mat", "a dog runs", ""]
REFERENCES = [["a dog", "A dog runs fast!"], ["a cat on a mat"], ["a dog", "A dog runs fast!"], ["two men"]]
IMAGES = ["dog", "cat", "dog", "men"]


def nothing(corpus):
    return ReferenceScores()


ROW = ReferenceMetric("mine", ("Mine",), ("mine",), nothing)


# ---------------------------------------------------------------- the table
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": ()}, "give its columns and its fields"),
        ({"columns": "Mine"}, "give its columns and its fields"),
        ({"columns": ("A", "B")}, "2 columns but 1 fields"),
        ({"fields": ("Mine",)}, "small letters, digits and underscores, unlike 'Mine'"),
        ({"judged": ("Yours",)}, "judged columns that it has not: Yours"),
        ({"compute": "bleu"}, "compute must be a function"),
    ],
)
def test_a_row_that_does_not_fit_together_is_refused_when_it_is_made(changes, said):
    with pytest.raises(InputError, match=said):
        replace(ROW, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "bleu"}, "its name 'bleu' is that of the metric 'bleu'"),
        ({"columns": ("BLEU-1",)}, "its column 'BLEU-1' is that of the metric 'bleu'"),
        ({"fields": ("rouge_l",)}, "its field 'rouge_l' is that of the metric 'rouge'"),
        ({"fields": ("clip_score",)}, "its field 'clip_score' is that of a model's score"),
        ({"columns": ("cosine",)}, "its column 'cosine' is that of a model's score"),
        ({"fields": ("caption",)}, "its field 'caption' is that of the row itself"),
    ],
)
def test_two_of_one_name_are_refused(changes, said):
    check_distinct([*METRICS.values(), ROW], MODEL_SCORES)
    with pytest.raises(InputError, match=said):
        check_distinct([*METRICS.values(), replace(ROW, **changes)], MODEL_SCORES)
    with pytest.raises(InputError, match=said):
        find_metrics([replace(ROW, **changes)])


def test_a_metric_must_give_the_columns_that_it_declares():
    for given in ({}, {"Yours": np.zeros(4)}, {"Mine": np.zeros(4)}):  # the last without its statistic
        metric = replace(ROW, compute=lambda corpus, given=given: ReferenceScores(per_caption=dict(given)))
        with pytest.raises(InputError, match="gave the columns .*; it has declared Mine"):
            reference_scores(CAPTIONS, REFERENCES, IMAGES, [metric])


def test_names_are_found_in_the_order_of_the_table():
    assert [m.name for m in find_metrics()] == [m.name for m in METRICS.values() if m.default]
    assert [m.name for m in find_metrics(["cider", ROW, "BLEU", "bleu"])] == ["bleu", "cider", "mine"]
    assert find_metrics([]) == []
    assert row_fields([METRICS["bleu"], ROW])["BLEU-4"] == "bleu_4"
    with pytest.raises(
        InputError, match=f"unknown metric 'blue': choose from {', '.join(METRICS)}, or name your own"
    ):
        find_metrics(["blue"])


def test_what_a_metric_needs_is_said_before_any_work(monkeypatch):
    lacking = replace(ROW, needs=lambda: ("", ["Java: install it"]))
    with pytest.raises(InputError, match="Mine cannot run here: Java: install it"):
        find_metrics([lacking])
    assert find_metrics([replace(lacking, substitute=True)])


# ---------------------------------------------------------------- one way to compute
def test_scores_are_those_of_each_metric_alone():
    found = reference_scores(CAPTIONS, REFERENCES, IMAGES, ["bleu", "rouge", "cider"])
    words = tokenize_many(CAPTIONS)
    flat = iter(tokenize_many([r for group in REFERENCES for r in group]))
    references = [[next(flat) for _ in group] for group in REFERENCES]
    by_image = DocumentFrequencies.from_references([references[0], references[1], references[3]])
    expected = {f"BLEU-{n + 1}": row for n, row in enumerate(bleu(words, references).per_caption)}
    expected |= {"ROUGE-L": rouge_l(words, references).per_caption}
    expected |= {"CIDEr-D": cider(words, references, by_image).per_caption}
    assert list(found.per_caption) == list(found.statistics) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found.per_caption[name], values, err_msg=name)
    assert "only 3 images" in found.notes[0]
    same = word_scores(words, references, ["cider"], by_image)
    np.testing.assert_array_equal(same.per_caption["CIDEr-D"], expected["CIDEr-D"])


def test_n_grams_are_counted_once_and_only_for_those_who_ask(monkeypatch):
    passes = []
    blocks = registry.blocks
    monkeypatch.setattr(registry, "blocks", lambda *given: passes.append(1) or blocks(*given))
    reference_scores(CAPTIONS, REFERENCES, IMAGES, ["bleu", "rouge", "cider"])
    assert len(passes) == 1
    reference_scores(CAPTIONS, REFERENCES, IMAGES, ["meteor"])
    assert len(passes) == 1


def test_rouge_of_a_block_is_that_of_each_caption_alone():
    rng = np.random.default_rng(0)
    said = [[f"w{k}" for k in rng.integers(0, 9, rng.integers(0, 14))] for _ in range(300)]
    said[7] = [f"w{k % 50}" for k in range(64)]  # as long as an integer has bits
    said[8] = [f"w{k % 50}" for k in range(65)]
    said[9] = ["1\xa01/2", "w1"]  # one word for ROUGE, two for the others
    groups = [[said[j] for j in rng.integers(0, 300, rng.integers(1, 6))] for _ in said]
    groups[7], groups[8], groups[10] = [said[8], said[7]], [said[7]], [said[9], said[9]]
    scores = word_scores(said, groups, ["rouge"]).per_caption["ROUGE-L"]
    np.testing.assert_array_equal(scores, rouge_l(said, groups).per_caption)
    assert 0 < np.count_nonzero(scores) < 300


def test_document_frequencies_are_counted_only_for_cider(monkeypatch):
    def counted(*_):
        raise AssertionError("counted")

    monkeypatch.setattr(cider_module.DocumentFrequencies, "from_references", counted)
    reference_scores(CAPTIONS, REFERENCES, IMAGES, ["bleu", "rouge"])
    with pytest.raises(AssertionError, match="counted"):
        reference_scores(CAPTIONS, REFERENCES, IMAGES, ["cider"])


def test_human_judgements_take_rows_as_documents_and_captions_alone():
    follow = ["he takes vitamin C.", "A dog"]  # joined, the second says how the first ends
    references = [("vitamin C.",), ("a dog",)]
    request = ScoreRequest(["x", "x", "y"], [*follow, "alone"], [*references, ()])
    scores, notes = reference_columns(request, ["bleu", "cider"])
    assert list(scores) == ["BLEU-1", "BLEU-4", "CIDEr-D"]
    assert notes == []
    assert all(np.isnan(values[2]) and not np.isnan(values[:2]).any() for values in scores.values())
    words = tokenize_many(follow, joined=False)
    expected = cider(words, [tokenize_many(group, joined=False) for group in references])
    np.testing.assert_array_equal(scores["CIDEr-D"][:2], expected.per_caption)
    assert tokenize_many(follow) != words
    assert reference_columns(request.take([2]), ["bleu"]) == ({}, [])


# ---------------------------------------------------------------- a user's own, from outside the package
MODULE = '''
import numpy as np
from cliplet.evaluation.judgements import Rated, Ratings
from cliplet.metrics.registry import ReferenceMetric, ReferenceScores

def overlap(captions, references):
    """Share of the caption's words that some reference has."""
    found = []
    for caption, group in zip(captions, references):
        words, known = set(caption.split()), set(" ".join(group).split())
        found.append(len(words & known) / max(len(words), 1))
    return found

def lengths(corpus):
    found = ReferenceScores(notes=["lengths are no quality"])
    found.add("Words", np.array([len(words) for words in corpus.words], dtype=float))
    found.add("Letters", np.array([len(text) for text in corpus.captions], dtype=float))
    return found

shape = ReferenceMetric("shape", columns=("Words", "Letters"), fields=("words", "letters"), compute=lengths)

def bleu(captions, references):
    return [0.0] * len(captions)

def cosine(captions, references):
    return [0.0] * len(captions)

def short(captions, references):
    return [1.0]

def text(captions, references):
    return captions

def infinite(captions, references):
    return [float("inf")] * len(captions)

def one(captions, references):
    return 0.5

number = 3

def judged(data, references):
    rows = [line.split(",") for line in data.read_text().splitlines()]
    return Ratings([Rated(image, caption, (other,), (float(rating),)) for image, caption, other, rating in rows])

def nothing(data, references):
    return []
'''
JUDGED = """0.png,a dog runs,a brown dog runs,3
0.png,a cat,a brown dog runs,1
1.png,two men,two men talk,4
1.png,a red car,two men talk,1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a module, photos, captions of two captioners and judgements."""
    root = tmp_path_factory.mktemp("own")
    (root / "mine.py").write_text(MODULE)
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / "photos" / f"{i}.png")
    captions = {
        "a": {"0.png": "a dog runs", "1.png": "two men", "2.png": "a red car"},
        "b": {"0.png": "a cat", "1.png": "two men talk", "2.png": "a car"},
        "refs": {"0.png": ["a dog"], "1.png": ["two men talk"], "2.png": ["a car", "the red one"]},
    }
    for name, content in captions.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    (root / "judged.txt").write_text(JUDGED)
    build_tiny_model(root / "model")
    return root


def run(folder, *arguments, status=0):
    """The real command, in its own process, from the folder that holds the module."""
    command = [sys.executable, "-m", "cliplet", *map(str, arguments), "--model", "model"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


FILE = ("a.json", "--images", "photos", "--refs", "refs.json", "--metrics", "rouge,mine:overlap,mine:shape")


def test_own_metrics_in_score(folder):
    table = run(folder, "score", *FILE, "--out", "report")
    for name in ("ROUGE-L", "overlap", "Words", "Letters", "note: lengths are no quality"):
        assert name in table
    content = json.loads(run(folder, "score", *FILE, "--json"))
    assert [row["overlap"] for row in content["rows"]] == pytest.approx([2 / 3, 1, 1], abs=1e-6)
    assert [row["letters"] for row in content["rows"]] == [10, 7, 9]
    assert content["summary"]["metrics"]["overlap"]["mean"] == pytest.approx(8 / 9, abs=1e-6)
    assert list(content["summary"]["metrics"])[-4:] == ["ROUGE-L", "overlap", "Words", "Letters"]
    assert (folder / "report/rows.csv").read_text().splitlines()[0].endswith("truncated,reason,where")
    assert ",overlap,words,letters," in (folder / "report/rows.csv").read_text().splitlines()[0]
    assert "<td>overlap</td>" in (folder / "report/report.html").read_text()


def test_own_metrics_in_compare(folder):
    arguments = ["compare", "a.json", "b.json", *FILE[1:], "--resamples", 50]
    assert "overlap" in run(folder, *arguments)
    content = json.loads(run(folder, *arguments, "--json"))["summary"]
    assert content["metrics"]["overlap"]["a"]["value"] == pytest.approx(8 / 9)
    assert content["metrics"]["Words"]["b"]["value"] == pytest.approx(7 / 3)
    difference = next(d for d in content["differences"] if d["metric"] == "overlap")
    assert (difference["wins"], difference["losses"], difference["ties"]) == (1, 0, 2)


def test_own_metrics_and_benchmark_in_evaluate_human(folder):
    arguments = ["evaluate", "human", "mine:judged", "--data", "judged.txt", "--images", "photos"]
    arguments += ["--metrics", "bleu,mine:overlap", "--resamples", 20]
    assert "overlap" in run(folder, *arguments)
    content = json.loads(run(folder, *arguments, "--json"))
    found = {row["metric"]: row for row in content["results"]}
    assert {row["benchmark"] for row in content["results"]} == {"judged"}
    assert {"BLEU-1", "BLEU-4", "overlap", "CLIPScore"} <= set(found)
    assert found["overlap"]["statistic"] == "tau-c"
    assert found["overlap"]["value"] == pytest.approx(75)
    assert content["provenance"]["benchmarks"]["judged"]["files"] == ["judged.txt"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("mine:overlapp", "has no attribute 'overlapp'; it has overlap"),
        ("yours:overlap", "there is no module 'yours': install it, or run from the folder it is in"),
        (
            "mine:number",
            "is of type int: it must be a ReferenceMetric, or a function of captions and their references",
        ),
        ("mine:bleu", None),
        ("mine:cosine", "its column 'cosine' is that of a model's score already; give it another"),
        ("mine:short", "gave an array of shape (1,) for 3 captions: give 3 numbers"),
        ("mine:one", "the scores 'one' have the shape (): give one number a caption"),
        ("mine:text", "the scores 'text' are no numbers"),
        ("mine:infinite", "gave an infinite score; give NaN where there is none"),
        ("mine:overlap,mine:overlap", "its name 'mine:overlap' is that of the metric 'mine:overlap' already"),
        ("blue", "unknown metric 'blue': choose from bleu, rouge"),
    ],
)
def test_what_is_wrong_with_an_own_metric_is_said(folder, metric, said):
    arguments = ["score", *FILE[:-1], metric]
    if said is None:  # its name is mine:bleu and its column bleu, which nothing else has
        assert "bleu" in run(folder, *arguments)
        return
    error = run(folder, *arguments, status=2)
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("mine:number", "is of type int: it must be a Benchmark or a reader"),
        ("mine:nothing", "gave a list: it must read Ratings or Preferences"),
        ("mine:judge", "has no attribute 'judge'; it has judged"),
    ],
)
def test_what_is_wrong_with_an_own_benchmark_is_said(folder, benchmark, said):
    assert said in run(folder, "evaluate", "human", benchmark, "--data", "judged.txt", status=2)
