"""``cliplet classify`` as people call it."""

import csv
import json
import sys

import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from tests.evaluation.colours import ColourEncoder, write_photos

MODEL = ("--model", f"{__name__}:colour_encoder")


def colour_encoder():
    return ColourEncoder()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    sys.modules.setdefault(__name__, sys.modules[__name__])
    write_photos(tmp_path / "photos", {"a.jpg": "red", "b.jpg": "green", "c.jpg": "blue"})
    write_photos(tmp_path / "shots", {f"{c}/{i}.jpg": c for c in ("red", "green", "blue") for i in range(2)})
    (tmp_path / "labels.txt").write_text("red, crimson\ngreen\nblue\nRed\n")
    return tmp_path


def run(*arguments, status=0):
    done = CliRunner().invoke(cli, ["classify", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.output


def test_json_and_files(place):
    found = json.loads(
        run("photos", "--labels", "labels.txt", "--json", "--out", "out", "--top", "2", *MODEL)
    )
    assert [row["label"] for row in found["rows"]] == ["red", "green", "blue"]
    assert all(len(row["top"]) == 2 for row in found["rows"])
    assert found["summary"]["confidence"] == "uncalibrated"
    assert any("stands there twice" in note for note in found["notes"])
    with (place / "out" / "rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["red", "green", "blue"]
    assert rows[0]["top 1"] == "red"
    page = (place / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 3
    assert "uncalibrated" in page
    assert json.loads((place / "out" / "summary.json").read_text())["provenance"]["model"] == "colours"


def test_bad_photos_are_fatal_with_strict_alone(place):
    (place / "photos" / "z.jpg").write_bytes(b"nothing")
    assert "1 failed" in run("photos", "--labels", "labels.txt", *MODEL)
    assert "z.jpg" in run("photos", "--labels", "labels.txt", "--strict", *MODEL, status=1)


def test_shots_calibration_save_and_use_again(place):
    said = run(
        "photos", "--shots", "shots", "--held-out", "shots", "--save", "mine", "--none-of-these", *MODEL
    )
    assert "confidence calibrated" in said
    assert "saved: mine" in said
    again = json.loads(run("photos", "--labels", "mine", "--json", *MODEL))
    assert [row["label"] for row in again["rows"]] == ["red", "green", "blue"]
    assert again["summary"]["confidence"] == "calibrated"
    run("photos", "--labels", "mine", "--texts", "t.json", *MODEL, status=2)


def test_texts_captions_and_several(place):
    (place / "texts.json").write_text(json.dumps({"red": {"attributes": ["red paint"]}}))
    (place / "captions.json").write_text(json.dumps({"x.jpg": ["the blue sea", "red and green"]}))
    more = ("--texts", "texts.json", "--captions", "captions.json", "--unlabelled", "photos", "--several")
    found = json.loads(run("photos", "--labels", "labels.txt", *more, "--json", *MODEL))
    assert "captions name 1 of 3 classes" in found["notes"]
    assert [row["label"].split(" | ")[0] for row in found["rows"]] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("photos",), 2), (("photos", "--labels", "labels.txt", "--adapter", "mean"), 2),
     (("photos", "--labels", "labels.txt", "--adapter", "svm"), 2)],
)  # fmt: skip
def test_what_cannot_be_asked(place, arguments, status):
    run(*arguments, *MODEL, status=status)


@pytest.mark.parametrize("option", ["--several", "--none-of-these"])
def test_a_cut_that_nothing_fits_is_refused_before_work(place, option):
    said = run("photos", "--shots", "gone", option, "--save", "mine", *MODEL, status=2)
    assert f"{option} with --shots needs --held-out" in said
    assert not (place / "mine").exists()


def test_a_synonym_of_two_classes_in_texts_is_left_out_and_said(place):
    (place / "t.json").write_text('{"green": {"synonyms": ["crimson"]}}')
    said = run("photos", "--labels", "labels.txt", "--texts", "t.json", *MODEL)
    assert "'green': the synonym 'crimson' is also said of another class; left out" in said


@pytest.mark.parametrize("option", ["--shots", "--held-out"])
def test_labelled_rows_that_are_left_out_are_said(place, option):
    rows = [f"shots/{c}/{i}.jpg,{c}" for c in ("red", "green", "blue") for i in range(2)]
    (place / "table.csv").write_text("\n".join(["image,label", *rows, "shots/red/0.jpg,", ""]))
    said = run("photos", "--labels", "labels.txt", option, "table.csv", *MODEL)
    assert "note: table.csv: 1 rows left out, such as line 8: it names no class" in said
