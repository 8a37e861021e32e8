"""Photos that must not be trained on: those that cannot be read, and those of another set by name, content or looks."""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, read_pairs
from cliplet.training.views import photo_source


def file_name(name: str) -> str:
    """A photo's name without its folder, in lower case."""
    return str(name).replace("\\", "/").rsplit("/", 1)[-1].lower()


HASH_BYTES = 32
NEAR = 24
"""Copies of one photo differ in at most this many of the 256 bits; unrelated photos in about 128."""


def difference_hash(image: Image.Image) -> bytes:
    """256 bits: whether each of 16 x 16 cells of the grey photo is darker than its right neighbour.

    Copies of another size or compression differ in few bits (see :data:`NEAR`). A photo of one even area has no looks
    to compare: its hash is empty.
    """
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    steps = np.diff(grey, axis=1)
    return b"" if np.abs(steps).mean() < 1.5 else np.packbits(steps > 0).tobytes()


def near_any(own: Sequence[bytes], known: Sequence[bytes], block: int = 256) -> NDArray[np.bool_]:
    """Which of ``own`` hashes are at most :data:`NEAR` bits from one of ``known``; empty hashes are near nothing."""
    found = np.zeros(len(own), dtype=bool)
    usable = [i for i, h in enumerate(own) if h]
    others = np.frombuffer(b"".join(h for h in known if h), dtype=np.uint8).reshape(-1, HASH_BYTES)
    if not len(others):
        return found
    bits = 2.0 * np.unpackbits(others, axis=1).astype(np.float32) - 1  # [K, 256] of -1 and 1
    for start in range(0, len(usable), block):
        rows = usable[start : start + block]
        mine = np.frombuffer(b"".join(own[i] for i in rows), dtype=np.uint8).reshape(-1, HASH_BYTES)
        same = (2.0 * np.unpackbits(mine, axis=1).astype(np.float32) - 1) @ bits.T  # 256 - 2 x distance
        found[rows] = same.max(axis=1) >= 8 * HASH_BYTES - 2 * NEAR
    return found


def signatures(photos: Sequence[Any], alike: bool) -> list[tuple[str, bytes]]:
    """Content hash and, with ``alike``, difference hash of each photo; empty where there is none."""
    found = []
    for photo in photos:
        exact, looks = "", b""
        with suppress(InputError, OSError):  # a photo that cannot be read is told apart by its name alone
            content = photo.read_bytes()
            exact = hashlib.blake2b(content, digest_size=16).hexdigest()
            looks = difference_hash(load_rgb(content, at_least=64)) if alike else b""
        found.append((exact, looks))
    return found


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
            load_rgb(photo_source(photo), at_least=64)
        except InputError as error:
            bad[i] = f"{pairs.names[i]}: {error}"
        bar.update(i + 1)
    return pairs.keep(np.array([i not in bad for i in range(len(pairs.photos))], dtype=bool), bad.values())


def training_pairs(config: DclipConfig, others: Sequence[PairSet], out: Path) -> PairSet:
    """Training pairs whose photo can be read and is in no other set; ``skipped.txt`` lists the others.

    Raises:
        InputError: nothing is left to learn from.
    """
    others = list(others)
    if config.exclude.captions or config.exclude.photos:
        others.append(read_pairs(config.exclude))
    train, left_out = without_overlap(readable(read_pairs(config.train)), others, config.exclude_alike)
    if train.skipped:
        write_atomically(out / "skipped.txt", "".join(line + "\n" for line in train.skipped))
        print(
            f"{len(train.skipped)} photos or captions left out, {len(left_out)} of them because they are in dev, tests "
            f"or exclude; see {out / 'skipped.txt'}",
            file=sys.stderr,
        )
    if not any(len(rows) for rows in train.captions_of()):
        raise InputError("no training photo has a caption")
    return train
