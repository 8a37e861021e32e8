"""A run that is killed and started again ends as one that was never killed, to the last bit: every driver of training.

To add a driver is one row of ``DRIVERS``.
"""

import json
import os
import signal
import subprocess
import sys
import time
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
    """The process is killed as soon as the run's logs have so many training lines, one start after the other."""
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


DRIVERS = {
    # in stage 2, which has a moving average, and in stage 3, which accumulates gradients
    "distill": Driver(_distill_data, _distill, (10, 24), kept="teacher"),
    # in both kinds of stage
    "captioner": Driver(_captioner_data, _captioner, (6, 13), kept="image grids"),
}

PROGRAM = """
import sys, time
from pathlib import Path
from cliplet.models.compat import prepare_torchvision
from cliplet.training import loop
from tests.training.test_resume import DRIVERS
step = loop.train_step
def slow(*arguments):
    time.sleep(0.05)
    return step(*arguments)
loop.train_step = slow
prepare_torchvision()
DRIVERS[sys.argv[1]].run(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def logs(out: Path) -> list[Path]:
    """The logs of a run, while other files come and go."""
    return sorted(Path(folder) / "log.jsonl" for folder, _, files in os.walk(out) if "log.jsonl" in files)


def lines(out: Path) -> dict[str, list[dict]]:
    """All logs of a run, without times."""
    found = {}
    for file in logs(out):
        content = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(out))] = [{k: v for k, v in c.items() if k != "seconds"} for c in content]
    return found


def training_lines(out: Path) -> int:
    return sum(file.read_text().count('"kind": "train"') for file in logs(out))


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
    for count in driver.kills:
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while training_lines(cut) < count and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert training_lines(cut) >= count
        assert any(cut.rglob("checkpoint*"))
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert not driver.kept or driver.kept not in done.stderr
    assert lines(cut) == lines(whole)
    ours, theirs = weights(cut), weights(whole)
    assert len(theirs) > 1
    assert ours.keys() == theirs.keys()
    assert [file for file in theirs if ours[file] != theirs[file]] == []
