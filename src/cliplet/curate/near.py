"""Near copies among many photos, by random planes through their embeddings, with what they compare kept on disk."""

from collections.abc import Callable
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
BLOCK = 512
ROWS = 8192
EDGE = np.dtype([("a", "i8"), ("b", "i8"), ("cosine", "f4"), ("bits", "u2")])
"""Two representatives by position, the cosine of their embeddings, and the bits in which their hashes differ."""
_CELL = np.dtype([("key", "u8"), ("rep", "i8"), ("caption", "u8"), ("look", "u8", 4)])


def near_pairs(
    reps: NDArray[Any],
    vectors: NDArray[np.float16],
    rules: Rules,
    scratch: Path,
    notes: list[str],
    tell: Callable[[str, int, int], None],
) -> NDArray[Any]:
    """Pairs of near copies, as :data:`EDGE`, each once.

    Args:
        reps: ``[n]`` with ``look`` and ``caption``.
        vectors: their embeddings, ``[n, d]``.
        rules: how near.
        scratch: folder for what is spilled.
        notes: what could not be looked at is appended.
        tell: progress.
    """
    n = len(reps)
    bits = int(np.clip(np.ceil(np.log2(max(n / MEET, 1))), 4, 32))
    cells = Spill(scratch / "cells", _CELL, n * BANDS)
    for start in range(0, n, ROWS):
        keys = _keys(vectors, start, bits)
        records = np.zeros(keys.shape, _CELL)  # [rows, bands]
        block = reps[start : start + ROWS]
        records["key"], records["rep"] = keys, np.arange(start, start + len(block))[:, None]
        records["caption"], records["look"] = block["caption"][:, None], block["look"][:, None]
        flat = records.reshape(-1)
        cells.by_hash(_mixed(flat["key"]), flat)
        tell("near copies: cells", start + len(block), n)
    found, crowded = [], 0
    for i, records in enumerate(cells):
        records.sort(order="key", kind="stable")
        for low, high in groups(records["key"]):
            crowded += max(0, high - low - MOST)
            for first in range(low, high, MOST):
                pairs = _alike(records[first : min(first + MOST, high)], rules)
                found.append(_verified(pairs, vectors, rules.near_cosine))
        found = [np.unique(np.concatenate(found))] if found else []
        tell("near copies: pairs", i + 1, cells.files)
    cells.close()
    if crowded:
        notes.append(f"near copies: {crowded} photos of crowded cells were compared with {MOST} others alone")
    return found[0] if found else np.empty(0, EDGE)


def _keys(vectors: NDArray[np.float16], start: int, bits: int) -> NDArray[np.uint64]:
    """The cell of each photo in each band, ``[rows, bands]``."""
    n, d = vectors.shape
    sample = np.asarray(vectors[:: max(1, n // ROWS)][:ROWS], dtype=np.float32)
    planes = np.random.default_rng(0).normal(size=(d, BANDS * bits)).astype(np.float32)
    rows = np.asarray(vectors[start : start + ROWS], dtype=np.float32) - sample.mean(axis=0)
    sides = (rows @ planes > 0).reshape(len(rows), BANDS, bits).astype(np.uint64)
    weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    return (sides * weights).sum(axis=2, dtype=np.uint64) + (
        np.arange(BANDS, dtype=np.uint64) << np.uint64(40)
    )


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys spread evenly (Fibonacci hashing)."""
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)


def _alike(cell: NDArray[Any], rules: Rules) -> NDArray[Any]:
    """Pairs of a cell whose difference hashes are near, as :data:`EDGE` without a cosine."""
    found = []
    for start in range(0, len(cell), BLOCK):
        rows, others = cell[start : start + BLOCK], cell[start:]
        bits = np.zeros((len(rows), len(others)), dtype=np.uint16)
        for word in range(4):
            bits += np.bitwise_count(rows["look"][:, word, None] ^ others["look"][None, :, word])
        near = bits <= rules.near_bits
        if rules.duplicates == "pairs":
            near &= rows["caption"][:, None] == others["caption"]
        i, j = np.nonzero(near)
        i, j = i[i < j], j[i < j]
        edges = np.zeros(len(i), EDGE)
        first, second = rows["rep"][i], others["rep"][j]
        edges["a"], edges["b"] = np.minimum(first, second), np.maximum(first, second)
        edges["bits"] = bits[i, j]
        found.append(edges)
    return np.concatenate(found)


def _verified(edges: NDArray[Any], vectors: NDArray[np.float16], least: float) -> NDArray[Any]:
    """Those of the pairs whose embeddings are near, with their cosine."""
    kept = [np.empty(0, EDGE)]
    for start in range(0, len(edges), ROWS):
        block = edges[start : start + ROWS]
        a, b = (np.asarray(vectors[block[name]], dtype=np.float32) for name in ("a", "b"))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        block["cosine"] = np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)
        kept.append(block[block["cosine"] >= least])
    return np.concatenate(kept)
