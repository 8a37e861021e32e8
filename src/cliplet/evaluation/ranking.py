"""Where the right answers land: exact ranks of all positives of every query, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError
from cliplet.statistics.kendall import Floats, Ints

Ties = Literal["pessimistic", "optimistic"]
BLOCK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Positives:
    """For each query the items that answer it: those of query q are ``items[starts[q]:starts[q + 1]]``."""

    starts: Ints
    """[queries + 1]."""
    items: Ints
    """[pairs], item numbers."""

    @classmethod
    def from_pairs(cls, queries: ArrayLike, items: ArrayLike, n_queries: int) -> "Positives":
        """From parallel arrays of query and item numbers; a pair given twice counts once."""
        pairs = np.unique(
            np.stack([np.asarray(queries, dtype=np.int64), np.asarray(items, dtype=np.int64)]), axis=1
        )
        counts = np.bincount(pairs[0], minlength=n_queries)
        return cls(np.concatenate(([0], np.cumsum(counts))).astype(np.int64), pairs[1])

    @property
    def counts(self) -> Ints:
        """How many positives each query has."""
        return np.diff(self.starts)


def unit_rows(embeddings: ArrayLike, what: str) -> NDArray[np.float32]:
    """Embeddings [n, d] as contiguous float32 rows of length 1 (no copy when they already are)."""
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or array.size == 0:
        raise InputError(
            f"{what}: embeddings must be a numeric array [n, d], got {array.dtype} {array.shape}"
        )
    array = np.ascontiguousarray(array, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", array, array))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} is zero or not finite ({len(bad)} such rows); leave them out")
    if np.abs(norms - 1).max() <= 1e-5:
        return array
    return array / norms[:, None]


def score_blocks(
    queries: NDArray, items: NDArray, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, NDArray]]:
    """(first query, scores [b, items]) for blocks of queries whose scores fit in ``block_bytes``."""
    rows = max(1, min(len(queries), block_bytes // (4 * max(len(items), 1))))
    buffer = np.empty((rows, len(items)), dtype=np.float32)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        yield start, np.matmul(block, items.T, out=buffer[: len(block)])


def positive_ranks(
    queries: NDArray,
    items: NDArray,
    positives: Positives,
    ties: Ties = "pessimistic",
    block_bytes: int = BLOCK_BYTES,
) -> Ints:
    """Rank (1 = first) of every positive of every query by dot product, in the order of ``positives.items`` but
    sorted within each query, best first; [pairs].

    The rank is exact over all items. An item that is not a positive and has the same score as one ranks before it
    ("pessimistic", so ties and collapsed embeddings never flatter) or after it ("optimistic").
    """
    if ties not in ("pessimistic", "optimistic"):
        raise InputError(f"unknown rule for ties {ties!r}; use pessimistic or optimistic")
    above = np.greater_equal if ties == "pessimistic" else np.greater
    ranks = np.empty(len(positives.items), dtype=np.int64)
    mask = np.empty(len(items), dtype=bool)
    for start, scores in score_blocks(queries, items, block_bytes):
        for row, line in enumerate(scores):  # line: [items]
            first, last = positives.starts[start + row], positives.starts[start + row + 1]
            own = np.sort(line[positives.items[first:last]])[::-1]
            for j, score in enumerate(own):
                others = np.count_nonzero(above(line, score, out=mask)) - np.count_nonzero(above(own, score))
                ranks[first + j] = others + j + 1
    return ranks


@dataclass(frozen=True)
class RankingMetrics:
    """Per-query values of one direction; queries without any positive are left out."""

    queries: Ints
    """[q] numbers of the queries that have a positive."""
    best_rank: Ints
    """[q] rank of the best positive."""
    average_precision: Floats
    """[q] mean over positives of the precision at their rank."""
    average_precision_at_r: Floats
    """[q] the same over the first R ranks only, R the query's number of positives (Musgrave et al. 2020)."""
    found: Floats
    """[q, k] positives among the first K, for each K of ``ks``."""
    ndcg: Floats
    """[q, k] normalised discounted cumulative gain of the first K, in [0, 1]; every positive has the gain 1."""
    n_positives: Ints
    """[q]"""
    ks: tuple[int, ...]

    def columns(self) -> dict[str, Floats]:
        """Named per-query values, whose means are the metrics."""
        best = self.best_rank
        named = {f"R@{k}": (best <= k).astype(np.float64) for k in self.ks}
        named["MRR"] = 1.0 / best
        named["mAP"] = self.average_precision
        named["mAP@R"] = self.average_precision_at_r
        named |= {f"recall_all@{k}": self.found[:, i] / self.n_positives for i, k in enumerate(self.ks)}
        named |= {f"precision@{k}": self.found[:, i] / k for i, k in enumerate(self.ks)}
        named |= {f"NDCG@{k}": self.ndcg[:, i] for i, k in enumerate(self.ks)}
        return named


def ranking_metrics(ranks: Ints, positives: Positives, ks: tuple[int, ...]) -> RankingMetrics:
    """Per-query metrics from the ranks of all positives (see :func:`positive_ranks`)."""
    counts = positives.counts
    queries = np.flatnonzero(counts)
    n, starts = counts[queries], positives.starts[queries]
    if len(queries) == 0:
        raise InputError("no query has a positive: nothing to evaluate")
    number = np.arange(len(ranks)) - np.repeat(starts, n) + 1  # 1, 2, ... within each query, best first
    precision = number / ranks
    early = np.where(ranks <= np.repeat(n, n), precision, 0.0)
    gains = 1 / np.log2(ranks + 1.0)  # [pairs]
    ideal = np.cumsum(1 / np.log2(np.arange(1, n.max() + 1) + 1.0))  # [r]: r positives in the first r places
    return RankingMetrics(
        queries=queries,
        best_rank=ranks[starts],
        average_precision=np.add.reduceat(precision, starts) / n,
        average_precision_at_r=np.add.reduceat(early, starts) / n,
        found=np.stack([np.add.reduceat((ranks <= k).astype(np.float64), starts) for k in ks], axis=1),
        ndcg=np.stack(
            [
                np.add.reduceat(np.where(ranks <= k, gains, 0.0), starts) / ideal[np.minimum(n, k) - 1]
                for k in ks
            ],
            axis=1,
        ),
        n_positives=n,
        ks=ks,
    )
