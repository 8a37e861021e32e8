"""Kendall's rank correlation: exact, O(n log n), and fast under thousands of bootstrap weightings.

Two views of the same count. :class:`TauCounts` takes a weight for every row and needs ``O(n log n)`` a weighting:
it gives the point estimate and works for any data. :class:`ClusterTau` first adds the sign products of all pairs of
rows up by cluster (image), after which a resample of the clusters is one quadratic form, ``w A w``: a thousand
bootstrap resamples of Flickr8k-Expert are a single matrix product.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Variant = Literal["b", "c"]


def dense_ranks(values: ArrayLike) -> tuple[Ints, int]:
    """Ranks 0..k-1 of ``values``, equal values sharing one, and k."""
    distinct, ranks = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    return ranks.astype(np.int64).ravel(), len(distinct)


def _pairs(counts: NDArray) -> float:
    """How many pairs lie within groups of these (weighted) sizes."""
    return float((counts * (counts - 1)).sum()) / 2


class TauCounts:
    """Concordant and tied pairs of a sample whose rows may carry whole-number weights (how often each was drawn).

    Ranks of y are split bit by bit, highest first. Rows that agree in the higher bits form one run, kept in the order
    of x; within a run every (0, 1) pair in this order is concordant, and a running sum counts them. The order of rows
    at each bit does not depend on the weights, so it is made once.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike) -> None:
        self.x, self.x_levels = dense_ranks(x)
        self.y, self.y_levels = dense_ranks(y)
        self.xy, self.xy_levels = dense_ranks(self.x * self.y_levels + self.y)
        self._bits: list[tuple[Ints, NDArray[np.bool_], Ints]] = []
        order = np.lexsort((-self.y, self.x))  # ties in x run downwards in y, so they never look concordant
        for bit in reversed(range(max(self.y_levels - 1, 0).bit_length())):
            ones = (self.y[order] >> bit & 1).astype(bool)
            prefix = self.y[order] >> (bit + 1)
            starts = np.searchsorted(prefix, prefix, side="left")  # where each row's run begins
            self._bits.append((order, ones, starts))
            order = order[np.argsort(self.y[order] >> bit, kind="stable")]

    def concordant(self, weights: Floats) -> float:
        """The (weighted) number of pairs that x and y order alike."""
        total = 0.0
        for order, ones, starts in self._bits:
            w = weights[order]
            zeros_before = np.concatenate(([0.0], np.cumsum(np.where(ones, 0.0, w))))
            total += float((w * (zeros_before[:-1] - zeros_before[starts]))[ones].sum())
        return total

    def tau(self, variant: Variant, weights: Floats | None = None) -> float:
        """Kendall's tau-b or tau-c of the weighted sample; NaN where x or y is constant or there are no pairs."""
        w = np.ones(len(self.x)) if weights is None else weights
        x_counts = np.bincount(self.x, w, self.x_levels)
        y_counts = np.bincount(self.y, w, self.y_levels)
        xy_counts = np.bincount(self.xy, w, self.xy_levels)
        n = float(w.sum())
        total, x_ties, y_ties = n * (n - 1) / 2, _pairs(x_counts), _pairs(y_counts)
        difference = 2 * self.concordant(w) - (total - x_ties - y_ties + _pairs(xy_counts))
        classes = min(np.count_nonzero(x_counts), np.count_nonzero(y_counts))
        return float(tau_from_counts(variant, n, difference, x_ties, y_ties, classes))


def tau_from_counts(
    variant: Variant,
    n: ArrayLike,
    difference: ArrayLike,
    x_ties: ArrayLike,
    y_ties: ArrayLike,
    classes: ArrayLike,
) -> Floats:
    """Tau from the counts of pairs; every argument may be an array (one entry a bootstrap draw).

    ``difference`` is concordant minus discordant, ``classes`` the smaller number of distinct values of x and of y.
    tau-b = difference / sqrt((N - x_ties)(N - y_ties)), N = n(n-1)/2; tau-c = 2 difference / (n^2 (m-1)/m).
    """
    n, difference, classes = (np.asarray(a, dtype=np.float64) for a in (n, difference, classes))
    total = n * (n - 1) / 2
    x_untied, y_untied = total - np.asarray(x_ties), total - np.asarray(y_ties)
    with np.errstate(divide="ignore", invalid="ignore"):
        if variant == "b":
            tau = difference / np.sqrt(x_untied) / np.sqrt(y_untied)
        else:
            tau = 2 * difference / (n**2 * (classes - 1) / classes)
    return np.where((x_untied > 0) & (y_untied > 0), np.clip(tau, -1.0, 1.0), np.nan)


class ClusterTau:
    """Tau of any resample of clusters, from a table of sign products between clusters (see the module's text).

    Memory is 8 G^2 bytes for G clusters, and building takes one pass over rows with a vector of length G each, so
    it suits up to a few thousand images and ratings with up to a few hundred levels: :meth:`fits` says whether.
    """

    MAX_CLUSTERS = 5_000
    MAX_LEVELS = 512

    def __init__(self, x: ArrayLike, y: ArrayLike, clusters: Ints, n_clusters: int) -> None:
        self.x, self.x_levels = dense_ranks(x)
        self.y, self.y_levels = dense_ranks(y)
        self.clusters, self.n_clusters = clusters, n_clusters
        self.y_counts = np.zeros((n_clusters, self.y_levels))  # [G, levels of y]
        np.add.at(self.y_counts, (clusters, self.y), 1.0)
        # Sums of these whole numbers stay below n times the rows of a cluster; where that is below 2^24 the products
        # are exact in float32, at half the cost.
        largest = 2 * len(self.x) * int(np.bincount(clusters, minlength=1).max())
        dtype = np.float32 if largest < 2**24 else np.float64
        self.products = self._sign_products().astype(dtype)
        self.ties = self._tie_products().astype(dtype)

    @classmethod
    def fits(cls, y: ArrayLike, n_clusters: int) -> bool:
        """Whether the table for these ratings and this many clusters is small enough to be worth building."""
        return n_clusters <= cls.MAX_CLUSTERS and len(np.unique(np.asarray(y))) <= cls.MAX_LEVELS

    def _sign_products(self) -> Floats:
        """[G, G]: sums of sign(dx) sign(dy) over pairs of rows (row with larger x, row with smaller x)."""
        levels = np.arange(self.y_levels)
        signs = np.sign(levels[:, None] - levels[None, :]).astype(
            np.float64
        )  # [level, level of an earlier row]
        below = np.zeros(
            (self.y_levels, self.n_clusters)
        )  # [level, G]: what a row of this level would add now
        table = np.zeros((self.n_clusters, self.n_clusters))
        order = np.argsort(self.x, kind="stable")
        edges = np.flatnonzero(np.diff(self.x[order])) + 1
        for tied in np.split(order, edges):  # rows that share one value of x
            rows = [(self.clusters[i], self.y[i]) for i in tied]
            for cluster, level in rows:
                table[cluster] += below[level]
            for cluster, level in rows:
                below[:, cluster] += signs[:, level]
        return table

    def _tie_products(self) -> Floats:
        """[G, G] table T with ``w T w`` = the sum of squared (weighted) sizes of the groups of equal x."""
        table = np.zeros((self.n_clusters, self.n_clusters))
        order = np.argsort(self.x, kind="stable")
        for tied in np.split(self.clusters[order], np.flatnonzero(np.diff(self.x[order])) + 1):
            if len(tied) == 1:
                table[tied[0], tied[0]] += 1
            else:
                clusters, counts = np.unique(tied, return_counts=True)
                table[np.ix_(clusters, clusters)] += np.outer(counts, counts)
        return table

    def _classes(self, weights: Floats, y_counts: Floats) -> Floats:
        """The smaller number of distinct values of x and of y in each resample; [resamples]."""
        classes = np.count_nonzero(y_counts, axis=1).astype(np.float64)
        spread = np.argsort(-np.bincount(self.x, minlength=self.x_levels), kind="stable")[: 4 * self.y_levels]
        common = np.full(self.x_levels, -1)
        common[spread] = np.arange(len(spread))
        rows = np.flatnonzero(common[self.x] >= 0)
        present = np.zeros((self.n_clusters, len(spread)))
        present[self.clusters[rows], common[self.x[rows]]] = 1
        at_least = np.count_nonzero(weights @ present, axis=1)  # distinct x among the commonest values
        for draw in np.flatnonzero(at_least < classes):  # rare: count them all
            drawn = self.x[weights[draw, self.clusters] > 0]
            classes[draw] = min(classes[draw], len(np.unique(drawn)))
        return classes

    def tau(self, variant: Variant, weights: NDArray[np.integer]) -> Floats:
        """Tau for each row of ``weights`` [resamples, G], the number of times each cluster was drawn; [resamples]."""
        w = weights.astype(np.float64)
        short = weights.astype(self.products.dtype)
        difference = np.einsum("dg,dg->d", short @ self.products, w)  # [resamples]
        y_counts = w @ self.y_counts  # [resamples, levels of y]
        n = y_counts.sum(axis=1)
        x_ties = (np.einsum("dg,dg->d", short @ self.ties, w) - n) / 2
        y_ties = (y_counts * (y_counts - 1)).sum(axis=1) / 2
        return tau_from_counts(variant, n, difference, x_ties, y_ties, self._classes(w, y_counts))
