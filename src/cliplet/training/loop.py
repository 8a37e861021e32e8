"""The one training loop: a stage on Accelerate, with exact resume."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from math import cos, pi
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cliplet.models.quick_products import fp32_products
from cliplet.training.checkpoint import load_checkpoint, save_checkpoint
from cliplet.training.config import Schedule
from cliplet.training.logs import Progress, RunLog
from cliplet.training.task import MovingAverage, Task

Evaluate = Callable[[], dict[str, float]]
"""Measures the task's current weights on dev: named numbers, the deciding one under ``score``."""
Batch = dict[str, Tensor]


@dataclass
class RunState:
    """Where a run stands; all of it is in every checkpoint."""

    stage: int = 0
    """Index of the stage."""
    epoch: int = 0
    """Epoch in the stage."""
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    """Batches done in all, over all stages."""
    best: float | None = None
    """Best dev score of the stage."""

    @classmethod
    def of(cls, progress: dict[str, Any] | None) -> "RunState":
        """From what a checkpoint says."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in (progress or {}).items() if k in names})


class Batches(Protocol):
    """Batches of a stage."""

    @property
    def batches(self) -> int:
        """Batches an epoch."""

    @property
    def load(self) -> Callable[[int, int], Iterable[Batch]]:
        """``load(epoch, first)`` iterates over the epoch's batches from number ``first`` on."""


@dataclass
class StageData:
    """Batches of a stage from a function."""

    batches: int
    """Batches an epoch."""
    load: Callable[[int, int], Iterable[Batch]]
    """As :attr:`Batches.load`."""


@dataclass
class Part:
    """One stage, ready to train."""

    task: Task
    """What learns."""
    stage: Schedule
    """How."""
    data: Batches
    """From what."""
    save: Callable[[bool, dict[str, float]], None]
    """Writes the task's current weights, with what was measured; True when they are the best so far."""
    evaluate: Evaluate | None = None
    """Measures the task on dev."""
    measure_start: bool = False
    """Measure before the first step too."""
    watch: Callable[[dict[str, Any]], list[str]] | None = None
    """Sees each training line of the stage's log, those before a resume too; returns warnings."""


@dataclass(frozen=True)
class Intervals:
    """How often a run does what."""

    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    save_every: int = 200
    """Steps between checkpoints; the end of an epoch is always one."""
    log_every: int = 1
    """Steps between lines."""


def lr_share(step: int, total: int, warmup: float, schedule: str) -> float:
    """Learning rate over its highest value at update ``step`` of ``total``: a linear rise, then the schedule."""
    rise = max(1, round(total * warmup)) if warmup else 0
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    if schedule == "cosine":
        return 0.5 * (1 + cos(pi * share))
    return 1 - share if schedule == "linear" else 1.0


FUSED = ("cpu", "cuda") if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4) else ("cuda",)
"""Devices on which AdamW changes all that it keeps of a parameter in one pass."""


def make_optimizer(task: nn.Module, stage: Schedule, device: str = "cpu") -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (biases, norms, scales) do not.

    Args:
        task: its parameters that learn.
        stage: learning rate and decay.
        device: kind of the device that they will be on.
    """
    learning = [p for p in task.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr, fused=device in FUSED)


def run_stage(
    accelerator: Any, part: Part, state: RunState, every: Intervals, log: RunLog, out: Path, resume: bool
) -> None:
    """Train one stage to its end.

    Args:
        accelerator: of Accelerate.
        part: the stage, whose task has begun it.
        state: where to begin; changed as training goes on.
        every: evaluations, checkpoints and lines.
        log: takes a line a step.
        out: folder of the checkpoint.
        resume: bring the stage's state back from the checkpoint.
    """
    task, stage, data = part.task, part.stage, part.data
    optimizer = make_optimizer(task, stage, accelerator.device.type)
    wrapped, optimizer = accelerator.prepare(task, optimizer)
    average = MovingAverage(task, stage.ema) if stage.ema else None
    if resume:
        scaler = load_checkpoint(out, task, optimizer.optimizer, average)["scaler"]
        if scaler and accelerator.scaler:
            accelerator.scaler.load_state_dict(scaler)
    plan = _Plan(stage, data.batches)
    total = stage.epochs * data.batches
    begun = state.epoch * data.batches + state.batch
    bar = Progress(f"stage {stage.name}", total, not accelerator.is_main_process, begun)

    def checkpoint() -> None:
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
            save_checkpoint(out, task, optimizer.optimizer, average, {**vars(state), "scaler": scaler})
        accelerator.wait_for_everyone()

    due, loss = False, ""
    while state.epoch < stage.epochs:
        started = time.perf_counter()
        for batch in data.load(state.epoch, state.batch):
            lr, size, update = plan.at(state.epoch, state.batch)
            terms = train_step(accelerator, wrapped, optimizer, stage, batch, lr, size, update)
            if average is not None and update:
                average.update()
            state.batch, state.step = state.batch + 1, state.step + 1
            due = due or state.step % every.save_every == 0
            if state.step % every.log_every == 0 or state.batch == data.batches:
                values = {**read_terms(accelerator, terms), "lr": lr}
                log.write("train", state.step, {"stage": stage.name, "epoch": state.epoch, **values})
                loss = f", loss {values['loss']:.4f}"
            bar.update(state.epoch * data.batches + state.batch, loss)
            if due and update and state.batch < data.batches:  # between updates gradients would be lost
                checkpoint()
                due = False
        state.epoch, state.batch = state.epoch + 1, 0
        if state.epoch == stage.epochs or state.epoch % every.evaluate_every == 0:
            with average.in_place() if average is not None else nullcontext():
                if accelerator.is_main_process:
                    _end_epoch(part, state, log, time.perf_counter() - started)
            accelerator.wait_for_everyone()
        checkpoint()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    accelerator.free_memory()


class _Plan:
    """When the weights change, and with which learning rate."""

    def __init__(self, stage: Schedule, batches: int) -> None:
        self.stage, self.batches = stage, batches
        self.updates = -(-batches // stage.accumulate)  # an epoch

    def at(self, epoch: int, batch: int) -> tuple[float, int, bool]:
        """Learning rate, batches in this update, and whether this batch completes it."""
        every = self.stage.accumulate
        group, place = divmod(batch, every)
        size = min(every, self.batches - group * every)  # the last update of an epoch may have fewer
        share = lr_share(
            epoch * self.updates + group,
            self.stage.epochs * self.updates,
            self.stage.warmup,
            self.stage.schedule,
        )
        return self.stage.lr * share, size, place + 1 == size


def train_step(
    accelerator: Any,
    wrapped: nn.Module,
    optimizer: Any,
    stage: Schedule,
    batch: dict[str, Tensor],
    lr: float,
    size: int,
    update: bool,
) -> dict[str, Tensor]:
    """One batch forward and back, and when ``update`` a step of the optimiser.

    Returns:
        The task's scalars, and ``grad_norm`` where the stage clips, on the device: :func:`read_terms` waits for them.
    """
    batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
    wrapped.train()
    with nullcontext() if update else accelerator.no_sync(wrapped), fp32_products():
        terms = wrapped(batch)
        accelerator.backward(terms["loss"] / size)
    found = {k: v.detach() for k, v in terms.items()}
    if update:
        if stage.clip:
            learning = [p for p in wrapped.parameters() if p.requires_grad]
            found["grad_norm"] = accelerator.clip_grad_norm_(learning, stage.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return found


def read_terms(accelerator: Any, terms: dict[str, Tensor]) -> dict[str, float]:
    """What :func:`train_step` gave as numbers: means over the processes, each of which must ask."""
    means = accelerator.reduce(torch.stack([v.detach().float() for v in terms.values()]), reduction="mean")
    return dict(zip(terms, means.tolist(), strict=True))


def _end_epoch(part: Part, state: RunState, log: RunLog, seconds: float) -> None:
    """Evaluate on dev, keep the best and the last weights."""
    values: dict[str, float] = {}
    if part.evaluate is not None:
        values = part.evaluate()
        line = {"stage": part.stage.name, "epoch": state.epoch, **values, "seconds": seconds}
        log.write("dev", state.step, line)
    better = "score" not in values or state.best is None or values["score"] > state.best
    if better:
        state.best = values.get("score")
    part.save(better, values)
