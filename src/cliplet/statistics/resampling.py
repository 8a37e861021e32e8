"""Agreement between scores and people: correlations, pairwise accuracy, intervals and significance.

Everything is a pure function of arrays. Values lie in [-1, 1] (correlations) or [0, 1] (accuracies); reports
multiply by 100. NaN: a statistic of data that hold a NaN is NaN, unless ``nan="omit"`` drops these rows first.
Intervals come from resampling whole *groups* (images): ratings of one photo are not independent, and intervals that
pretend they are come out too narrow. One image gives no interval (NaN ends). Shares of 0 and of 100 %, where every
resample is the same, get Wilson's interval by images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError
from cliplet.statistics.kendall import ClusterTau, Floats, Ints, TauCounts, dense_ranks

NanPolicy = Literal["propagate", "omit"]
TieRule = Literal["half", "loss", "drop"]
Statistic = Literal["tau-b", "tau-c", "pearson", "spearman"]
STATISTICS: tuple[Statistic, ...] = ("tau-b", "tau-c", "pearson", "spearman")
CHUNK_CELLS = 4_000_000  # weights held at once while resampling


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval."""

    value: float
    """The statistic on the data as they are."""
    low: float
    """Lower end of the interval; NaN where one image cannot give one."""
    high: float
    """Upper end of it."""
    n: int
    """Rows (or comparisons) the value was computed from."""


# ---------------------------------------------------------------- statistics of two columns
def _clean(x: ArrayLike, y: ArrayLike, nan: NanPolicy) -> tuple[Floats, Floats, bool]:
    """Both columns as float64, rows with NaN dropped if asked for, and whether a NaN is left."""
    a, b = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if len(a) != len(b):
        raise InputError(
            f"two columns to correlate have {len(a)} and {len(b)} rows; they must be equally long"
        )
    bad = np.isnan(a) | np.isnan(b)
    if nan == "omit":
        a, b, bad = a[~bad], b[~bad], bad[~bad]
    return a, b, bool(bad.any())


def kendall_tau(
    x: ArrayLike, y: ArrayLike, variant: Literal["b", "c"] = "b", nan: NanPolicy = "propagate"
) -> float:
    """Kendall's tau-b or tau-c, in [-1, 1].

    tau-b = (C - D) / sqrt((N - Tx)(N - Ty)) and tau-c = 2 (C - D) / (n^2 (m - 1)/m), with C and D the concordant and
    discordant pairs, N = n(n-1)/2, Tx and Ty the pairs tied in x and in y, and m the smaller number of distinct
    values. NaN when x or y is constant or has fewer than two rows. Equal to ``scipy.stats.kendalltau``.
    """
    a, b, bad = _clean(x, y, nan)
    return float("nan") if bad else TauCounts(a, b).tau(variant)


def _pearson_from_sums(sums: Floats) -> Floats:
    """Pearson's r from [..., 6] sums of 1, x, y, xx, yy, xy; NaN where a variance is 0."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    x_var, y_var = n * xx - x * x, n * yy - y * y
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (n * xy - x * y) / np.sqrt(x_var) / np.sqrt(y_var)
    return np.where((x_var > 0) & (y_var > 0), np.clip(r, -1.0, 1.0), np.nan)


def _moments(x: Floats, y: Floats) -> Floats:
    """[n, 6] terms of the sums that Pearson's r needs."""
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _standardised(values: Floats) -> Floats:
    """Centred and scaled, so that sums of squares keep their precision; exactly 0 where the column is constant."""
    if len(values) == 0 or values.min() == values.max():
        return np.zeros_like(values)
    centred = values - values.mean()
    return centred / centred.std()


def pearson(x: ArrayLike, y: ArrayLike, nan: NanPolicy = "propagate") -> float:
    """Pearson's linear correlation, in [-1, 1]; NaN when x or y is constant or has fewer than two rows."""
    a, b, bad = _clean(x, y, nan)
    if bad:
        return float("nan")
    return float(_pearson_from_sums(_moments(_standardised(a), _standardised(b)).sum(axis=0)))


def mid_ranks(ranks: Ints, levels: int, weights: Floats | None = None) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs; ``weights`` say how often each row counts."""
    counts = np.bincount(ranks, weights, levels).astype(np.float64)
    return (np.cumsum(counts) - counts + (counts + 1) / 2)[ranks]


def spearman(x: ArrayLike, y: ArrayLike, nan: NanPolicy = "propagate") -> float:
    """Spearman's rank correlation (Pearson's r of mid-ranks), in [-1, 1]."""
    a, b, bad = _clean(x, y, nan)
    return float("nan") if bad else pearson(mid_ranks(*dense_ranks(a)), mid_ranks(*dense_ranks(b)))


def correlation(statistic: Statistic, x: ArrayLike, y: ArrayLike, nan: NanPolicy = "propagate") -> float:
    """One of ``tau-b``, ``tau-c``, ``pearson`` and ``spearman`` by name."""
    if statistic in ("tau-b", "tau-c"):
        return kendall_tau(x, y, "b" if statistic == "tau-b" else "c", nan)
    if statistic == "pearson":
        return pearson(x, y, nan)
    if statistic == "spearman":
        return spearman(x, y, nan)
    raise InputError(f"unknown statistic {statistic!r}; use one of {', '.join(STATISTICS)}")


def pairwise_wins(better: ArrayLike, worse: ArrayLike, ties: TieRule = "half") -> Floats:
    """For each pair 1 if ``better`` scores higher, 0 if lower; a tie gives .5, 0 ("loss") or NaN ("drop").

    A NaN score on either side gives NaN, under every rule.
    """
    a, b = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    if ties not in ("half", "loss", "drop"):
        raise InputError(f"unknown rule for ties {ties!r}; use half, loss or drop")
    wins = np.where(a > b, 1.0, 0.0)
    wins[a == b] = {"half": 0.5, "loss": 0.0, "drop": np.nan}[ties]
    wins[np.isnan(a) | np.isnan(b)] = np.nan
    return wins


def pairwise_accuracy(better: ArrayLike, worse: ArrayLike, ties: TieRule = "half") -> float:
    """Share of pairs in which the caption that people prefer scores higher, in [0, 1] (see :func:`pairwise_wins`)."""
    wins = pairwise_wins(better, worse, ties)
    wins = wins[~np.isnan(wins)]
    return float(wins.mean()) if len(wins) else float("nan")


# ---------------------------------------------------------------- bootstrap over groups
def group_codes(groups: Sequence[object] | NDArray | None, n: int) -> tuple[Ints, int]:
    """Group names as codes 0..G-1; without groups each row is its own."""
    if groups is None:
        return np.arange(n), n
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(codes) != n:
        raise InputError(f"{len(codes)} group names for {n} rows; there must be one a row")
    return codes.astype(np.int64).ravel(), len(names)


def resample_weights(n_groups: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Blocks [b, G] of how often each group is drawn, ``resamples`` rows in all; the same for one seed."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // max(n_groups, 1))
    for start in range(0, resamples, step):
        yield rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=min(step, resamples - start))


def weighted_statistic(
    statistic: Statistic, x: Floats, y: Floats, codes: Ints, n_groups: int
) -> Callable[[NDArray[np.integer]], Floats]:
    """A function from weights [resamples, G] to the statistic of each resample [resamples]."""
    if statistic in ("tau-b", "tau-c"):
        variant: Literal["b", "c"] = "b" if statistic == "tau-b" else "c"
        if ClusterTau.fits(y, n_groups):
            table = ClusterTau(x, y, codes, n_groups)
            return lambda weights: table.tau(variant, weights)
        counts = TauCounts(x, y)
        return lambda weights: np.array([counts.tau(variant, w[codes].astype(np.float64)) for w in weights])
    if statistic == "pearson":
        sums = np.zeros((n_groups, 6))
        np.add.at(sums, codes, _moments(_standardised(x), _standardised(y)))
        return lambda weights: _pearson_from_sums(weights.astype(np.float64) @ sums)
    if statistic == "spearman":
        ranks = (dense_ranks(x), dense_ranks(y))

        def one(w: Floats) -> float:
            a, b = (mid_ranks(*r, weights=w) for r in ranks)
            a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
            return float(_pearson_from_sums(w @ _moments(a, b)))

        return lambda weights: np.array([one(w[codes].astype(np.float64)) for w in weights])
    raise InputError(f"unknown statistic {statistic!r}; use one of {', '.join(STATISTICS)}")


def percentile_interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of the samples, NaN left out."""
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    tail = (1 - level) / 2 * 100
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) score interval of a share of n independent cases, in [0, 1]; never empty, even at 0 and 1."""
    from statistics import NormalDist  # decimal and fractions come with it

    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle, half = share + z2 / (2 * n), (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def _mean_ends(values: Floats, samples: Floats, n_groups: int, level: float) -> tuple[float, float]:
    """The interval of a mean: Wilson's by groups where all values are 0 or all are 1, else of the resamples."""
    if n_groups < 2 or not len(samples):
        return float("nan"), float("nan")
    share = round(float(values[0]))
    if share in (0, 1) and np.allclose(values, share, rtol=0, atol=1e-9):
        return wilson_interval(share, n_groups, level)
    return percentile_interval(samples, level)


def bootstrap_samples(
    statistic: Statistic,
    x: ArrayLike,
    y: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """The statistic on ``resamples`` resamples of whole groups; one seed draws the same groups for every metric.

    A resample in which the statistic is undefined (a constant column) gives NaN; one group gives NaN alone.
    """
    a, b, bad = _clean(x, y, "propagate")
    if bad:
        raise InputError("a column to resample holds NaN; drop the rows whose score failed first")
    codes, n_groups = group_codes(groups, len(a))
    if n_groups < 2:
        return np.full(resamples, np.nan)
    function = weighted_statistic(statistic, a, b, codes, n_groups)
    return np.concatenate([np.empty(0), *(function(w) for w in resample_weights(n_groups, resamples, seed))])


def bootstrap(
    statistic: Statistic,
    x: ArrayLike,
    y: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A correlation with its percentile bootstrap interval, whole groups (images) resampled together."""
    samples = bootstrap_samples(statistic, x, y, groups, resamples, seed)
    return Interval(correlation(statistic, x, y), *percentile_interval(samples, level), np.asarray(x).size)


def _group_means(
    values: ArrayLike, groups: Sequence[object] | NDArray | None
) -> tuple[Floats, Floats, Floats]:
    """The values without NaN, and each group's sum and count."""
    v = np.asarray(values, dtype=np.float64).ravel()
    keep = ~np.isnan(v)
    codes, _ = group_codes(None if groups is None else np.asarray(groups)[keep], int(keep.sum()))
    v = v[keep]
    return v, np.bincount(codes, v).astype(np.float64), np.bincount(codes).astype(np.float64)


def bootstrap_mean(
    values: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A mean (or a share, for values 0 and 1) with its interval by group; NaN values are left out.

    The interval is the percentile bootstrap's, Wilson's where all values are 0 or all are 1, and NaN for one group.
    """
    v, sums, counts = _group_means(values, groups)
    if len(v) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    blocks = [(w @ sums) / (w @ counts) for w in resample_weights(len(sums), resamples, seed)]
    samples = np.concatenate([np.empty(0), *blocks])
    return Interval(float(v.mean()), *_mean_ends(v, samples, len(sums), level), len(v))


def bootstrap_means(
    table: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Means of several columns [n, k] of the same rows, each with its interval; ``resamples=0`` leaves NaN ends."""
    rows = np.asarray(table, dtype=np.float64)
    means = rows.mean(axis=0)
    if resamples == 0:
        return [Interval(float(m), float("nan"), float("nan"), len(rows)) for m in means]
    codes, n_groups = group_codes(groups, len(rows))
    counts = np.bincount(codes, minlength=n_groups)
    sums = np.stack([np.bincount(codes, column, n_groups) for column in rows.T], axis=1)  # [G, k]
    blocks = [(w @ sums) / (w @ counts)[:, None] for w in resample_weights(n_groups, resamples, seed)]
    samples = np.concatenate(blocks)  # [resamples, k]
    return [
        Interval(float(m), *_mean_ends(column, s, n_groups, level), len(rows))
        for m, column, s in zip(means, rows.T, samples.T, strict=True)
    ]


# ---------------------------------------------------------------- is one metric better than another?
@dataclass(frozen=True)
class PairedTest:
    """The difference between two metrics on the same rows."""

    difference: float
    """Statistic of the first minus that of the second."""
    low: float
    """Lower end of the paired bootstrap interval of the difference."""
    high: float
    """Upper end of it."""
    p_value: float
    """Two-sided permutation p-value."""
    n: int
    """Rows."""


def _p_value(observed: float, null: Floats) -> float:
    """Two-sided, counting the observed value itself, so it is never 0."""
    return float((1 + np.count_nonzero(np.abs(null) >= abs(observed) - 1e-12)) / (1 + len(null)))


def _swaps(n_groups: int, resamples: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    rng = np.random.default_rng([seed, 1])
    step = max(1, CHUNK_CELLS // max(n_groups, 1))
    for start in range(0, resamples, step):
        yield rng.random((min(step, resamples - start), n_groups)) < 0.5


def permutation_p_value(
    statistic: Statistic,
    first: ArrayLike,
    second: ArrayLike,
    ratings: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of "both metrics agree equally well with the ratings".

    The two metrics' scores are swapped on a random half of the images, ``resamples`` times; metrics have different
    units, so they are swapped as mid-ranks scaled to [0, 1], for Pearson as standardised scores (PERM-BOTH of Deutsch
    et al. 2021, arXiv 2104.00054, uses standardised scores throughout).
    """
    a, y, bad = _clean(first, ratings, "propagate")
    b, _, also_bad = _clean(second, ratings, "propagate")
    if bad or also_bad:
        raise InputError("scores to compare hold NaN; drop the rows whose score failed first")
    observed = correlation(statistic, a, y) - correlation(statistic, b, y)
    codes, n_groups = group_codes(groups, len(y))
    if statistic == "pearson":
        a, b = _standardised(a), _standardised(b)
    else:
        a, b = (mid_ranks(*dense_ranks(s)) / len(s) for s in (a, b))
    # Both metrics' rows stand below each other as 2G groups; a swap picks for each image one of its two groups.
    both, ratings_twice = np.concatenate([a, b]), np.concatenate([y, y])
    function = weighted_statistic(
        statistic, both, ratings_twice, np.concatenate([codes, codes + n_groups]), 2 * n_groups
    )
    null = []
    for swap in _swaps(n_groups, resamples, seed):
        chosen = np.concatenate([swap, ~swap], axis=1).astype(np.int64)
        null.append(function(chosen) - function(1 - chosen))
    return _p_value(observed, np.concatenate([np.empty(0), *null]))


def paired_correlation_test(
    statistic: Statistic,
    first: ArrayLike,
    second: ArrayLike,
    ratings: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    samples: tuple[Floats, Floats] | None = None,
) -> PairedTest:
    """Whether ``first`` agrees with the ratings better than ``second`` does.

    The interval resamples images and takes both metrics on the same draw (``samples``: what
    :func:`bootstrap_samples` gave for both with one seed, if already at hand); the p-value is
    :func:`permutation_p_value`.
    """
    p_value = permutation_p_value(statistic, first, second, ratings, groups, resamples, seed)
    if samples is None:
        a, b = (bootstrap_samples(statistic, s, ratings, groups, resamples, seed) for s in (first, second))
    else:
        a, b = samples
    difference = correlation(statistic, first, ratings) - correlation(statistic, second, ratings)
    return PairedTest(difference, *percentile_interval(a - b, level), p_value, np.asarray(ratings).size)


def paired_mean_test(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[object] | NDArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Whether the mean of ``first`` exceeds that of ``second`` (scores of two captioners, wins of two metrics).

    Paired bootstrap interval of the mean difference and a sign-flip permutation p-value, both by group. Rows where
    either value is NaN are left out.
    """
    d, sums, counts = _group_means(
        np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), groups
    )
    if len(d) == 0:
        return PairedTest(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    means = [(w @ sums) / (w @ counts) for w in resample_weights(len(sums), resamples, seed)]
    flips = [np.where(swap, -1.0, 1.0) @ sums / len(d) for swap in _swaps(len(sums), resamples, seed)]
    samples = np.concatenate([np.empty(0), *means])
    low, high = percentile_interval(samples if len(sums) > 1 else samples[:0], level)
    return PairedTest(
        float(d.mean()), low, high, _p_value(float(d.mean()), np.concatenate([np.empty(0), *flips])), len(d)
    )


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction of several p-values (Holm 1979): adjusted values in the given order, NaN kept."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted
