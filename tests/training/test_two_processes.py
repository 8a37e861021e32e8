"""A tuning run of two processes: every objective runs, each process has its own part, and both learn the same.

Where nothing is drawn that depends on the process, two processes of four photos each learn what one of eight does.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from cliplet.training.checkpoint import read_weights
from cliplet.training.objectives import OBJECTIVES
from tests.shared_data import ROOT
from tests.training import tuning

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
NOTHING_DRAWN = ("plain", "sr", "negclip", "triplet", "nclip", "sigmoid", "regions")
"""With one caption, one view and one kind of false photo a photo, nothing is drawn for these."""

PROGRAM = """
import os, sys
from pathlib import Path
from tests.training.test_two_processes import run_and_note
run_and_note(Path(sys.argv[1]), sys.argv[2:])
os._exit(0)  # an ordinary exit aborts now and then, in a thread of PyTorch's that is still running
"""


def run_and_note(recipe: Path, changes: list[str]) -> None:
    """Run a recipe; note what each step of this process saw and what the weights then were."""
    from cliplet.cli.main import cli
    from cliplet.models.compat import prepare_torchvision
    from cliplet.training import loop

    torch.set_num_threads(1)
    prepare_torchvision()
    step, rank = loop.train_step, os.environ.get("RANK", "0")
    kill = int(os.environ.get("KILL_AFTER", "-1"))
    notes = []

    def noted(accelerator, wrapped, *rest):
        if len(notes) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        found = step(accelerator, wrapped, *rest)
        batch = {k: _digest(v) for k, v in rest[2].items()}
        weights = {k: _digest(v) for k, v in wrapped.state_dict().items()}
        notes.append({"batch": batch, "weights": weights})
        return found

    loop.train_step = noted
    try:
        cli.main(["distill", str(recipe), *changes], standalone_mode=False)
    finally:
        loop.train_step = step
    recipe.with_name(f"notes-{rank}.json").write_text(json.dumps(notes))


def _digest(x: torch.Tensor) -> str:
    return hashlib.blake2b(x.detach().contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def launch(recipe: Path, *changes: str, processes: int = 2, **environment: str):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    program = recipe.with_name("program.py")
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}",
         str(program), str(recipe), *changes],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_every_objective_is_tried():
    assert set(tuning.WAYS) - {"plain"} == set(OBJECTIVES)


def test_every_objective_runs_in_two_processes(tmp_path):
    data = tuning.write_data(tmp_path / "data")
    recipe = tuning.write_recipe(data, tmp_path / "run")
    done = launch(recipe, "student_stage.epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all results") == 1  # one of them speaks
    assert done.stderr.count("triplet: 32") == 1
    one, two = (json.loads((tmp_path / f"notes-{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == len(two) == 2 * len(tuning.WAYS) + 3  # three are of un2clip's decoder
    students = [(a, b) for a, b in zip(one, two, strict=True) if "clean" not in a["batch"]]
    for a, b in zip(one, two, strict=True):
        assert a["weights"] == b["weights"]
    alike = {k for a, b in students for k in a["batch"] if a["batch"][k] == b["batch"].get(k)}
    # what does not tell photos apart may be the same in both
    assert alike <= {
        "negclip.has_text", "triplet.has_text", "triplet.has_image", "sclip.keyword_text_states", "regions.owner",
        "regions.there", "long_texts.places",
    }  # fmt: skip
    for way in tuning.WAYS:
        assert (tmp_path / "run" / f"{way}-seed0" / "model" / "model.safetensors").is_file()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_two_processes_learn_what_one_does_though_they_are_killed(tmp_path, monkeypatch):
    monkeypatch.setitem(
        tuning.WAYS, "triplet",
        'objectives.triplet={words = "all", fluent = false, photos = ["recolour"]}',
    )  # fmt: skip
    data = tuning.write_data(tmp_path / "data")
    captions = data / "captions.jsonl"
    captions.write_text("\n".join(x for x in captions.read_text().splitlines() if "on grey" in x) + "\n")
    recipe = tuning.write_recipe(data, tmp_path / "two", NOTHING_DRAWN)
    changes = ("augment.views=1",)
    assert launch(recipe, *changes, KILL_AFTER="19").returncode  # in the fifth, between two checkpoints
    assert (tmp_path / "two" / "nclip-seed0" / "checkpoint").is_dir()
    done = launch(recipe, *changes)
    assert done.returncode == 0, done.stderr[-3000:]
    run_and_note(recipe, [*changes, f"out={tmp_path}/one", "student_stage.batch_size=8"])
    base = read_weights(data / "base" / "model.safetensors")
    for way in NOTHING_DRAWN:
        two, one = (read_weights(tmp_path / n / f"{way}-seed0" / "best.safetensors") for n in ("two", "one"))
        moved = max(float((one[k] - base[k]).abs().max()) for k in one)
        apart = max(float((one[k] - two[k]).abs().max()) for k in one)
        assert moved > 1e-3, way
        assert apart < 0.02 * moved, way
