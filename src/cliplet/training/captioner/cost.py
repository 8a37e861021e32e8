"""What a captioner's recipe will compute and cost: ``cliplet distill RECIPE --dry-run``."""

import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from cliplet.models.dual import count_parameters
from cliplet.training.captioner.config import CaptionRecipe
from cliplet.training.captioner.features import grid_session, pixels_of
from cliplet.training.captioner.train import CaptionRun
from cliplet.training.cost import Rows, memory_row, multiply_adds, pairs_row, seconds_a_step, steps_text
from cliplet.training.logs import duration
from cliplet.training.pairs import read_pairs

PHOTOS = 8
"""Photos that are timed, besides those of the timed steps."""


def describe(recipe: CaptionRecipe) -> Rows:
    """Go through a recipe without training: read all data, time the grids of some photos and a few steps of each stage.

    Nothing is written but in a temporary folder.

    Returns:
        Rows of a table: what, and how much.
    """
    rows = [pairs_row("training", read_pairs(recipe.train)), pairs_row("dev", read_pairs(recipe.dev))]
    with tempfile.TemporaryDirectory() as folder:
        small = dataclasses.replace(recipe, out=f"{folder}/run", cache=f"{folder}/cache", views=1)
        run = CaptionRun(small)
        photos = len(run.train_split.names)
        rows.append(("vocabulary", f"{run.config.vocab_size:,} tokens"))
        more, seconds = _grids(run, photos * recipe.views + len(run.dev_split.names))
        rows += more
        _keep_few(run)
        for index, stage in enumerate(recipe.stages):
            part = run.part(index)
            part.task.begin(stage)
            each = seconds_a_step(run.accelerator, part.task, stage, part.data)
            part.save(True, {})  # the next stage starts from it
            batches = stage.updates or photos // stage.batch_size
            rows.append((f"stage {stage.name}", steps_text(stage, batches, each)))
            seconds += each * stage.epochs * batches
        rows.append(memory_row(run.accelerator))
    return [*rows, ("time expected", f"{duration(seconds)}, without evaluation and export")]


def _grids(run: CaptionRun, count: int) -> tuple[Rows, float]:
    """Rows on the image towers and the decoder, and the seconds that ``count`` grids take."""
    grid = run.recipe.model.grid
    pixels = torch.zeros(1, grid.size, grid.size, 3, dtype=torch.uint8)
    cells, channels = run.tower.shape()
    adds = f", {multiply_adds(run.tower, pixels) / 1e9:.3f} G multiply-adds a photo" * run.tower.can_learn
    rows = [
        ("image towers", f"{', '.join(grid.towers)}: {cells} cells of {channels} channels{adds}"),
        ("decoder", f"{count_parameters(run.decoder):,} parameters"),
    ]
    session, some = grid_session(run.tower), run.train_split.photos[:PHOTOS]
    began = time.perf_counter()
    session.run(["grid"], {"pixels": pixels_of(some, grid)})
    seconds = (time.perf_counter() - began) / len(some) * count
    rows.append(("grids, once", f"{2 * cells * channels * count / 1e9:.2f} GB on disk, {duration(seconds)}"))
    return rows, seconds


def _keep_few(run: CaptionRun) -> None:
    """Leave the run as many photos as a few batches need."""
    count = 2 * max(stage.batch_size for stage in run.recipe.stages)
    run.train_split, run.dev_split = run.train_split.first(count), run.dev_split.first(PHOTOS)
    run.tokens = run.tokens[:count]
    Path(run.recipe.cache).mkdir(exist_ok=True)
