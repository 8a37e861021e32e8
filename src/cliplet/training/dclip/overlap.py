"""Photos that must not be trained on: those that cannot be read, and those of another set by name, content or looks."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cliplet.data.duplicates import near_any, signatures
from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, read_pairs


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


def readable(pairs: PairSet) -> PairSet:
    """The pairs whose photo can be decoded; the others join ``skipped``."""
    bad: dict[int, str] = {}
    bar = Progress("reading photos", len(pairs.photos))
    for i, photo in enumerate(pairs.photos):
        try:
            load_rgb(photo, at_least=64)
        except InputError as error:
            bad[i] = f"{pairs.names[i]}: {error}"
        bar.update(i + 1)
    return pairs.keep(np.array([i not in bad for i in range(len(pairs.photos))], dtype=bool), bad.values())


def training_pairs(config: DclipConfig, sets: Mapping[str, PairSet], out: Path) -> PairSet:
    """Training pairs whose photo can be read and is in no other set; ``skipped.txt`` lists the others.

    Args:
        config: the recipe.
        sets: dev and tests by name; what was left out of them is listed too.
        out: folder of ``skipped.txt``.

    Raises:
        InputError: nothing is left to learn from.
    """
    others = list(sets.values())
    if config.exclude.captions or config.exclude.photos:
        others.append(read_pairs(config.exclude))
    train, left_out = without_overlap(readable(read_pairs(config.train)), others, config.exclude_alike)
    skipped = [*train.skipped, *(f"{name}: {line}" for name, one in sets.items() for line in one.skipped)]
    if skipped:
        write_atomically(out / "skipped.txt", "".join(line + "\n" for line in skipped))
        print(
            f"{len(skipped)} photos or captions left out, {len(left_out)} of them because they are in dev, tests "
            f"or exclude; see {out / 'skipped.txt'}",
            file=sys.stderr,
        )
    if not any(len(rows) for rows in train.captions_of()):
        raise InputError("no training photo has a caption")
    return train
