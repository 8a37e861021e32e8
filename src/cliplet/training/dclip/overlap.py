"""Photos that stand in two sets: by name, by content, by looks."""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.training.pairs import PairSet


def file_name(name: str) -> str:
    """A photo's name without its folder, in lower case."""
    return str(name).replace("\\", "/").rsplit("/", 1)[-1].lower()


def _content(photo: Any) -> bytes | None:
    """The encoded photo; None when it cannot be read (training will say so)."""
    try:
        return photo.read_bytes() if hasattr(photo, "read_bytes") else None
    except OSError:
        return None


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
        content = _content(photo)
        exact = hashlib.blake2b(content, digest_size=16).hexdigest() if content else ""
        looks = b""
        if alike:
            with suppress(InputError):
                looks = difference_hash(load_rgb(photo if content is None else content, at_least=64))
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
    reasons: dict[str, str] = {}
    own = signatures(train.photos, alike) if known else [("", b"")] * len(train.photos)
    near = near_any([x for _, x in own], [x for _, x in known])
    for name, (content, _), alike_one in zip(train.names, own, near, strict=True):
        if content in exact:
            reasons[name] = "the same file is in a set that must not be trained on"
        elif file_name(name) in names:
            reasons[name] = "a photo of this name is in a set that must not be trained on"
        elif alike_one:
            reasons[name] = "it looks like a photo of a set that must not be trained on"
    if not reasons:
        return train, reasons
    stays = np.array([n not in reasons for n in train.names], dtype=bool)
    number = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)
    photo_of = number[train.photo_of]
    used = (photo_of >= 0) | (train.photo_of < 0)
    kept = PairSet(
        [n for n, s in zip(train.names, stays, strict=True) if s],
        [p for p, s in zip(train.photos, stays, strict=True) if s],
        [c for c, u in zip(train.captions, used, strict=True) if u],
        photo_of[used],
        [*train.skipped, *(f"{name}: {reason}" for name, reason in reasons.items())],
    )
    if not kept.photos:
        raise InputError("every training photo is also in dev, tests or exclude: nothing is left to train on")
    return kept, reasons
