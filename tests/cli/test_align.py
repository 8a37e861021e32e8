"""``cliplet align``: from a captions file to a model folder that ``score`` takes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.align import align
from cliplet.cli.main import cli
from cliplet.errors import InputError
from tests.encoders.test_aligned import photos_and_captions
from tests.tiny_model import build_tiny_model


@pytest.fixture
def data(tmp_path):
    """A tiny model, 30 photos, and their captions, one of which has no photo."""
    build_tiny_model(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    photos, captions = photos_and_captions(30)
    for i, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "4.png").write_bytes(b"broken")
    content = {f"{i}.png": [caption, f"{caption} and grass"] for i, caption in enumerate(captions)}
    (tmp_path / "captions.json").write_text(json.dumps({**content, "none.png": ["a dog"]}))
    return tmp_path


def call(data, *more):
    arguments = [data / "tiny", "--captions", data / "captions.json", "--images", data / "photos"]
    return CliRunner().invoke(align, [str(a) for a in [*arguments, *more]], catch_exceptions=False)


def test_a_folder_comes_out_that_scores(data):
    done = call(data, "--out", data / "new", "--method", "ridge", "--name", "mine")
    assert done.exit_code == 0, done.output
    assert "ridge on 29 photos and 58 captions" in done.output
    assert "before" in done.output
    assert "2 photos were left out" in done.output
    score = ["score", str(data / "photos" / "0.png"), "a dog", "--model", str(data / "new"), "--json"]
    scored = CliRunner().invoke(cli, score, catch_exceptions=False)
    facts = json.loads(scored.output)["provenance"]
    assert facts["model"] == "mine"
    assert facts["alignment"] == {"method": "ridge", "photos": 29, "captions": 58}


def test_json_and_strict(data):
    done = call(data, "--out", data / "new", "--json", "--limit", 20, "--strict")
    facts = json.loads(done.stdout)
    assert (facts["photos"], facts["method"]) == (19, "procrustes")
    assert set(facts["failures"]) == {"none.png", "4.png"}
    assert facts["folder_largest_difference"]["image"] < 1e-5
    assert done.exit_code == 1


def test_errors_come_before_the_work(data):
    (data / "full").mkdir()
    (data / "full" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not a model folder"):
        call(data, "--out", data / "full")
    assert call(data, "--out", data / "new", "--method", "magic").exit_code == 2
    (data / "none.json").write_text(json.dumps({"none.png": "a dog"}))
    with pytest.raises(InputError, match="no caption of .* has a photo"):
        call(data, "--out", data / "new", "--captions", data / "none.json")


def test_scores_with_references_have_both_columns(data):
    call(data, "--out", data / "new")
    first = {f"{i}.png": "a dog" for i in range(3)}
    (data / "said.json").write_text(json.dumps(first))
    arguments = ["score", data / "said.json", "--images", data / "photos", "--refs", data / "captions.json",
                 "--metrics", "none", "--model", data / "new", "--out", data / "report"]  # fmt: skip
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (data / "report" / "rows.jsonl").read_text().splitlines()]
    assert {"a_clip_score", "ref_a_clip_score"} <= set(rows[0])
    assert np.isfinite(rows[0]["a_clip_score"])


def test_one_photo_shows_its_a_clip_score_too(data):
    call(data, "--out", data / "new")
    arguments = ["score", data / "photos" / "0.png", "a dog", "--model", data / "new"]
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    head, row = done.stdout.splitlines()[:2]
    assert head.split() == ["CLIPScore", "aCLIPScore", "caption"]
    assert head.index("caption") == row.index("a dog")
    found = json.loads(CliRunner().invoke(cli, [*(str(a) for a in arguments), "--json"]).stdout)["rows"][0]
    assert found["a_clip_score"] == max(found["cosine"], 0)
