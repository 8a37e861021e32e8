"""The data of a DCLIP run, without photos that cannot be read and training photos that another set holds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.labelled import read_class_names, read_labelled_photos
from cliplet.data.duplicates import near_any, signatures
from cliplet.errors import InputError
from cliplet.evaluation.retrieval import equal_caption_pairs
from cliplet.files import write_atomically
from cliplet.training.dclip.config import DclipConfig, ZeroShotConfig
from cliplet.training.pairs import PairSet, read_pairs, readable, unreadable
from cliplet.training.processes import say


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
    """All photos and captions of a run: ``train``, ``bare``, ``sets`` (dev, held-out and tests by name), ``labelled``.

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
            say(
                f"{len(skipped)} photos or captions left out, {len(left_out)} of them because they are in dev, tests "
                f"or exclude; see {file}"
            )
        if not any(len(rows) for rows in self.train.captions_of()):
            raise InputError("no training photo has a caption")
        self.train, held_out, rest = divided(self.train, config)
        if held_out is not None:
            self.sets[HELD_OUT] = held_out
        self.chooses = "dev" if "dev" in self.sets else HELD_OUT
        self.bare = bare_photos(config, rest, others, self.train)
        self.equal_captions = config.equal_captions

    def right(self, name: str) -> NDArray[np.int64]:
        """Which photos each caption of a set fits: its own ``[captions]``, or (photo, caption) ``[pairs, 2]``."""
        pairs = self.sets[name]
        return equal_caption_pairs(pairs.captions, pairs.photo_of) if self.equal_captions else pairs.photo_of


HELD_OUT = "held-out"
"""Name of the set of training photos that are kept back."""


def _count(share: float, photos: int) -> int:
    """A share of some photos, or a number of them, as a number."""
    return int(share) if share > 1 else round(share * photos)


def divided(train: PairSet, config: DclipConfig) -> tuple[PairSet, PairSet | None, PairSet]:
    """Training pairs as ``draw`` divides them: those whose captions are trained on, those held out, the others.

    Photos without a caption are in no draw: they are bare.

    Raises:
        InputError: there are not so many photos.
    """
    captioned = np.array([len(rows) > 0 for rows in train.captions_of()], dtype=bool)
    order = np.random.default_rng([config.draw, 7]).permutation(np.flatnonzero(captioned))
    back = _count(config.held_out, len(order))
    used = _count(config.captioned, len(order) - back)
    if back + used > len(order) or not used:
        raise InputError(
            f"held_out={config.held_out:g} and captioned={config.captioned:g} ask for {back} and {used} photos; "
            f"{len(order)} training photos have captions"
        )
    masks = np.zeros((2, len(train.photos)), dtype=bool)
    masks[0, order[:back]], masks[1, order[back : back + used]] = True, True
    held_out = train.keep(masks[0]) if back else None
    return train.keep(masks[1]), held_out, train.keep(~(masks[0] | masks[1]))


def bare_photos(config: DclipConfig, rest: PairSet, others: Iterable[PairSet], train: PairSet) -> PairSet:
    """Photos without captions: ``[bare]`` less what another set holds, and training photos whose captions are not used.

    Args:
        config: the recipe.
        rest: training photos whose captions are not used.
        others: sets that must not be trained on.
        train: training photos.
    """
    more = PairSet()
    if config.bare.photos or config.bare.captions:
        more = readable(read_pairs(config.bare))
        more, _ = without_overlap(more, [*others, train, rest], config.exclude_alike)
    return PairSet([*rest.names, *more.names], [*rest.photos, *more.photos])
