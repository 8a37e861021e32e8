"""What a recipe will cost, for ``--dry-run``: rows on data, multiply-adds, seconds of a few timed steps, memory."""

import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from cliplet.training.config import Schedule
from cliplet.training.logs import duration
from cliplet.training.loop import Batches, make_optimizer, train_step
from cliplet.training.pairs import PairSet
from cliplet.training.task import MovingAverage, Task

Rows = list[tuple[str, str]]
"""A table of two columns: what, and how much."""
TIMED_STEPS = 3


def pairs_row(name: str, pairs: PairSet) -> tuple[str, str]:
    """How much data there is."""
    left_out = f", {len(pairs.skipped):,} left out ({pairs.skipped[0]})" if pairs.skipped else ""
    return name, f"{len(pairs.photos):,} photos, {len(pairs.captions):,} captions{left_out}"


def multiply_adds(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-adds of matrix products and convolutions in one call (half of PyTorch's count of operations)."""
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    module.train(training)
    return counter.get_total_flops() // 2


def seconds_a_step(accelerator: Any, task: Task, stage: Schedule, data: Batches) -> float:
    """Seconds of one batch: the median of a few, the first left out. The task learns from them.

    Args:
        accelerator: of Accelerate.
        task: after :meth:`~cliplet.training.task.Task.begin`.
        stage: how.
        data: its batches.
    """
    a = accelerator
    wrapped, optimizer = a.prepare(task, make_optimizer(task, stage))
    average = MovingAverage(task, stage.ema) if stage.ema else None
    times, began = [], time.perf_counter()
    for step, batch in enumerate(data.load(0, 0)):
        train_step(a, wrapped, optimizer, stage, batch, stage.lr, 1, True)
        if average is not None:
            average.update()
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        if step == TIMED_STEPS:
            break
    a.unwrap_model(wrapped, keep_fp32_wrapper=False)
    a.free_memory()
    return float(np.median(times[1:] or times))


def steps_text(stage: Schedule, batches: int, seconds: float) -> str:
    """Steps of a stage and their time."""
    steps = stage.epochs * batches
    return (
        f"{steps:,} steps of {stage.batch_size} ({stage.epochs} epochs), {seconds:.3f} s each: "
        f"{duration(seconds * steps)}"
    )


def memory_row(accelerator: Any) -> tuple[str, str]:
    """The most memory taken so far."""
    a = accelerator
    if torch.cuda.is_available() and a.device.type == "cuda":
        return "memory of the accelerator", f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB at most"
    try:
        import resource
    except ImportError:  # Windows
        return "memory of this process", "not measured on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return "memory of this process", f"{peak / 2**20:,.0f} MiB at most, PyTorch included"
