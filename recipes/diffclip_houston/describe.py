"""What a run will compute and cost, for ``--dry-run``."""

import copy
import dataclasses
import time

import numpy as np
import torch

from cliplet.models.multimodal import MultimodalClassifier
from cliplet.models.multimodal_config import MultimodalConfig
from cliplet.training.cost import seconds_a_step, steps_text
from cliplet.training.diffclip.pretrain import pretraining_task, shuffled_batches
from cliplet.training.diffclip.tune import Tuning
from cliplet.training.fit import make_accelerator
from cliplet.training.logs import duration
from cliplet.training.recipes import Rows

from .arms import ARMS
from .data import Pixels, prepare, read_samples
from .recipe import Settings
from .run import jobs, unfinished


def describe(settings: Settings) -> Rows:
    """Data, parts, sizes and seconds; a few steps are timed, nothing is written."""
    pixels = prepare(settings, read_samples(settings))
    parts, labels = pixels.parts, pixels.samples.labels
    least = int(np.bincount(labels[parts.train]).min())
    rows = [
        ("samples", f"{len(labels):,} of {len(pixels.samples.classes)} classes"),
        *(("tokens of " + m.name, f"{m.tokens} of {m.values} values") for m in pixels.modalities),
        ("train, dev, test", f"{len(parts.train):,}, {len(parts.dev):,}, {len(parts.test):,}; measured on "
                             f"{settings.report_on}"),
        ("smallest class in train", f"{least}, for up to {max(settings.shots)} shots"),
    ]  # fmt: skip
    rows.append(("neighbours in the file", neighbours_text(pixels)))
    config = dataclasses.replace(settings.model, modalities=pixels.modalities)
    stage = settings.pretrain.stage
    task = pretraining_task(config, settings.pretrain, 0)
    data = shuffled_batches(pixels.rows(parts.train), stage.batch_size, 0)
    seconds = seconds_a_step(make_accelerator(cpu=True), task, stage, data)
    rows.append(
        ("parameters of encoder and decoders", f"{sum(p.numel() for p in task.model.parameters()):,}")
    )
    rows.append((f"pretraining, {settings.draws} times", steps_text(stage, data.batches, seconds)))
    return rows + tuning_rows(settings, pixels, config)


def tuning_rows(settings: Settings, pixels: Pixels, config: MultimodalConfig) -> Rows:
    """How many trainings there are and what those of DiffCLIP take."""
    model = MultimodalClassifier(
        copy.copy(config), torch.eye(len(pixels.samples.classes), config.embedding_dim)
    )
    k = settings.shots[0]
    rows = pixels.shots(settings, k, 0)
    labels = torch.from_numpy(pixels.samples.labels[rows])
    tuning, times = Tuning(model, settings.tune, 0), []
    for _ in range(4):
        began = time.perf_counter()
        tuning.step(settings.tune.start, pixels.rows(rows), labels, pixels.rows(pixels.parts.train))
        times.append(time.perf_counter() - began)
    one = float(np.median(times[1:])) * settings.tune.steps
    todo = list(unfinished(settings))
    networks = sum(ARMS[arm].family == "diffclip" for _, arm, _ in todo)
    return [
        ("trainings", f"{len(jobs(settings)):,}, {len(todo):,} of them still to do"),
        ("of these DiffCLIP", f"{networks:,}, {one:.1f} s each at {k} shots: {duration(one * networks)}"),
    ]  # fmt: skip


def neighbours_text(pixels: Pixels) -> str:
    """How much nearer samples of a class are where they stand beside each other in the file."""
    values, labels = pixels.standard, pixels.samples.labels
    rng = np.random.default_rng(0)
    beside, any_two = [], []
    for c in np.unique(labels):
        x = values[labels == c]
        beside.append(np.linalg.norm(np.diff(x, axis=0), axis=1))
        any_two.append(np.linalg.norm(np.diff(x[rng.permutation(len(x))], axis=0), axis=1))
    first, second = (float(np.median(np.concatenate(found))) for found in (beside, any_two))
    return (
        f"median distance {first:.2f} within a class; of any two of a class {second:.2f} (standardised bands)"
    )
