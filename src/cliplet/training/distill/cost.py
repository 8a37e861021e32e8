"""What a recipe will cost: sizes, parameters, multiply-adds, memory, and time from a few timed steps."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cliplet.errors import InputError
from cliplet.models.dual import DualModel, count_parameters
from cliplet.training.config import DistillConfig
from cliplet.training.distill import Run
from cliplet.training.distill.batches import StageBatches, Targets
from cliplet.training.logs import duration
from cliplet.training.loop import make_optimizer, train_step
from cliplet.training.task import MovingAverage
from cliplet.training.views import photo_source

TIMED_STEPS = 3


def multiply_adds(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-adds of matrix products and convolutions in one call (half of PyTorch's count of operations)."""
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    module.train(training)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class TowerCost:
    """What one tower costs."""

    parameters: int
    """Stored parameters."""
    multiply_adds: int
    """For one photo, or one caption of ``tokens`` tokens."""
    tokens: int = 0
    """Tokens of the caption."""


def tower_costs(model: DualModel, tokens: int = 0) -> dict[str, TowerCost]:
    """Parameters and multiply-adds of both towers, for a photo and a caption.

    Args:
        model: the model.
        tokens: length of the caption; the context length when 0.
    """
    size = model.config.image.image_size
    length = tokens or model.config.text.context_length
    device = next(model.parameters()).device
    ids = torch.zeros(1, length, dtype=torch.long, device=device)
    pixels = torch.zeros(1, 3, size, size, device=device)
    return {
        "image": TowerCost(count_parameters(model.image), multiply_adds(model.image, pixels)),
        "text": TowerCost(
            count_parameters(model.text), multiply_adds(model.text, ids, torch.ones_like(ids)), length
        ),
    }


def dry_run(config: DistillConfig, teacher: Any = None) -> list[tuple[str, str]]:
    """Go through a recipe without training: read all data, load the teacher, time a few steps of each stage.

    Nothing is written but a tokeniser, in a temporary folder.

    Returns:
        Rows of a table: what, and how much.
    """
    import dataclasses
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = Run(dataclasses.replace(config, out=folder + "/run"), teacher)
        rows = [("teacher", f"{run.teacher.name}, {run.teacher.dim} dimensions")]
        rows += _data_rows(run) + _model_rows(run)
        seconds = 0.0
        for index in range(len(config.stages)):
            row, expected = _stage_row(run, index)
            rows.append(row)
            seconds += expected
        rows.append(_memory_row(run))
        once = _teacher_seconds(run)
        rows.append(("teacher's pass, once", duration(once)))
        rows.append(("time expected", f"{duration(once + seconds)}, without evaluation and export"))
        return rows


def _data_rows(run: Run) -> list[tuple[str, str]]:
    rows = []
    for index, pairs in run.pairs.items():
        left_out = f", {len(pairs.skipped)} left out ({pairs.skipped[0]})" if pairs.skipped else ""
        what = f"{len(pairs.photos)} photos, {len(pairs.captions)} captions{left_out}"
        rows.append((f"data of stage {run.config.stages[index].name}", what))
    if run.dev is not None:
        rows.append(("dev", f"{len(run.dev.photos)} photos, {len(run.dev.captions)} captions"))
    return rows


def _model_rows(run: Run) -> list[tuple[str, str]]:
    captions = [c for p in run.pairs.values() for c in p.captions[:1000]]
    lengths = [len(t) for t in run.encoder.tokenize(captions)[0]] if captions else [0]
    costs = tower_costs(run.student.model, int(np.ceil(np.mean(lengths))))
    total = sum(c.parameters for c in costs.values())
    rows = []
    for name, cost in costs.items():
        what = f"caption of {cost.tokens} tokens" if cost.tokens else "photo"
        rows.append(
            (
                f"{name} tower",
                f"{cost.parameters:,} parameters, {cost.multiply_adds / 1e9:.3f} G multiply-adds a {what}",
            )
        )
    sizes = ", ".join(f"{total * b / 1e6:.1f} MB {n}" for n, b in (("fp32", 4), ("fp16", 2), ("int8", 1)))
    return [*rows, ("both towers", f"{total:,} parameters: {sizes}")]


def _memory_row(run: Run) -> tuple[str, str]:
    """Measured at its highest, after the timed steps."""
    if torch.cuda.is_available() and run.accelerator.device.type == "cuda":
        return "memory of the accelerator", f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB at most"
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return "memory of this process", "not measured on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return "memory of this process", f"{peak / 2**20:,.0f} MiB at most, PyTorch and the teacher included"


def _stage_row(run: Run, index: int) -> tuple[tuple[str, str], float]:
    """A stage's steps and time, from a few steps with made-up teacher embeddings."""
    stage, pairs, config = run.config.stages[index], run.pairs[index], run.config
    rng = np.random.default_rng(0)

    def fake(n: int) -> Any:
        row = rng.standard_normal((1, run.teacher.dim), dtype=np.float32)
        return np.broadcast_to(row, (n, run.teacher.dim))  # no memory, however many

    views = [fake(len(pairs.photos)) for _ in range(config.augment.views)] if pairs.photos else []
    batches = StageBatches(
        stage, pairs, Targets(views, fake(len(pairs.captions))), run.encoder, config.augment, config.seed,
        run.accelerator.process_index, run.accelerator.num_processes, config.workers,
    )  # fmt: skip
    data = batches.data()
    run.student.begin(stage)
    wrapped, optimizer = run.accelerator.prepare(run.student, make_optimizer(run.student, stage))
    average = MovingAverage(run.student, stage.ema) if stage.ema else None
    times, began = [], time.perf_counter()
    for step, batch in enumerate(data.load(0, 0)):
        train_step(run.accelerator, wrapped, optimizer, stage, batch, stage.lr, 1, True)
        if average is not None:
            average.update()
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        if step == TIMED_STEPS:
            break
    run.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    run.accelerator.free_memory()
    each = float(np.median(times[1:] or times))
    steps = stage.epochs * data.batches
    text = f"{steps:,} steps of {stage.batch_size} ({stage.epochs} epochs), {each:.3f} s each: {duration(each * steps)}"
    return (f"stage {stage.name}", text), each * steps


def _teacher_seconds(run: Run) -> float:
    """Time for the teacher to embed everything once, from a sample of each set."""
    seconds = 0.0
    seen: set[str] = set()
    for index, pairs in run.pairs.items():
        stage = run.config.stages[index]
        key = repr(stage.data or run.config.train)
        if key in seen:
            continue
        seen.add(key)
        photos = [photo_source(p) for p in pairs.photos[:8]]
        if photos and (any("image" in s.towers or s.pairs for s in run.config.stages)):
            began = time.perf_counter()
            rows, reasons = run.teacher.images(photos)
            if np.isnan(rows[:, 0]).all():
                raise InputError(
                    f"the teacher can read none of the first photos: {next(iter(reasons.values()))}"
                )
            rate = (time.perf_counter() - began) / len(photos)
            seconds += rate * len(pairs.photos) * run.config.augment.views
        if captions := pairs.captions[:32]:
            began = time.perf_counter()
            run.teacher.texts(captions)
            seconds += (time.perf_counter() - began) / len(captions) * len(pairs.captions)
    return seconds
