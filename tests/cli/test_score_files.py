"""One file read the same by every command; references by any spelling; what is missing is said in time."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
from cliplet.errors import InputError
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with photos of three animals in ``photos``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, colour in {"dog": "red", "cat": "blue", "cow": "green"}.items():
        Image.new("RGB", (20, 20), colour).save(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path


@pytest.fixture
def score(model, here):
    def call(*arguments, status=0):
        done = CliRunner().invoke(cli, ["score", *map(str, arguments), "--model", model, "--json"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.output

    return call


LATIN_1 = b"image,caption,rating\ndog.jpg,a dog,4\ncat.jpg,a caf\xe9,2\ncow.jpg,a man,1\ncow.jpg,a beach,3\n"


def test_a_latin_1_cell_fails_its_row_everywhere(model, here, score):
    (here / "c.csv").write_bytes(LATIN_1)
    rows = score("c.csv", "--images", "photos")["rows"]
    assert [row["reason"] for row in rows] == [None, "the caption is not valid UTF-8", None, None]
    score("c.csv", "--images", "photos", "--strict", status=1)
    evaluations = (["retrieval", "c.csv"], ["human", "table", "--data", "c.csv"])
    for arguments in evaluations:
        command = ["evaluate", *arguments, "--images", "photos", "--model", model, "--draws", "0"]
        done = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        content = json.loads(done.stdout)
        assert "1 " in str(content["notes"])
        assert "line 3: the caption is not valid UTF-8" in str(content["notes"])
        assert content["results"][-1]["n"] == 3
        assert CliRunner().invoke(cli, [*command, "--strict"]).exit_code == 1


@pytest.mark.parametrize("name", ["c.token", "c.ndjson", "c.txt"])
def test_suffixes_that_only_one_reader_knew(model, here, score, name):
    records = [{"image": "dog.jpg", "caption": "a dog"}, {"image": "cat.jpg", "caption": "a cat"}]
    lines = map(json.dumps, records) if name == "c.ndjson" else ["dog.jpg#0\ta dog", "cat.jpg#0\ta cat"]
    (here / name).write_text("\n".join(lines))
    assert [row["caption"] for row in score(name, "--images", "photos")["rows"]] == ["a dog", "a cat"]
    command = [
        "evaluate",
        "retrieval",
        name,
        "--images",
        "photos",
        "--model",
        model,
        "--draws",
        "0",
        "--json",
    ]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert json.loads(done.stdout)["provenance"]["captions"] == 2
    assert CliRunner().invoke(cli, ["df", name, "out.df"], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize("spelling", ["DOG.JPG", "./dog.jpg", "photos\\dog.jpg", "x/Dog", "dog.jpeg", "dog"])
def test_references_are_found_as_photos_are(here, score, spelling):
    (here / "c.json").write_text(json.dumps({"dog.jpg": "a dog"}))
    (here / "r.json").write_text(json.dumps({spelling: ["a dog"], "other.jpg": ["no"]}))
    found = score("c.json", "--images", "photos", "--refs", "r.json", "--metrics", "rouge")
    assert found["rows"][0]["rouge_l"] == 1.0
    assert found["provenance"]["references"] == "r.json"


def test_references_of_coco_ids(here, score):
    (here / "photos" / "dog.jpg").rename(here / "photos" / "COCO_val2014_000000000042.jpg")
    images = [{"id": 42, "file_name": "000000000042.jpg"}]
    (here / "r.json").write_text(
        json.dumps({"images": images, "annotations": [{"id": 1, "image_id": 42, "caption": "a dog"}]})
    )
    for key in (42, "42", 42.0, "000000000042", "COCO_val2014_000000000042.jpg"):
        (here / "c.json").write_text(json.dumps([{"image_id": key, "caption": "a dog"}]))
        found = score("c.json", "--images", "photos", "--refs", "r.json", "--metrics", "rouge")
        assert found["rows"][0]["rouge_l"] == 1.0


def test_references_that_are_missing_are_counted_and_none_is_an_error(here, score):
    (here / "c.json").write_text(json.dumps({"dog.jpg": "a dog", "cat.jpg": "a cat"}))
    (here / "r.json").write_text(json.dumps({"dog.jpg": "a dog"}))
    arguments = ("c.json", "--images", "photos", "--refs", "r.json", "--metrics", "rouge")
    summary = score(*arguments)["summary"]
    assert summary["without_references"] == 1
    assert "1 of 2 captions have no references in r.json, such as cat.jpg" in summary["notes"]
    score(*arguments, "--strict", status=1)
    (here / "r.json").write_text(json.dumps({"cow.jpg": "a man"}))
    with pytest.raises(
        InputError, match=r"none of the 2 captions has a reference in r\.json.*'dog\.jpg'.*'cow\.jpg'"
    ):
        score(*arguments)
    (here / "r.json").write_text(json.dumps({"a/dog.jpg": "a dog", "b/dog.jpg": "a cat", "cat.jpg": "a cat"}))
    notes = score(*arguments)["summary"]["notes"]
    assert any("several images of r.json could be 'dog.jpg': a/dog.jpg, b/dog.jpg" in note for note in notes)


def test_references_in_the_captions_file_itself(here, score):
    lines = [
        "image,caption,references",
        "dog.jpg,a dog,a dog | a red dog",
        "cat.jpg,a cat,\"['a car', 'a man']\"",
    ]
    (here / "c.csv").write_text("\n".join(lines))
    found = score("c.csv", "--images", "photos", "--metrics", "rouge")
    assert [row["rouge_l"] for row in found["rows"]] == [1.0, 0.5]
    assert found["summary"]["references"] == "c.csv"
    assert "the references are those that c.csv itself has" in found["summary"]["notes"]
    (here / "r.json").write_text(json.dumps({"dog.jpg": "a man", "cat.jpg": "a cat"}))
    found = score("c.csv", "--images", "photos", "--refs", "r.json", "--metrics", "rouge")
    assert [row["rouge_l"] for row in found["rows"]] == [0.5, 1.0]
    assert "the captions file's own references are not used" in found["summary"]["notes"]
    found = score("r.json", "--images", "photos", "--refs", "c.csv", "--metrics", "rouge")
    assert [row["rouge_l"] for row in found["rows"]] == [0.5, 0.5], "references, not captions"


def test_other_columns_pass_through(here, score, model):
    (here / "c.jsonl").write_text(
        '{"image": "dog.jpg", "caption": "a dog", "split": "val", "cosine": 7}\n'
        '{"image": "cat.jpg", "caption": "a cat", "size": NaN, "boxes": [1]}\n'
    )
    rows = score("c.jsonl", "--images", "photos", "--out", "out")["rows"]
    assert rows[0]["split"] == "val"
    assert -1 <= rows[0]["cosine"] <= 1, "a score is never overwritten"
    assert (rows[1]["size"], "boxes" in rows[1]) == (None, False)
    header = (here / "out" / "rows.csv").read_text().splitlines()[0]
    assert header.endswith(",where,split,size")


def test_columns_can_be_named(here, score):
    (here / "c.csv").write_text("who;says\ndog.jpg;a dog, asleep\n")
    with pytest.raises(
        InputError, match=r"no image and no caption: found the fields who, says; .*--image-column"
    ):
        score("c.csv", "--images", "photos")
    options = ("--image-column", "who", "--caption-column", "says", "--separator", ";")
    assert score("c.csv", "--images", "photos", *options)["rows"][0]["caption"] == "a dog, asleep"


def test_a_folder_of_photos_with_texts(here, score):
    for name in ("dog", "cat"):
        (here / "photos" / f"{name}.txt").write_text(f"a {name}\n")
    found = score("photos")
    assert {row["image"]: row["caption"] for row in found["rows"]} == {"cat.jpg": "a cat", "dog.jpg": "a dog"}
    assert found["summary"]["images_without_caption"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("photos/dog.jpg", "photos/cat.jpg", "a cat"),
        ("photos/dog.jpg", "dog.txt"),
        ("photos/dog.jpg", "a dog", "none.png"),
    ],
)
def test_files_are_never_scored_as_captions(here, score, arguments):
    (here / "dog.txt").write_text("a dog")
    assert "is a file, not a caption" in score(*arguments, status=2)


def test_two_images_never_share_a_photo(here, score):
    (here / "c.json").write_text(
        json.dumps({"photos/dog.jpg": "a dog", "other/dog.jpg": "a cat", "cow.jpg": "a man"})
    )
    rows = score("c.json", "--images", "photos")["rows"]
    assert [row["reason"] is None for row in rows] == [False, False, True]
