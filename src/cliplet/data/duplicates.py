"""Copies of a photo: by content, and by looks, where size or format differ."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError

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
