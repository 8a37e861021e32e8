"""Near copies among many photos, by random planes through their embeddings, with what they compare kept on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.curate.rules import Rules
from cliplet.curate.spill import Spill, groups

BANDS = 16
"""Chances that two near copies have to meet."""
MEET = 16
"""Photos that would share a band's cell if they were spread evenly."""
MOST = 4096
"""Photos of one cell that are compared all with all; a larger cell is compared in runs of so many."""
SMALL = 64
"""Photos of a cell that is compared together with all other cells of its size."""
BLOCK = 512
ROWS = 8192
EDGE = np.dtype([("a", "i8"), ("b", "i8"), ("cosine", "f4"), ("bits", "u2")])
"""Two representatives by position, the cosine of their embeddings, and the bits in which their hashes differ."""
MET = 64
"""Better photos of a cell with near hashes that one photo is held against, at most: the best of them."""
_CELL = np.dtype([("key", "u8"), ("rank", "f4"), ("rep", "i8"), ("caption", "u8"), ("look", "u8", 4)])


@dataclass(frozen=True)
class Vectors:
    """Embeddings in a file, float16 ``[count, width]``, of which no more is held than is asked for."""

    path: Path
    count: int
    width: int

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows one behind the other."""
        rows = min(stop, self.count) - start
        found = np.fromfile(self.path, np.float16, rows * self.width, offset=2 * start * self.width)
        return found.reshape(rows, self.width).astype(np.float32)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows, each read by itself: a mapped file would count, with all that lies around them, as memory."""
        distinct, at = np.unique(numbers, return_inverse=True)
        found = np.empty((len(distinct), self.width), np.float16)
        with open(self.path, "rb", buffering=0) as file:
            for row, number in zip(found, distinct.tolist(), strict=True):
                file.seek(2 * number * self.width)
                file.readinto(row.view(np.uint8).data)
        return found[at.reshape(-1)].astype(np.float32)


def near_pairs(
    reps: NDArray[Any],
    vectors: Vectors,
    rules: Rules,
    scratch: Path,
    notes: list[str],
    tell: Callable[[str, int, int], None],
) -> Spill:
    """Pairs of near copies, as :data:`EDGE`, parted by both; those that met in several cells stand there several times.

    Args:
        reps: ``[n]`` with ``look`` and ``caption``.
        vectors: their embeddings.
        rules: how near.
        scratch: folder for what is spilled.
        notes: what could not be looked at is appended.
        tell: progress.
    """
    n = len(reps)
    pairs = Spill(scratch / "edges", EDGE, n)

    def keep(edges: NDArray[Any]) -> None:
        near = _verified(edges, vectors, rules.near_cosine)
        pairs.by_hash(_mixed(near["a"].astype(np.uint64) * np.uint64(n) + near["b"].astype(np.uint64)), near)

    if n <= MOST:  # so few are compared all with all
        keep(_alike(np.sort(_records(reps, 0, np.zeros((n, 1), np.uint64)), order=["rank", "rep"]), rules))
        return pairs
    bits = int(np.clip(np.ceil(np.log2(max(n / MEET, 1))), 4, 32))
    cells = Spill(scratch / "cells", _CELL, n * BANDS)
    centre = vectors.take(np.arange(0, n, max(1, n // ROWS))[:ROWS]).mean(axis=0)
    planes = np.random.default_rng(0).normal(size=(len(centre), BANDS * bits)).astype(np.float32)
    for start in range(0, n, ROWS):
        rows = vectors.block(start, start + ROWS) - centre
        records = _records(reps[start : start + ROWS], start, _keys(rows @ planes > 0, bits))
        cells.by_hash(_mixed(records["key"]), records)
        tell("near copies: cells", start + len(rows), n)
    crowded = 0
    for i, records in enumerate(cells):
        records = records[np.lexsort((records["rep"], records["rank"], records["key"]))]
        small = np.ones(len(records), dtype=bool)
        for low, high in groups(records["key"], SMALL):
            small[low:high] = False
            crowded += max(0, high - low - MOST)
            for first in range(low, high, MOST):
                keep(_alike(records[first : min(first + MOST, high)], rules))
        keep(_alike_in_small(records[small], rules))
        tell("near copies: pairs", i + 1, cells.files)
    cells.close()
    if crowded:
        notes.append(f"near copies: {crowded} photos of crowded cells were compared with {MOST} others alone")
    return pairs


def _records(reps: NDArray[Any], start: int, keys: NDArray[np.uint64]) -> NDArray[Any]:
    """A record for each photo in each of its cells; ``keys``: ``[rows, bands]``."""
    records = np.zeros(keys.shape, _CELL)
    records["key"], records["rep"] = keys, np.arange(start, start + len(reps))[:, None]
    records["rank"] = np.where(reps["good"], 0, 4)[:, None] - reps["cosine"][:, None]
    records["caption"], records["look"] = reps["caption"][:, None], reps["look"][:, None]
    return records.reshape(-1)


def _keys(sides: NDArray[np.bool_], bits: int) -> NDArray[np.uint64]:
    """The cell of each photo in each band, ``[rows, bands]``; ``sides``: of the planes, ``[rows, bands * bits]``."""
    weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    cells = (sides.reshape(len(sides), BANDS, bits) * weights).sum(axis=2, dtype=np.uint64)
    return np.asarray(cells + (np.arange(BANDS, dtype=np.uint64) << np.uint64(40)))


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys spread evenly (Fibonacci hashing)."""
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)


def _alike(cell: NDArray[Any], rules: Rules) -> NDArray[Any]:
    """Pairs of a cell, the best first, whose difference hashes are near, as :data:`EDGE` without a cosine."""
    found = []
    met = np.zeros(len(cell), dtype=np.int64)
    for start in range(0, len(cell), BLOCK):
        rows, others = cell[start : start + BLOCK], cell[start:]
        bits = np.zeros((len(rows), len(others)), dtype=np.uint16)
        for word in range(4):
            bits += np.bitwise_count(rows["look"][:, word, None] ^ others["look"][None, :, word])
        near = np.triu(bits <= rules.near_bits, 1)
        if rules.duplicates == "pairs":
            near &= rows["caption"][:, None] == others["caption"]
        near &= np.cumsum(near, axis=0) + met[start:] <= MET
        met[start:] += near.sum(axis=0)
        i, j = np.nonzero(near)
        edges = np.zeros(len(i), EDGE)
        first, second = rows["rep"][i], others["rep"][j]
        edges["a"], edges["b"] = np.minimum(first, second), np.maximum(first, second)
        edges["bits"] = bits[i, j]
        found.append(edges)
    return np.concatenate(found)


def _alike_in_small(records: NDArray[Any], rules: Rules) -> NDArray[Any]:
    """As :func:`_alike` for many small cells, one behind the other: each photo with its next, its second next, ..."""
    found = [np.empty(0, EDGE)]
    keys, looks, captions = records["key"], records["look"], records["caption"]
    first = np.arange(len(records))
    for step in range(1, SMALL):
        first = first[: np.searchsorted(first, len(records) - step)]
        first = first[keys[first] == keys[first + step]]
        if not len(first):
            break
        bits = np.bitwise_count(looks[first] ^ looks[first + step]).sum(axis=1, dtype=np.uint16)
        near = bits <= rules.near_bits
        if rules.duplicates == "pairs":
            near &= captions[first] == captions[first + step]
        a, b = records["rep"][first[near]], records["rep"][first[near] + step]
        edges = np.zeros(len(a), EDGE)
        edges["a"], edges["b"], edges["bits"] = np.minimum(a, b), np.maximum(a, b), bits[near]
        found.append(edges)
    return np.concatenate(found)


def _verified(edges: NDArray[Any], vectors: Vectors, least: float) -> NDArray[Any]:
    """Those of the pairs whose embeddings are near, with their cosine."""
    kept = [np.empty(0, EDGE)]
    for start in range(0, len(edges), ROWS):
        block = edges[start : start + ROWS]
        a, b = vectors.take(block["a"]), vectors.take(block["b"])
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        block["cosine"] = np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)
        kept.append(block[block["cosine"] >= least])
    return np.concatenate(kept)
