"""Metrics on references need no photos: no model is loaded, and every number is that of a run with photos."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
from cliplet.errors import InputError
from cliplet.scoring.compare import compare_files
from cliplet.scoring.diversity import caption_diversity
from cliplet.scoring.file import score_file
from cliplet.scoring.scorer import Scorer
from tests.test_import_light import RUN_CLI, modules_after
from tests.tiny_model import build_tiny_model

REFERENCES = {
    "photos/dog.jpg": ["a brown dog runs on the beach", "a dog is running"],
    "photos/cat.jpg": ["a cat sleeps on a red sofa", "a sleeping cat"],
    "photos/cow.jpg": ["a cow stands in the grass", "one cow on a green field"],
}
FIRST = [
    ("dog.jpg", "a dog runs on the beach"),
    ("./dog.jpg", "a brown dog"),  # the same image by another name
    ("cat.jpg", "a cat on a sofa"),
    ("cow.jpg", ""),
    ("hen.jpg", "a hen that has no references"),
]
SECOND = [("dog", "a red car"), ("cat.jpg", "a sleeping cat"), ("cow.jpg", "a cow in the grass")]
NAMES = "bleu,rouge,meteor,cider"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder: captions and references of images that are not here, and their photos elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for i, name in enumerate(("dog", "cat", "cow", "hen")):
        Image.new("RGB", (20, 20), (60 * i, 200, 90)).save(tmp_path / "elsewhere" / f"{name}.jpg")
    for name, rows in {"a": FIRST, "b": SECOND}.items():
        records = [{"image": image, "caption": caption} for image, caption in rows]
        (tmp_path / "work" / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "work" / "refs.json").write_text(json.dumps(REFERENCES))
    return tmp_path


def run(*arguments, status=0):
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    if isinstance(done.exception, InputError) and status == 2:  # cliplet.cli.main prints it
        return str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture
def model(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("model")))


def test_scores_equal_those_with_photos(here, model):
    alone = score_file("a.json", None, None, "refs.json")
    beside = score_file("a.json", here / "elsewhere", Scorer(model), "refs.json")
    assert list(alone.columns) == [name for name in beside.columns if name in alone.columns]
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D"} <= set(alone.columns)
    assert not {"CLIPScore", "cosine", "RefCLIPScore"} & set(alone.columns)
    for name, values in alone.columns.items():
        np.testing.assert_array_equal(values, beside.columns[name])
        assert alone.intervals[name] == beside.intervals[name]
    assert alone.provenance["model"] is None
    assert alone.summary().keys() == beside.summary().keys()
    assert [row["reason"] for row in alone.rows] == [
        None, None, None, beside.rows[3]["reason"], "no references were found for the image",
    ]  # fmt: skip
    fields = set(alone.rows[0])
    assert fields == set(beside.rows[0]) - {
        "clip_score", "cosine", "ref_clip_score", "ref_mix_score", "reference_cosine",
    }  # fmt: skip
    both = caption_diversity(alone, None), caption_diversity(beside, Scorer(model))
    assert "self-retrieval R@1" not in both[0]
    assert both[0] == {name: value for name, value in both[1].items() if name != "self-retrieval R@1"}


def test_comparisons_equal_those_with_photos(here, model):
    alone = compare_files(["a.json", "b.json"], None, None, "refs.json", resamples=200)
    beside = compare_files(
        ["a.json", "b.json"], here / "elsewhere", Scorer(model), "refs.json", resamples=200
    )
    assert alone.images == ["photos/dog.jpg", "photos/cat.jpg", "photos/cow.jpg"]
    assert alone.left_out == {"a": 0, "b": 0}
    assert not any("model's scores" in note for note in alone.notes)
    assert not any("self-retrieval R@1" in table.diversity for table in alone.tables)
    for name, intervals in alone.intervals.items():
        assert intervals == beside.intervals[name]
        np.testing.assert_array_equal(alone.per_image[name], beside.per_image[name])
    tests = {(d.metric): d.test for d in beside.differences}
    assert {d.metric: d.test for d in alone.differences} == {n: tests[n] for n in alone.intervals}


def test_commands_and_what_they_write(here):
    content = json.loads(
        run("score", "a.json", "--refs", "refs.json", "--metrics", NAMES, "--out", "out", "--json")
    )
    assert content["summary"]["metrics"].keys() >= {"BLEU-1", "ROUGE-L", "CIDEr-D"}
    assert content["summary"]["failed"] == 2
    assert content["summary"]["without_references"] == 1
    page = (here / "work" / "out" / "report.html").read_text()
    assert "No model" in page
    assert "CLIPScore" not in page
    assert "Highest BLEU-1" in page
    header = (here / "work" / "out" / "rows.csv").read_text().splitlines()[0]
    assert "clip_score" not in header
    assert "bleu_4" in header
    printed = run("score", "a.json", "--refs", "refs.json", "--metrics", NAMES, "--diversity")
    assert "no model was used" in printed
    assert "self-retrieval" not in printed
    run("score", "a.json", "--refs", "refs.json", "--metrics", NAMES, "--strict", status=1)
    files = ("compare", "a.json", "b.json", "--refs", "refs.json", "--resamples", "50")
    content = json.loads(run(*files, "--metrics", NAMES, "--out", "out2", "--json"))
    assert content["summary"]["metrics"].keys() >= {"BLEU-1", "ROUGE-L", "CIDEr-D"}
    assert "<td>CLIPScore" not in (here / "work" / "out2" / "report.html").read_text()
    assert "BLEU-4" in run(*files, "--metrics", NAMES)


def test_when_a_model_is_left_out(here, model):
    """Metrics are named, --images is not given and no photo is found; or --model none."""
    chosen = ("--refs", "refs.json", "--metrics", "bleu", "--json")
    photos = here / "elsewhere"

    def columns(*arguments):
        return set(json.loads(run("score", *arguments))["summary"]["metrics"])

    assert "CLIPScore" not in columns("a.json", *chosen)
    assert "CLIPScore" in columns("a.json", *chosen, "--images", photos, "--model", model)
    assert "CLIPScore" not in columns("a.json", *chosen, "--images", photos, "--model", "none")
    (photos / "a.json").write_text((here / "work" / "a.json").read_text())  # photos beside the captions
    assert "CLIPScore" not in columns(photos / "a.json", *chosen, "--model", "none")
    assert "--model none" in run(
        "score", "a.json", "--refs", "refs.json", status=2
    )  # nothing named: photos forgotten
    assert "none of the" in run("score", "a.json", *chosen, "--model", model, status=2)
    assert "--refs" in run("score", "a.json", "--metrics", "bleu", status=2)
    assert "metrics on references" in run("score", "a.json", "--model", "none", status=2)
    assert "captions file" in run("score", photos / "dog.jpg", "a dog", "--model", "none", status=2)
    with pytest.raises(InputError, match="metrics on references"):
        score_file("a.json", None, None, "refs.json", metrics=[])


def test_photos_beside_the_captions_are_scored_as_before(here, model, monkeypatch):
    """What --metrics did until now: it adds to CLIPScore where photos are found."""
    import cliplet.cli.score as command

    photos = here / "elsewhere"
    (photos / "a.json").write_text((here / "work" / "a.json").read_text())
    monkeypatch.setattr(command, "build_scorer", lambda *_: Scorer(model))
    output = run("score", photos / "a.json", "--refs", "refs.json", "--metrics", "bleu", "--json")
    assert "CLIPScore" in json.loads(output)["summary"]["metrics"]


@pytest.mark.parametrize("command", [["score", "a.json"], ["compare", "a.json", "b.json"]])
def test_no_model_library_is_imported(here, command):
    found = modules_after(RUN_CLI, *command, "--refs", "refs.json", "--metrics", NAMES)
    assert not found & {"onnxruntime", "tokenizers", "torch"}


def test_references_inside_the_captions_file(here):
    records = [
        {"image": f"{i}.jpg", "caption": "a dog", "references": ["a dog runs", "dogs"]} for i in range(3)
    ]
    (here / "work" / "own.json").write_text(json.dumps(records))
    content = json.loads(run("score", "own.json", "--metrics", "rouge", "--json"))
    assert content["summary"]["metrics"]["ROUGE-L"]["n"] == 3


def test_the_process_ends_well(here):
    call = [sys.executable, "-m", "cliplet", "score", "a.json", "--refs", "refs.json", "--metrics", "rouge"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ROUGE-L" in done.stdout
