"""``cliplet score`` as its user runs it: outputs, exit statuses, bad input, interruption."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.metrics.meteor import Meteor, check_meteor
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(
            folder / f"{i}.jpg", quality=95
        )
    return folder


def run(*arguments, status=0, cwd=None):
    """Run the real command in its own process; returns (stdout, stderr)."""
    command = [sys.executable, "-m", "cliplet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_one_image_ranks_its_captions(model, photos):
    captions = ["a dog", "two cat", "a red car on the beach"]
    out, _ = run("score", photos / "0.jpg", *captions, "--model", model)
    lines = out.splitlines()
    assert lines[0].split() == ["CLIPScore", "caption"]
    encoder = OnnxEncoder(model)
    cosine = encoder.encode_texts(captions) @ encoder.encode_images([photos / "0.jpg"])[0]
    expected = [
        f"{2.5 * max(c, 0):9.3f}  {t}" for c, t in sorted(zip(cosine, captions, strict=True), reverse=True)
    ]
    assert lines[1:] == expected


def test_json_is_one_object_and_nothing_else(model, photos):
    out, err = run("score", photos / "0.jpg", "a dog", "", "--model", model, "--json")
    content = json.loads(out)
    assert set(content) == {"summary", "rows", "provenance"}
    assert [r["reason"] for r in content["rows"]] == [None, "the caption is empty"]
    assert content["rows"][1]["score"] is None
    assert content["provenance"]["preset"] == "paper"
    assert len(content["provenance"]["fingerprint"]) == 16
    assert err == ""


def test_a_file_gives_a_table_and_all_outputs(model, photos, tmp_path):
    captions = write(
        tmp_path / "c.json", {"0.jpg": ["a dog", "a <b>cat</b>"], "1": "a man", "9.jpg": "lost", "2.jpg": 5}
    )
    refs = write(tmp_path / "r.json", {"0.jpg": ["a red dog"], "1.jpg": ["a woman", "a man"]})
    if not check_meteor():
        Meteor()  # the first use of its tables on a machine says so on standard error
    out, err = run(
        "score", captions, "--images", photos, "--refs", refs, "--model", model, "--out", tmp_path / "o"
    )
    assert "failed: 2 of 5" in out
    assert "there is no photo '9.jpg'" in out
    assert "photos without a caption: 3 (3.jpg, 4.jpg, 5.jpg" in out
    assert err == "", "no progress bar when piped"
    rows = [json.loads(line) for line in (tmp_path / "o/rows.jsonl").read_text().splitlines()]
    assert [r["image"] for r in rows] == ["0.jpg", "0.jpg", "1", "9.jpg", "2.jpg"]
    assert [r["reason"] is None for r in rows] == [True, True, True, False, False]
    assert rows[4]["reason"] == "the caption is not a string but 5"
    assert all(
        isinstance(rows[i][f], float)
        for i in range(3)
        for f in ("clip_score", "ref_clip_score", "ref_mix_score")
    )
    with (tmp_path / "o/rows.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [t["clip_score"] for t in table[:3]] == [str(r["clip_score"]) for r in rows[:3]]
    assert table[3]["clip_score"] == ""
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert summary["summary"]["failed"] == 2
    assert summary["images_without_caption"] == ["3.jpg", "4.jpg", "5.jpg"]
    mean = summary["summary"]["metrics"]["CLIPScore"]
    assert mean["mean"] == pytest.approx(np.mean([r["clip_score"] for r in rows[:3]]), abs=1e-5)
    assert mean["low"] <= mean["mean"] <= mean["high"]
    page = (tmp_path / "o/report.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page
    assert "<b>cat" not in page
    assert page.count("data:image/jpeg;base64,") >= 3
    assert not list((tmp_path / "o").glob(".*")), "no temporary file is left"


def test_json_of_a_file_holds_every_row(model, photos, tmp_path):
    captions = write(
        tmp_path / "c.jsonl", '{"image": "0.jpg", "caption": "a dog"}\n{"image": "x", "caption": "a"}\n'
    )
    content = json.loads(run("score", captions, "--images", photos, "--model", model, "--json")[0])
    assert content["summary"]["captions"] == 2
    assert content["summary"]["failed"] == 1
    assert [r["where"] for r in content["rows"]] == ["line 1", "line 2"]
    assert content["provenance"]["rows"] == 2


def test_exit_statuses(model, photos, tmp_path):
    good = write(tmp_path / "good.json", {"0.jpg": "a dog"})
    bad = write(tmp_path / "bad.json", {"0.jpg": "a dog", "1.jpg": ""})
    run("score", good, "--images", photos, "--model", model, "--strict")
    run("score", bad, "--images", photos, "--model", model)
    run("score", bad, "--images", photos, "--model", model, "--strict", status=1)
    assert "no such option" in run("score", good, "--colour", status=2)[1].lower()


USAGE = [
    (["none.jpg", "a dog"], "none.jpg: there is no such file"),
    (["photos/0.jpg"], "give it a caption too"),
    (["captions.docx"], "captions.docx: there is no such file"),
    (["none.json"], "none.json: there is no such file"),
    (["broken.json"], "not valid JSON.*line 1 column 11"),
    (["good.json", "--images", "nowhere"], "nowhere does not exist"),
    (["good.json", "--images", "photos", "--refs", "none.json"], "none.json: there is no such file"),
    (["good.json", "--images", "photos", "--out", "good.json"], "is a file, not a folder"),
    (["good.json", "--images", "photos", "--out", "/proc/cliplet"], "cannot be written"),
    (["good.json", "--images", "photos", "--model", "no-such-model"], "no model 'no-such-model'"),
    (["elsewhere.json", "--images", "photos"], "none of the 2 images was found"),
    (["photos/0.jpg", "a dog", "--images", "photos"], "--images is for a captions file"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_usage_errors_say_what_to_do(model, photos, tmp_path, arguments, message):
    write(tmp_path / "good.json", {"0.jpg": "a dog"})
    write(tmp_path / "elsewhere.json", {"x.jpg": "a dog", "y.jpg": "a dog"})
    write(tmp_path / "broken.json", '{"0.jpg": "a dog')
    if "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    _, err = run("score", *arguments, status=2, cwd=tmp_path)
    assert re.search(message, err), err


def test_every_bad_photo_is_one_reported_row(model, photos, tmp_path):
    good = (photos / "0.jpg").read_bytes()
    (photos / "empty.jpg").touch()
    (photos / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (photos / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(500))
    (photos / "text.jpg").write_text("this is not a photo")
    Image.new("1", (60_000, 60_000)).save(photos / "bomb.png")
    names = [
        "0.jpg",
        "empty.jpg",
        "truncated.jpg",
        "corrupt.png",
        "text.jpg",
        "bomb.png",
        "missing.jpg",
        "1.jpg",
    ]
    captions = write(tmp_path / "c.json", dict.fromkeys(names, "a dog"))
    rows = json.loads(run("score", captions, "--images", photos, "--model", model, "--json")[0])["rows"]
    reasons = {r["image"]: r["reason"] for r in rows}
    assert reasons["0.jpg"] is None
    assert reasons["1.jpg"] is None
    for name, words in {
        "empty.jpg": "is empty (0 bytes)",
        "truncated.jpg": "truncated or corrupt",
        "text.jpg": "not an image of a known format",
        "bomb.png": "decompression bomb",
        "missing.jpg": "there is no photo",
    }.items():
        assert words in reasons[name]
    assert reasons["corrupt.png"]


def test_odd_captions_are_scored_or_reported(model, photos, tmp_path):
    odd = [
        "a dog\nruns",
        "a\tdog\x07\x1b[31m",
        "🐕‍🦺 dog",
        "",
        "   ",
        None,
        ["x"],
        "dog " * 3000,
        "\u202edog",
        "x" * 2000,
    ]
    lines = [json.dumps({"image": "0.jpg", "caption": c}) for c in odd]
    path = write(tmp_path / "c.jsonl", "\n".join(lines))
    with path.open("ab") as stream:
        stream.write(b'\n{"image": "1.jpg", "caption": "caf\xe9"}\n')
    out, _ = run("score", path, "--images", photos, "--model", model, "--out", tmp_path / "o")
    rows = [json.loads(line) for line in (tmp_path / "o/rows.jsonl").read_text().splitlines()]
    assert [r["reason"] for r in rows] == [
        None,
        None,
        None,
        "the caption is empty",
        "the caption is empty",
        "the caption is not a string but None",
        None,
        None,
        None,
        None,
        "the caption is not valid UTF-8",
    ]
    assert rows[7]["truncated"]
    assert "were cut" in out
    assert "\x1b[31m" not in out


def test_webdataset_tar_needs_no_images_option(model, photos, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i in range(3):
            tar.add(photos / f"{i}.jpg", f"{i:05d}.jpg")
            (tmp_path / "t").write_text("a dog")
            tar.add(tmp_path / "t", f"{i:05d}.txt")
    content = json.loads(run("score", tmp_path / "shard.tar", "--model", model, "--json")[0])
    assert content["summary"]["scored"] == 3


def test_paths_in_the_file_need_no_images_option(model, photos, tmp_path):
    names = {"photos/0.jpg": "a dog", str(photos / "1.jpg"): "a cat", "2.jpg": "a man"}
    captions = write(photos / "c.json", names)
    rows = json.loads(run("score", captions, "--model", model, "--json", cwd=tmp_path)[0])["rows"]
    assert [r["reason"] for r in rows] == [None, None, None]


def test_a_full_disk_leaves_no_half_file(model, photos, tmp_path):
    captions = write(tmp_path / "c.json", {f"{i % 6}.jpg": ["a dog"] * 200 for i in range(6)})

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (20_000, 20_000)
        )  # every larger file fails as on a full disk

    command = [
        sys.executable,
        "-m",
        "cliplet",
        "score",
        captions,
        "--images",
        photos,
        "--model",
        model,
        "--out",
    ]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "o")],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert done.returncode == 2
    assert "rows.jsonl cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "o").iterdir()) == []


def test_full_standard_output_is_an_error_not_a_traceback(model, photos):
    command = [sys.executable, "-m", "cliplet", "score", str(photos / "0.jpg"), "a dog", "--model", model]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interruption_leaves_old_outputs_whole_and_the_next_run_works(model, photos, tmp_path, how):
    out = tmp_path / "o"
    first = write(tmp_path / "first.json", {"0.jpg": "a dog"})
    run("score", first, "--images", photos, "--model", model, "--out", out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    rng = np.random.default_rng(0)
    big = tmp_path / "big"
    big.mkdir()
    pixels = rng.integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(big / "0.png")
    for i in range(1, 400):
        os.link(big / "0.png", big / f"{i}.png")
    captions = write(tmp_path / "many.json", {f"{i}.png": "a dog" for i in range(400)})
    cache = tmp_path / "cache"
    command = ["score", captions, "--images", big, "--model", model, "--out", out, "--cache-dir", cache]
    process = subprocess.Popen(
        [sys.executable, "-m", "cliplet", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job ignores it
    )
    while not (cache / "embeddings.sqlite").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None, "the run was meant to be long"
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    run("score", first, "--images", photos, "--model", model, "--out", out, "--cache-dir", cache)


def test_presets_and_names_in_the_output(model, photos, tmp_path):
    captions = write(tmp_path / "c.json", {"0.jpg": "a dog"})
    runner = CliRunner()
    for preset, column in (("paper", "CLIPScore"), ("torchmetrics", "100*cos"), ("cosine", "cosine")):
        result = runner.invoke(
            cli, ["score", str(captions), "--images", str(photos), "--model", model, "--preset", preset]
        )
        assert result.exit_code == 0, result.output
        assert column in result.output
        assert f"preset {preset}" in result.output
