"""State of a run as safetensors and JSON: written whole or not at all, never a pickle."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.errors import ModelError
from cliplet.models.tensors import unwritable, write_tensors
from cliplet.training.task import MovingAverage

FOLDER = "checkpoint"


def save_checkpoint(
    out: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: dict[str, Any],
) -> None:
    """Replace the run's checkpoint.

    Args:
        out: the run's folder.
        task: module whose whole state is kept.
        optimizer: its state is kept.
        average: its state is kept.
        progress: JSON values: where the run stands.

    Raises:
        InputError: the disk is full; the checkpoint before stays.
    """
    tensors = {f"student.{k}": v for k, v in task.state_dict().items()}
    numbers: dict[str, float] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    if average is not None:
        tensors |= {f"average.{k}": v for k, v in average.state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    content = {**progress, "optimizer": numbers, "average_updates": average.updates if average else 0}
    part, final = out / (FOLDER + ".part"), out / FOLDER
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_tensors(tensors, part / "state.safetensors")
    try:
        (part / "state.json").write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise unwritable(part / "state.json", error) from error
    old = out / (FOLDER + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(part, final)
    shutil.rmtree(old, ignore_errors=True)


def _folder(out: Path) -> Path | None:
    """The newest whole checkpoint: a kill between the two renames leaves only the old one."""
    for name in (FOLDER, FOLDER + ".old"):
        if (out / name / "state.json").is_file():
            return out / name
    return None


def read_progress(out: Path) -> dict[str, Any] | None:
    """Where the run stands, or None before its first checkpoint.

    Raises:
        ModelError: the checkpoint is damaged.
    """
    folder = _folder(out)
    if folder is None:
        return None
    try:
        progress: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for name in ("stage", "epoch", "batch", "step"):
            if not isinstance(progress.get(name, 0), int):
                raise ValueError(f"{name} is {progress[name]!r}")
        return {**progress}
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise _damaged(folder / "state.json", error) from error


def _damaged(file: Path, error: Exception) -> ModelError:
    """One line about a file or folder of a run."""
    text = " ".join(str(error).split())
    return ModelError(f"{file} is damaged or of another recipe ({text}); begin anew with --restart")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of a run.

    Raises:
        ModelError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def load_checkpoint(
    out: Path, task: nn.Module, optimizer: torch.optim.Optimizer | None, average: MovingAverage | None
) -> dict[str, Any]:
    """Bring back what :func:`save_checkpoint` kept, and return its progress.

    Raises:
        ModelError: the checkpoint is damaged, or does not fit.
    """
    folder, progress = _folder(out), read_progress(out)
    assert folder is not None
    assert progress is not None
    tensors = read_weights(folder / "state.safetensors")
    try:
        _restore(tensors, progress, task, optimizer, average)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(folder, error) from error
    return progress


def _restore(
    tensors: dict[str, Tensor], progress: dict[str, Any], task: nn.Module, optimizer: Any,
    average: MovingAverage | None,
) -> None:  # fmt: skip
    """Put a checkpoint's tensors in their places."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    task.load_state_dict(part("student."))
    if average is not None:
        average.updates = progress["average_updates"]
        # "/": in checkpoints of DCLIP's students until 0.1
        known = {k.replace("/", "."): v for k, v in part("average.").items()}
        for name, value in average.state.items():
            value.copy_(known[name])
    if optimizer is not None:
        states: dict[int, dict[str, Any]] = {}
        values: dict[str, Any] = {**part("optimizer."), **progress["optimizer"]}
        for name, value in values.items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
