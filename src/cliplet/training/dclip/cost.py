"""What a DCLIP recipe will compute: its data, its models, its trainings and steps, and their time if it is known."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cliplet.errors import InputError
from cliplet.training.cost import Rows, pairs_row
from cliplet.training.dclip.base import base_maker, base_name
from cliplet.training.dclip.config import DclipConfig, variant_config
from cliplet.training.dclip.data import bare_photos, divided
from cliplet.training.dclip.finetuning import run_folder
from cliplet.training.dclip.inputs import Learner
from cliplet.training.dclip.low_rank import adapter_size
from cliplet.training.dclip.teacher import teacher_folder
from cliplet.training.dclip.trainable import open_trainable
from cliplet.training.logs import duration
from cliplet.training.pairs import PairSet, read_pairs
from cliplet.training.rewriting import RewriteSettings, offers


def describe(config: DclipConfig) -> Rows:
    """Read a recipe's data and open its base models; nothing is trained or written.

    Args:
        config: the recipe.

    Returns:
        Rows of a table: what, and how much. Data that is not there is named in its row.

    Raises:
        InputError: a setting is wrong.
        ModelError: a base model cannot be opened.
    """
    rows: Rows = []
    sets = {"train": config.train, "dev": config.dev, **{t.name: t for t in config.tests}}
    train = PairSet()
    for name, data in sets.items():
        if not (data.captions or data.photos):
            continue
        try:
            pairs = read_pairs(data)
        except InputError as error:
            rows.append((name, f"not found: {error}"))
            continue
        rows.append(pairs_row(name, pairs))
        train = pairs if name == "train" else train
    photos = config.zeroshot.photos
    if photos:
        rows.append(("zero-shot photos", photos if Path(photos).exists() else f"not found: {photos}"))
    variants = [variant_config(config, v) for v in config.trained]
    if train.photos:
        rows += offered(config, train)
        train, _, _ = divided(train, config)
    with_captions = sum(len(rows) > 0 for rows in train.captions_of())
    return [
        *rows,
        *_base_rows({"base": config} | {c.variants[0].name: c for c in variants}, len(train.photos)),
        *_training_rows(config, variants, with_captions),
    ]


def offered(config: DclipConfig, train: PairSet | None = None) -> Rows:
    """How a recipe divides its training photos, and what they offer its variants' rewriting and objectives.

    Args:
        config: the recipe.
        train: its training pairs; read when left out.
    """
    train, held_out, rest = divided(read_pairs(config.train) if train is None else train, config)
    bare = bare_photos(config, rest, [], train)
    variants = [variant_config(config, v) for v in config.trained]
    return [
        *_division_rows(train, held_out, bare),
        *_rewrite_rows(variants, train),
        *_objective_rows(variants, train, bare),
    ]


def _division_rows(train: PairSet, held_out: PairSet | None, bare: PairSet) -> Rows:
    """How the training photos are divided, where they are."""
    if held_out is None and not bare.photos:
        return []
    back = 0 if held_out is None else len(held_out.photos)
    return [
        (
            "divided",
            f"{len(train.photos)} with captions to train on, {back} kept back, {len(bare.photos)} bare",
        )
    ]


def _rewrite_rows(variants: list[DclipConfig], train: PairSet) -> Iterator[tuple[str, str]]:
    """What each way of rewriting gives, of the training photos whose captions are used."""
    known: dict[RewriteSettings, list[str]] = {}
    for one in variants:
        if one.rewrites.on:
            known.setdefault(one.rewrites, []).append(one.variants[0].name)
    for settings, names in known.items():
        yield from ((f"{what} (of {', '.join(names)})", much) for what, much in offers(settings, train))


def _objective_rows(variants: list[DclipConfig], train: PairSet, bare: PairSet) -> Iterator[tuple[str, str]]:
    """What the data offers each objective, or why one cannot learn from it."""
    known: dict[tuple[str, str, Any], list[str]] = {}
    chosen_of = {}
    for one in variants:
        for name, chosen in one.chosen_objectives().items():
            key = name, repr(chosen.settings), one.regions  # a user's own settings may have no hash
            known.setdefault(key, []).append(one.variants[0].name)
            chosen_of[key] = chosen
    for key, names in known.items():
        name, chosen, regions = key[0], chosen_of[key], key[2]
        of = f"{name} (of {', '.join(names)})"
        try:
            found = chosen.kind.offers(chosen.settings, train, bare, regions)
        except InputError as error:
            found = [("not possible", str(error))]
        yield from ((f"{of}: {what}", much) for what, much in found)


def _base_rows(configs: dict[str, DclipConfig], photos: int) -> Iterator[tuple[str, str]]:
    """Each base model with its parameters, and what is kept of the photos."""
    names = {variant: base_name(config) for variant, config in configs.items()}
    for name in dict.fromkeys(names.values()):
        of = [variant for variant, other in names.items() if other == name]
        one, what = configs[of[0]], f"{name} (of {', '.join(of)})"
        if base_maker(one) is not None and not Path(name).exists():
            yield "base model", f"{what}: to be made by {one.base}"
            continue
        learner = Learner(open_trainable(name), one.student.train, bool(one.student.low_rank.rank))
        own = dict(learner.clip.model.named_parameters())
        size, learn = sum(p.numel() for p in own.values()), sum(own[n].numel() for n in learner.names)
        rank = one.student.low_rank.rank
        if rank:
            adapters = sum(adapter_size(n, own[n], rank) for n in learner.names)
            yield (
                "base model",
                f"{what}: {size:,} parameters, none of them learn; adapters of rank {rank} with {adapters:,} do, on "
                f"{len(learner.names)} matrices of {learn:,}",
            )
            yield (
                "memory of learning",
                f"{_megabytes(adapters)} for gradients and AdamW's moments ({_megabytes(learn)} for the matrices "
                f"themselves), and {4 * learn / 1e6:.1f} MB for the matrices with their adapters",
            )
        else:
            yield "base model", f"{what}: {size:,} parameters, {learn:,} of them learn"
        views = f"{one.augment.views} views of each training photo"
        if learner.early is None:
            yield "views", f"{views}, encoded anew in every epoch"
            continue
        side = learner.clip.encoder.card.image.size
        with torch.inference_mode():
            shape = learner.early(torch.zeros(1, 3, side, side)).shape[1:]
        size, numbers = 2 * one.augment.views * photos * shape.numel(), " x ".join(map(str, shape))
        yield (
            "views",
            f"{views}, encoded once up to the part that learns: {numbers} each, {size / 1e9:.2f} GB on disk",
        )


def _megabytes(parameters: int) -> str:
    """Of the gradient and AdamW's two moments, in fp32."""
    return f"{3 * 4 * parameters / 1e6:.1f} MB"


def _training_rows(
    config: DclipConfig, variants: list[DclipConfig], photos: int
) -> Iterator[tuple[str, str]]:
    """How often teachers and students are trained, and for how long."""
    teachers, students = {}, {}
    for one in variants:
        for seed in config.seeds:
            students[run_folder(one, seed)] = one.student_stage
            if one.student.teacher == "cross_modal" and one.student.weights.teacher:
                teachers[teacher_folder(one, seed)] = one.teacher_stage
    yield (
        "variants",
        f"{', '.join(c.variants[0].name for c in variants)}; seeds {', '.join(map(str, config.seeds))}",
    )
    seconds, unknown = 0.0, False
    for what, trainings in (("teachers", teachers), ("students", students)):
        steps = sum(s.epochs * (photos // s.batch_size) for s in trainings.values())
        yield what, f"{len(trainings)} trainings, {steps:,} steps in all"
        known = [s for folder in trainings for s in _epoch_seconds(folder)]
        unknown |= bool(trainings) and not known
        seconds += median(known or [0.0]) * sum(s.epochs for s in trainings.values())
    if not unknown:
        yield "time expected", f"{duration(seconds)} for all trainings, from the epochs that are done"


def _epoch_seconds(folder: Path) -> Iterator[float]:
    """Seconds of the epochs of a training that has begun."""
    log = folder / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        values = json.loads(line)
        if values["kind"] == "dev":
            yield float(values["seconds"])
