"""A run that is killed and started again ends as one that was never killed, to the last bit: every driver of training.

To add a driver is one row of ``DRIVERS``.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shared_data import ROOT
from tests.training import make

pytestmark = pytest.mark.usefixtures("torchvision")


@dataclass(frozen=True)
class Driver:
    """One way to train."""

    prepare: Callable[[Path], None]
    """Makes the data in a folder."""
    run: Callable[[Path, Path], None]
    """Trains from the folder's data to a run's folder, or goes on."""
    kills: tuple[int, ...]
    """Steps after which the process is killed, one start after the other."""
    kept: str = ""
    """What the last start must not compute again: no progress line begins so."""


def _distill_data(folder: Path) -> None:
    make.model_folder(folder / "teacher", seed=3)
    make.dataset(folder / "data", count=48)
    make.dataset(folder / "dev", count=16, seed=1)


def _distill(folder: Path, out: Path) -> None:
    from cliplet.training.config import load_recipe
    from cliplet.training.distill import distill
    from tests.training.test_distill import RECIPE

    recipe = out.with_suffix(".toml")
    recipe.write_text(RECIPE.format(folder=folder))
    distill(load_recipe(recipe, [f"out={out}", "tensorboard=true"]))


def _captioner_data(folder: Path) -> None:
    make.dataset(folder / "data", count=16)


def _captioner(folder: Path, out: Path) -> None:
    from cliplet.training.captioner.train import train_captioner
    from tests.captioner import make as captioners

    stages = (
        captioners.cross_entropy(label_smoothing=0.1),
        captioners.self_critical(kl=0.1, ema=0.9, grid_dropout=0.2, temperature=0.7),
    )
    train_captioner(captioners.recipe(folder, stages, out=str(out)))


def _dclip_data(folder: Path) -> None:
    from tests.training.test_dclip import write_data

    write_data(folder)


def _dclip(folder: Path, out: Path) -> None:
    from cliplet.training.dclip.run import dclip
    from tests.training.test_dclip import recipe

    changes = ("save_every=1", 'student.train=["image.head.*", "text.head.*"]', "student_stage.ema=0.9",
               "student_stage.accumulate=1")  # fmt: skip
    dclip(recipe(folder, out, *changes))


def _lclip_data(folder: Path) -> None:
    make.dataset(folder / "data", count=16)
    make.dataset(folder / "dev", count=8, seed=1)


def _lclip(folder: Path, out: Path) -> None:
    """The packaged model's recipe with small stand-ins of its pretrained parts."""
    from cliplet.training.recipes import open_recipe
    from tests.training.parts import use_stand_ins

    changes = [f"out={out}", "data=.", "more_captions=[]", "detector=''", "detector_layers=[]", "first_stage=6",
               "first_block=0", "detector_inside=0", "near_names=0",
               'sentence_models=["minilm-l3"]', "ensemble=[0]", "space=24", "dim=12", "layers=[0]", "vocabulary=200",
               "rank=8", "augment.views=2", "anchoring=0.0", "text_stage.ema=0.9", "trunk=0", "processes=1",
               "bare.photos=[]", "short_texts=false", "soft=[0.25, 0.5]"]  # fmt: skip
    for name, place in (("train", "data"), ("dev", "dev")):
        files = {"captions": [f"{folder}/{place}/captions.jsonl"], "photos": [f"{folder}/{place}/photos"]}
        changes += [f"{name}.{key}={value}" for key, value in files.items()] + [f"{name}.names=''"]
    for stage in ("text_stage", "image_stage", "relu_stage"):
        changes += [f"{stage}.epochs=2", f"{stage}.batch_size=16", f"{stage}.lr=1e-3"]
    _, kind, settings = open_recipe(ROOT / "recipes" / "lclip_everyday", changes)
    with pytest.MonkeyPatch.context() as patch:
        use_stand_ins(patch, folder / "parts")
        patch.setattr("cliplet.export.export", lambda *_, **__: None)  # takes longer than all the rest
        kind.run(settings, False)


DRIVERS = {
    # in stage 2, which has a moving average, and in stage 3, which accumulates gradients
    "distill": Driver(_distill_data, _distill, (14, 12), kept="teacher"),
    # in both kinds of stage
    "captioner": Driver(_captioner_data, _captioner, (5, 8), kept="image grids"),
    # in the teacher and in the student
    "dclip": Driver(_dclip_data, _dclip, (2, 9), kept="token states"),
    # in the second of the image tower's trainings and in the text tower's
    "lclip": Driver(_lclip_data, _lclip, (3, 4), kept="maps"),
}

PROGRAM = """
import os, signal, sys
from pathlib import Path
from cliplet.models.compat import prepare_torchvision
from cliplet.training import loop
from tests.training.test_resume import DRIVERS
step, left = loop.train_step, [int(sys.argv[4])]
def counted(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
loop.train_step = counted
prepare_torchvision()
DRIVERS[sys.argv[1]].run(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def lines(out: Path) -> dict[str, list[dict]]:
    """All logs of a run, without times."""
    found = {}
    for file in sorted(out.rglob("log.jsonl")):
        content = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(out))] = [{k: v for k, v in c.items() if k != "seconds"} for c in content]
    return found


def weights(out: Path) -> dict[str, bytes]:
    files = [f for f in out.rglob("*.safetensors") if "checkpoint" not in f.parts]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
@pytest.mark.parametrize("name", DRIVERS)
def test_a_killed_run_ends_as_a_whole_one(name, tmp_path):
    driver, whole, cut = DRIVERS[name], tmp_path / "whole", tmp_path / "cut"
    driver.prepare(tmp_path)
    driver.run(tmp_path, whole)
    command = [sys.executable, "-c", PROGRAM, name, str(tmp_path), str(cut)]
    for steps in driver.kills:
        killed = subprocess.run([*command, str(steps)], cwd=ROOT, stderr=subprocess.DEVNULL)
        assert killed.returncode == -signal.SIGKILL
        assert list(cut.rglob("checkpoint"))
    done = subprocess.run([*command, "1000"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not driver.kept or driver.kept not in done.stderr
    assert lines(cut) == lines(whole)
    ours, theirs = weights(cut), weights(whole)
    assert len(theirs) > 1
    assert ours.keys() == theirs.keys()
    assert [file for file in theirs if ours[file] != theirs[file]] == []
