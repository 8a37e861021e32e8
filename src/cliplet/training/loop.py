"""The one training loop: a stage of distillation on Accelerate, with exact resume."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.training.checkpoint import load_checkpoint, save_checkpoint
from cliplet.training.config import StageConfig
from cliplet.training.logs import Progress, RunLog
from cliplet.training.student import MovingAverage, Student

Evaluate = Callable[[], dict[str, float]]
"""Measures the student's current weights on dev: named numbers, the deciding one under ``score``."""


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


@dataclass
class StageData:
    """Batches of a stage."""

    batches: int
    """Batches an epoch."""
    load: Callable[[int, int], Any]
    """``load(epoch, first)`` iterates over the epoch's batches from ``first`` on: dictionaries of tensors."""


@dataclass
class Hooks:
    """What the loop asks its caller for."""

    evaluate: Evaluate | None
    """Measure the student on dev."""
    save: Callable[[bool, dict[str, float]], None]
    """Write the student's current weights; True when they are the best so far."""
    evaluate_every: int = 1
    """Epochs between evaluations."""
    save_every: int = 200
    """Steps between checkpoints."""
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


def make_optimizer(student: nn.Module, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (biases, norms, scales) do not."""
    learning = [p for p in student.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr)


def run_stage(
    accelerator: Any,
    student: Student,
    stage: StageConfig,
    data: StageData,
    state: RunState,
    hooks: Hooks,
    log: RunLog,
    out: Path,
    resume: bool,
) -> None:
    """Train one stage to its end.

    Args:
        accelerator: of Accelerate.
        student: after :meth:`Student.begin`.
        stage: the stage.
        data: its batches.
        state: where to begin; changed as training goes on.
        hooks: evaluation and saving.
        log: takes a line a step.
        out: folder of the checkpoint.
        resume: bring the stage's state back from the checkpoint.
    """
    optimizer = make_optimizer(student, stage)
    wrapped, optimizer = accelerator.prepare(student, optimizer)
    average = MovingAverage(student.model, stage.ema) if stage.ema else None
    if resume:
        scaler = load_checkpoint(out, student, optimizer.optimizer, average)["scaler"]
        if scaler and accelerator.scaler:
            accelerator.scaler.load_state_dict(scaler)
    plan = _Plan(stage, data.batches)
    total = stage.epochs * data.batches
    begun = state.epoch * data.batches + state.batch
    bar = Progress(f"stage {stage.name}", total, not accelerator.is_main_process, begun)

    def checkpoint() -> None:
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
            save_checkpoint(out, student, optimizer.optimizer, average, {**vars(state), "scaler": scaler})
        accelerator.wait_for_everyone()

    due = False
    while state.epoch < stage.epochs:
        started = time.perf_counter()
        for batch in data.load(state.epoch, state.batch):
            lr, size, update = plan.at(state.epoch, state.batch)
            values = train_step(accelerator, wrapped, optimizer, stage, batch, lr, size, update)
            if average is not None and update:
                average.update(student.model)
            state.batch, state.step = state.batch + 1, state.step + 1
            due = due or state.step % hooks.save_every == 0
            if state.step % hooks.log_every == 0 or state.batch == data.batches:
                log.write("train", state.step, {"stage": stage.name, "epoch": state.epoch, **values})
            bar.update(state.epoch * data.batches + state.batch, f", loss {values['loss']:.4f}")
            if due and update and state.batch < data.batches:  # between updates gradients would be lost
                checkpoint()
                due = False
        state.epoch, state.batch = state.epoch + 1, 0
        seconds = time.perf_counter() - started
        _end_epoch(accelerator, student, average, stage, state, hooks, log, seconds)
        checkpoint()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    accelerator.free_memory()


class _Plan:
    """When the weights change, and with which learning rate."""

    def __init__(self, stage: StageConfig, batches: int) -> None:
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
    stage: StageConfig,
    batch: dict[str, Tensor],
    lr: float,
    size: int,
    update: bool,
) -> dict[str, float]:
    """One batch forward and back, and when ``update`` a step of the optimiser; returns the log's values."""
    batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
    wrapped.train()
    with nullcontext() if update else accelerator.no_sync(wrapped):
        terms = wrapped(batch)
        accelerator.backward(terms["loss"] / size)
    values: dict[str, float] = {"lr": lr}
    if update:
        if stage.clip:
            learning = [p for p in wrapped.parameters() if p.requires_grad]
            values["grad_norm"] = float(accelerator.clip_grad_norm_(learning, stage.clip))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    means = accelerator.reduce(torch.stack([terms[k].detach().float() for k in terms]), reduction="mean")
    return {**dict(zip(terms, means.tolist(), strict=True)), **values}


def _end_epoch(
    accelerator: Any,
    student: Student,
    average: MovingAverage | None,
    stage: StageConfig,
    state: RunState,
    hooks: Hooks,
    log: RunLog,
    seconds: float,
) -> None:
    """Evaluate on dev, keep the best and the last weights."""
    last = state.epoch == stage.epochs
    values: dict[str, float] = {}
    if not (last or state.epoch % hooks.evaluate_every == 0):
        return
    current = {k: v.detach().clone() for k, v in student.model.state_dict().items()} if average else None
    if average is not None:
        student.model.load_state_dict(average.state)
    if hooks.evaluate is not None and accelerator.is_main_process:
        values = hooks.evaluate()
        log.write(
            "dev", state.step, {"stage": stage.name, "epoch": state.epoch, **values, "seconds": seconds}
        )
    if accelerator.is_main_process:
        better = "score" not in values or state.best is None or values["score"] > state.best
        if better:
            state.best = values.get("score")
        hooks.save(better, values)
    if current is not None:
        student.model.load_state_dict(current)
    accelerator.wait_for_everyone()
