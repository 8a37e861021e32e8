"""A tuning run that is killed right after a checkpoint ends as a whole one, to the last bit: with every objective."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_data import ROOT
from tests.training import tuning

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
STEPS = 8
"""Steps of a student; a checkpoint every second."""
CHANGES = ("student_stage.ema=0.9", "student_stage.accumulate=1")

PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cliplet.models.compat import prepare_torchvision
prepare_torchvision()
from tests.training.test_resume_objectives import train

def apart(*arguments):  # a process of its own that need not import anything
    child = os.fork()
    if not child:
        try:
            train(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]

root = Path(sys.argv[1])
for way, after in (a.split("=") for a in sys.argv[2:]):
    assert apart(root, way, "whole", -1) == 0, way
    assert apart(root, way, "cut", int(after)) == signal.SIGKILL, way
    assert list((root / way / "cut").rglob("checkpoint")), way
    assert apart(root, way, "cut", -1) == 0, way
"""


def train(root: Path, way: str, name: str, kill: int) -> None:
    """Train with an objective; the process kills itself when it begins the step after ``kill`` of them."""
    from cliplet.training import loop
    from cliplet.training.dclip.run import dclip

    step, left = loop.train_step, [kill]

    def counted(*arguments):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return step(*arguments)

    loop.train_step = counted
    features = f"features={root}/{way}/{name}-features"
    dclip(tuning.recipe(root / "data", root / way / name, way, features, *CHANGES))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    tuning.write_data(root / "data")
    for way in tuning.WAYS:
        (root / way).mkdir()
    # half way, which is a checkpoint's place; un2clip's decoder has three steps of its own before
    kills = [f"{way}={STEPS // 2 + (3 if way == 'un2clip' else 0)}" for way in tuning.WAYS]
    subprocess.run([sys.executable, "-c", PROGRAM, str(root), *kills], cwd=ROOT, check=True)
    return root


@pytest.mark.parametrize("way", tuning.WAYS)
def test_a_killed_run_ends_as_a_whole_one(runs, way):
    whole, cut = (runs / way / name / f"{way}-seed0" for name in ("whole", "cut"))
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (whole, cut)
    ]
    for log in logs:
        for line in log:
            line.pop("seconds", None)
    assert logs[0] == logs[1]
    assert logs[0][-1]["step"] == STEPS
    for file in ("best.safetensors", "model/model.safetensors"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


def test_a_run_from_before_a_setting_goes_on(tmp_path):
    from cliplet.training.dclip.finetuning import _complete, _trained_with

    config = tuning.recipe(tuning.write_data(tmp_path / "data", 4), tmp_path / "run", "negclip")
    now = json.loads(json.dumps(_trained_with(config)))
    before = json.loads(json.dumps(now))
    for table, name in (("student", "context_length"), ("student", "low_rank"), ("augment", "colour")):
        del before[table][name]
    del before["rewrites"]
    complete = json.loads(json.dumps(_complete(before)))
    assert complete == now
