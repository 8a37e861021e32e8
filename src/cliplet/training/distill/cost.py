"""What a recipe will cost: sizes, parameters, multiply-adds, memory, and time from a few timed steps."""

import time
from typing import Any

import numpy as np
import torch

from cliplet.errors import InputError
from cliplet.models.dual import count_parameters
from cliplet.training.config import DistillConfig
from cliplet.training.cost import Rows, memory_row, multiply_adds, pairs_row, seconds_a_step, steps_text
from cliplet.training.distill import Run
from cliplet.training.distill.batches import StageBatches
from cliplet.training.distill.targets import Targets
from cliplet.training.logs import duration


def dry_run(config: DistillConfig, teacher: Any = None) -> Rows:
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
        rows.append(memory_row(run.accelerator))
        once = _teacher_seconds(run)
        rows.append(("teacher's pass, once", duration(once)))
        rows.append(("time expected", f"{duration(once + seconds)}, without evaluation and export"))
        return rows


def _data_rows(run: Run) -> Rows:
    rows = [pairs_row(f"data of stage {run.config.stages[i].name}", pairs) for i, pairs in run.pairs.items()]
    return rows if run.dev is None else [*rows, pairs_row("dev", run.dev)]


def _model_rows(run: Run) -> Rows:
    captions = [c for p in run.pairs.values() for c in p.captions[:1000]]
    lengths = [len(t) for t in run.encoder.tokenize(captions)[0]] if captions else [0]
    tokens, model = int(np.ceil(np.mean(lengths))), run.student.model
    device = next(model.parameters()).device
    ids = torch.zeros(1, tokens or model.config.text.context_length, dtype=torch.long, device=device)
    pixels = torch.zeros(1, 3, *[model.config.image.image_size] * 2, device=device)
    adds = multiply_adds(model.image, pixels), multiply_adds(model.text, ids, torch.ones_like(ids))
    rows, total = [], 0
    for name, count, what in zip(
        ("image", "text"), adds, ("photo", f"caption of {ids.shape[1]} tokens"), strict=True
    ):
        parameters = count_parameters(model.get_submodule(name))
        total += parameters
        rows.append(
            (f"{name} tower", f"{parameters:,} parameters, {count / 1e9:.3f} G multiply-adds a {what}")
        )
    sizes = ", ".join(f"{total * b / 1e6:.1f} MB {n}" for n, b in (("fp32", 4), ("fp16", 2), ("int8", 1)))
    return [*rows, ("both towers", f"{total:,} parameters: {sizes}")]


def _stage_row(run: Run, index: int) -> tuple[tuple[str, str], float]:
    """A stage's steps and time, from a few steps with made-up teacher embeddings."""
    stage, pairs, config = run.config.stages[index], run.pairs[index], run.config
    rng = np.random.default_rng(0)

    def fake(n: int) -> Any:
        row = rng.standard_normal((1, run.teacher.dim), dtype=np.float32)
        return np.broadcast_to(row, (n, run.teacher.dim))  # no memory, however many

    views = [fake(len(pairs.photos)) for _ in range(config.augment.views)] if pairs.photos else []
    data = StageBatches(
        stage, pairs, Targets(views, fake(len(pairs.captions))), run.encoder, config.augment, config.seed,
        run.accelerator.process_index, run.accelerator.num_processes, config.workers,
    )  # fmt: skip
    run.student.begin(stage)
    each = seconds_a_step(run.accelerator, run.student, stage, data)
    row = (f"stage {stage.name}", steps_text(stage, data.batches, each))
    return row, each * stage.epochs * data.batches


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
        photos = pairs.photos[:8]
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
