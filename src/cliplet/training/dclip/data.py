"""The data of a DCLIP run, without photos that cannot be read and training photos that another set holds."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.labelled import read_class_names, read_labelled_photos
from cliplet.data.duplicates import near_any, signatures
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.training.dclip.config import DclipConfig, ZeroShotConfig
from cliplet.training.pairs import PairSet, read_pairs, readable, unreadable


def file_name(name: str) -> str:
    """A photo's name without its folder, in lower case."""
    return str(name).replace("\\", "/").rsplit("/", 1)[-1].lower()


def without_overlap(
    train: PairSet, others: Iterable[PairSet], alike: bool = True
) -> tuple[PairSet, dict[str, str]]:
    """Training pairs without the photos that another set holds.

    Args:
        train: photos and captions.
        others: sets that must not be trained on.
        alike: also leave out photos that look the same (see :func:`difference_hash`).

    Returns:
        The pairs that stay, photos renumbered, and the reason for each photo left out, by its name.
    """
    others = list(others)
    names = {file_name(n) for pairs in others for n in pairs.names}
    known = [s for pairs in others for s in signatures(pairs.photos, alike)]
    exact = {e for e, _ in known if e}
    own = signatures(train.photos, alike) if known else [("", b"")] * len(train.photos)
    near = near_any([x for _, x in own], [x for _, x in known])
    reasons: list[str] = []
    for name, (content, _), alike_one in zip(train.names, own, near, strict=True):
        if content in exact:
            reasons.append("the same file is in a set that must not be trained on")
        elif file_name(name) in names:
            reasons.append("a photo of this name is in a set that must not be trained on")
        else:
            reasons.append("it looks like a photo of a set that must not be trained on" if alike_one else "")
    left_out = [(name, reason) for name, reason in zip(train.names, reasons, strict=True) if reason]
    if train.names and len(left_out) == len(train.names):
        raise InputError("every training photo is also in dev, tests or exclude: nothing is left to train on")
    kept = train.keep(np.array([not r for r in reasons], dtype=bool), (f"{n}: {r}" for n, r in left_out))
    return kept, dict(left_out)


@dataclass(frozen=True)
class Labelled:
    """Photos of known classes, and the prompts that name the classes."""

    photos: list[Any]
    """The photos that can be read."""
    labels: NDArray[np.int64]
    """Class of each ``[photos]``."""
    prompts: list[str]
    """All templates of the first class, then of the second, ...: ``[classes * templates]``."""
    classes: int
    """How many."""
    skipped: list[str]
    """Which photos were left out, and why."""


def read_labelled(config: ZeroShotConfig) -> Labelled | None:
    """The labelled photos of a recipe; None without any.

    Raises:
        InputError: there are none where the recipe says so.
    """
    if not config.photos:
        return None
    names = read_class_names(Path(config.class_names)) if config.class_names else None
    data = read_labelled_photos(Path(config.photos), class_names=names, label_from=config.labels)
    there = [i for i, photo in enumerate(data.photos) if photo is not None]
    bad = unreadable([data.photos[i] for i in there], [data.names[i] for i in there])
    good = [i for n, i in enumerate(there) if n not in bad]
    prompts = [t.replace("{}", c) for c in data.classes for t in config.templates]
    skipped = [
        *(f"{data.names[i]}: not found" for i in set(range(len(data.photos))) - set(there)),
        *bad.values(),
    ]
    return Labelled([data.photos[i] for i in good], data.labels[good], prompts, len(data.classes), skipped)


class RunData:
    """All photos and captions of a run: ``train``, ``sets`` (dev and tests by name) and ``labelled``.

    Photos that cannot be read, and training photos that are in another set, are left out; ``skipped.txt`` lists them.

    Args:
        config: the recipe.

    Raises:
        InputError: nothing is left to learn from.
    """

    def __init__(self, config: DclipConfig) -> None:
        sets = ({"dev": config.dev} if config.dev.captions else {}) | {t.name: t for t in config.tests}
        self.sets = {name: readable(read_pairs(one)) for name, one in sets.items()}
        self.labelled = read_labelled(config.zeroshot)
        others = list(self.sets.values())
        if config.exclude.captions or config.exclude.photos:
            others.append(read_pairs(config.exclude))
        train = readable(read_pairs(config.train))
        self.train, left_out = without_overlap(train, others, config.exclude_alike)
        skipped = list(self.train.skipped)
        for name, pairs in self.sets.items():
            skipped += [f"{name}: {line}" for line in pairs.skipped]
        if self.labelled is not None:
            skipped += [f"zero-shot: {line}" for line in self.labelled.skipped]
        if skipped:
            file = Path(config.out) / "skipped.txt"
            write_atomically(file, "".join(line + "\n" for line in skipped))
            print(
                f"{len(skipped)} photos or captions left out, {len(left_out)} of them because they are in dev, tests "
                f"or exclude; see {file}",
                file=sys.stderr,
            )
        if not any(len(rows) for rows in self.train.captions_of()):
            raise InputError("no training photo has a caption")
