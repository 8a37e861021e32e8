"""Whole distillations on drawings: both stages, resume after a kill, several processes, the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.distill import distill as distill_command
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.training.config import load_recipe
from cliplet.training.distill import distill
from cliplet.training.logs import RunLog
from tests.training import make

RECIPE = """
name = "toy"
out = "{folder}/run"
cpu = true
tokenizer = "train"
tokenizer_size = 200
resize = "squash"
save_every = 3
export = "int8"

[model.image]
width = 32
heads = 4
blocks = 1
image_size = 32
patch_size = 8
embedding_dim = 16
[model.text]
width = 32
heads = 4
blocks = 1
context_length = 16
embedding_rank = 8
mask = "padding"
embedding_dim = 16

[teacher]
names = ["{folder}/teacher"]

[train]
captions = ["{folder}/data/captions.jsonl"]
photos = ["{folder}/data/photos"]
[dev]
captions = ["{folder}/dev/captions.jsonl"]
photos = ["{folder}/dev/photos"]
[augment]
views = 2

[[stages]]
name = "image"
towers = ["image"]
epochs = 2
batch_size = 16
lr = 5e-3
losses = {{l1 = 0.5, cosine = 0.5}}
[[stages]]
name = "text"
towers = ["text"]
epochs = 2
batch_size = 16
lr = 5e-3
ema = 0.9
losses = {{l1 = 0.5, cosine = 0.5}}
[[stages]]
name = "both"
epochs = 2
batch_size = 8
accumulate = 2
lr = 2e-3
losses = {{l1 = 0.1667, cosine = 0.1667, sr = 0.3333}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    make.model_folder(root / "teacher", seed=3)
    make.dataset(root / "data", count=48)
    make.dataset(root / "dev", count=16, seed=1)
    (root / "recipe.toml").write_text(RECIPE.format(folder=root))
    return root


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    """One uninterrupted run."""
    distill(load_recipe(folder / "recipe.toml", ["tensorboard=true"]))
    return folder / "run"


def log(run: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run: Path) -> list[tuple]:
    return [(line["step"], line["stage"], line["epoch"], line["loss"], line["lr"]) for line in log(run)]


def test_stages_steps_and_losses(finished):
    lines = log(finished)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    stages = [line["stage"] for line in lines]
    assert [stages.count(s) for s in ("image", "text", "both")] == [2 * 3, 2 * 6, 2 * 6]
    first, last = lines[0], lines[5]
    assert last["cosine"] < first["cosine"]
    assert first["loss"] == pytest.approx(0.5 * first["l1"] + 0.5 * first["cosine"])
    both = lines[-1]
    assert both["loss"] == pytest.approx(0.1667 * (both["l1"] + both["cosine"]) + 0.3333 * both["sr"])
    assert "grad_norm" in lines[0]
    # accumulation: an update every second batch
    assert ["grad_norm" in line for line in lines[-6:]] == [False, True] * 3


def test_dev_is_measured_and_the_student_learns(finished):
    dev = log(finished, "dev")
    assert len(dev) == 6
    by_stage = {s: [d for d in dev if d["stage"] == s] for s in ("image", "text", "both")}
    assert by_stage["image"][-1]["cos_image"] > by_stage["image"][0]["cos_image"] - 0.02
    assert by_stage["both"][-1]["cos_text"] > 0.5
    for line in by_stage["both"]:
        assert line["score"] == pytest.approx((line["image-to-text R@1"] + line["text-to-image R@1"]) / 2)


def test_the_model_folder_is_used_like_any_other(finished):
    encoder = load(finished / "model")
    assert encoder.card.name == "toy"
    assert encoder.card.training["photos"] == 48
    assert encoder.card.results["parity"]["real_photos"]
    torch_form = load(finished / "best")
    photos = [make.drawing("red", "bar", 5), make.drawing("blue", "frame", 6)]
    agreement = (encoder.encode_images(photos) * torch_form.encode_images(photos)).sum(axis=1)
    assert agreement.min() > 0.99
    assert (finished / "last" / "model.safetensors").is_file()
    assert list((finished / "tensorboard").iterdir())


def test_teacher_embeddings_are_memory_mapped_and_not_computed_again(finished, folder, monkeypatch):
    files = sorted((finished / "teacher").glob("*.npy"))
    assert len(files) == 5  # two views and the captions of train, photos and captions of dev
    assert not list((finished / "teacher").glob("*.part"))
    rows = np.load(next(f for f in files if f.name.startswith("images") and "whole" in f.name), mmap_mode="r")
    assert isinstance(rows, np.memmap)

    def forbidden(*_):
        raise AssertionError("the teacher was asked again")

    from cliplet.training.distill.teacher import Teacher

    monkeypatch.setattr(Teacher, "images", forbidden)
    changes = [f"out={folder}/again", f"teacher.cache={finished}/teacher", "stages.*.epochs=1", "export=none"]
    assert distill(load_recipe(folder / "recipe.toml", changes)) == folder / "again" / "best"


def test_two_processes_train_as_one(folder, tmp_path):
    changes = ["export=none", "augment.views=1", f"teacher.cache={tmp_path}/cache", "stages.*.epochs=1"]
    one = distill(load_recipe(folder / "recipe.toml", [*changes, f"out={tmp_path}/one"])).parent
    halves = ["stages.0.batch_size=8", "stages.1.batch_size=8", "stages.2.batch_size=4"]
    program = (
        "import sys; from cliplet.cli.distill import distill; distill(sys.argv[1:], standalone_mode=False)"
    )
    arguments = [str(folder / "recipe.toml"), *changes, *halves, f"out={tmp_path}/two"]
    environment = dict(
        os.environ, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29613", OMP_NUM_THREADS="1"
    )
    environment |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    ours, theirs = log(tmp_path / "two"), log(one)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3), a["step"]


def test_mixed_precision(finished, folder, tmp_path):
    changes = ["precision=bf16", "stages.*.epochs=1", "export=none", "workers=2"]
    changes += [f"out={tmp_path}/run", f"teacher.cache={finished}/teacher"]
    run = distill(load_recipe(folder / "recipe.toml", changes)).parent
    ours, theirs = log(run)[0]["loss"], log(finished)[0]["loss"]
    assert ours == pytest.approx(theirs, rel=0.02)
    assert ours != theirs
    assert json.loads((run / "recipe.json").read_text())["precision"] == "bf16"


def test_teacher_of_another_width(folder, tmp_path):
    changes = [f"out={tmp_path}/run", "export=none", "stages.*.epochs=1", f"teacher.cache={tmp_path}/cache"]
    several = [f'teacher.names=["{folder}/teacher", "{folder}/teacher"]']
    run = distill(load_recipe(folder / "recipe.toml", [*changes, *several])).parent
    assert log(run, "dev")[0]["cos_image"] < 1
    encoder = load(run / "best")
    assert encoder.card.embedding_dim == 16
    assert "small + small" in encoder.card.training["teacher"]


def test_bad_photos_and_captions_are_left_out_and_listed(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data" / "photos" / "000.png").write_bytes(b"not a photo")
    with (tmp_path / "data" / "captions.jsonl").open("a") as stream:
        stream.write('{"image": "nowhere.png", "caption": "a red bar"}\n{"image": "001.png", "caption": 7}\n')
    changes = [f"out={tmp_path}/run", f'train.captions=["{tmp_path}/data/captions.jsonl"]', "stages.*.epochs=1",
               f'train.photos=["{tmp_path}/data/photos"]', "export=none"]  # fmt: skip
    distill(load_recipe(folder / "recipe.toml", changes))
    skipped = (tmp_path / "run" / "skipped.txt").read_text()
    assert "000.png" in skipped
    assert "nowhere.png" in skipped
    assert "the caption is not a string but 7" in skipped
    assert len(skipped.splitlines()) == 3


def test_a_folder_with_another_run_is_refused(finished, folder):
    with pytest.raises(InputError, match=r"another recipe \(other: seed"):
        distill(load_recipe(folder / "recipe.toml", ["seed=1", "tensorboard=true"]))
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds no run"):
        distill(load_recipe(folder / "recipe.toml", [f"out={folder}/mine"]))


def test_dry_run(folder, tmp_path):
    result = CliRunner().invoke(
        distill_command,
        [str(folder / "recipe.toml"), f"out={tmp_path}/run", "--dry-run"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert not (tmp_path / "run").exists()
    text = " ".join(result.output.split())
    for expected in ("48 photos, 96 captions", "image tower", "multiply-adds a photo", "MB int8", "memory",
                     "stage both 12 steps of 8 (2 epochs)", "time expected"):  # fmt: skip
        assert expected in text


def test_log_drops_lines_after_the_checkpoint(tmp_path):
    first = RunLog(tmp_path, 0)
    for step in range(1, 6):
        first.write("train", step, {"loss": step / 7})
    first.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "st')  # killed while writing
    again = RunLog(tmp_path, 3)
    again.write("train", 4, {"loss": 1.0})
    again.close()
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4]
