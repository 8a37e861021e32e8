"""Corpus values as functions of sums over captions, so that any metric can be resampled exactly.

BLEU and METEOR are no means over captions: they are computed from counts summed over the corpus. Kept as one row of
addends a caption, such a value can be recomputed on any resample of the corpus, which the intervals and the paired
test here do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.statistics.resampling import Interval, PairedTest, percentile_interval, resample_weights

Floats = NDArray[np.float64]
Value = Callable[[Floats], Floats]


@dataclass(frozen=True)
class CorpusStatistic:
    """A corpus value that depends on the captions only through sums."""

    addends: Floats
    """``[captions, k]``: what each caption adds."""
    value: Callable[[Floats], Floats]
    """From sums ``[..., k]`` to the corpus value ``[...]``."""

    @classmethod
    def mean(cls, per_caption: NDArray[Any]) -> "CorpusStatistic":
        """The mean over captions that have a value (not NaN)."""
        values = np.asarray(per_caption, dtype=np.float64)
        known = ~np.isnan(values)
        return cls(np.stack([np.where(known, values, 0), known], axis=1).astype(np.float64), _ratio)

    @property
    def is_mean(self) -> bool:
        """Whether the value is the mean over captions."""
        return self.value is _ratio

    def corpus(self) -> float:
        """The value of the whole corpus."""
        return float(self.value(self.addends.sum(axis=0)))

    def by_group(self, codes: NDArray[np.integer], groups: int) -> Floats:
        """Sums ``[groups, k]`` of the captions of each group (an image)."""
        return np.stack([np.bincount(codes, column, groups) for column in self.addends.T], axis=1)

    def placed(self, rows: Sequence[int], n: int) -> "CorpusStatistic":
        """The same captions as rows of a table of ``n``, the others adding nothing."""
        addends = np.zeros((n, self.addends.shape[1]))
        addends[list(rows)] = self.addends
        return CorpusStatistic(addends, self.value)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def corpus_interval(
    statistic: CorpusStatistic,
    images: NDArray[np.integer],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A corpus value with its percentile bootstrap interval, whole images resampled.

    Args:
        statistic: n captions.
        images: number of each caption's image, ``[n]``.
        resamples: how many.
        level: of the interval.
        seed: of the resamples.
    """
    return corpus_intervals({"": statistic}, images, resamples, level, seed)[""]


def corpus_intervals(
    statistics: Mapping[str, CorpusStatistic],
    images: NDArray[np.integer],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """As :func:`corpus_interval`, for several values of the same captions; the resamples are drawn once."""
    parts = []
    for statistic in statistics.values():
        groups = statistic.by_group(images, int(images.max()) + 1 if len(images) else 0)
        counted = int(statistic.addends.any(axis=1).sum())
        parts.append((groups[groups.any(axis=1)], statistic.value, counted))
    return dict(zip(statistics, _grouped_intervals(parts, resamples, level, seed), strict=True))


def grouped_interval(
    groups: Floats, value: Value, n: int, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """As :func:`corpus_interval`, from sums by image ``[images, k]`` of ``n`` captions; NaN ends for one image."""
    return _grouped_intervals([(groups, value, n)], resamples, level, seed)[0]


def _grouped_intervals(
    parts: Sequence[tuple[Floats, Value, int]], resamples: int, level: float, seed: int
) -> list[Interval]:
    """One interval for each (sums by image, value, captions); those of as many images share their resamples."""
    samples: list[list[Floats]] = [[] for _ in parts]
    for size in {len(groups) for groups, _, _ in parts} - {0, 1}:  # one image says nothing of others
        for drawn in resample_weights(size, resamples, seed):
            weights = drawn.astype(np.float64)
            for own, (groups, value, _) in zip(samples, parts, strict=True):
                if len(groups) == size:
                    own.append(value(weights @ groups))
    found = []
    for own, (groups, value, n) in zip(samples, parts, strict=True):
        ends = percentile_interval(np.concatenate(own), level) if own else (float("nan"), float("nan"))
        whole = float(value(groups.sum(axis=0))) if len(groups) else float("nan")
        found.append(Interval(whole, *ends, n))
    return found


def paired_corpus_test(
    first: Floats, second: Floats, value: Value, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedTest:
    """Whether one system's corpus value exceeds another's on the same images.

    The interval is the paired bootstrap (Koehn 2004): both systems on the same resampled images. The p-value is that
    of approximate randomisation (Riezler and Maxwell 2005): the two systems' outputs are swapped on a random half of
    the images.

    Args:
        first: sums by image of the first system, ``[images, k]``.
        second: of the second.
        value: from sums to the corpus value.
        resamples: how many, and how many permutations.
        level: of the interval.
        seed: of both.
    """
    observed = float(value(first.sum(axis=0)) - value(second.sum(axis=0)))
    weights = list(resample_weights(len(first), resamples, seed))
    samples = np.concatenate([value(w @ first) - value(w @ second) for w in weights])
    gap, total = first - second, second.sum(axis=0)
    rng = np.random.default_rng([seed, 1])
    null = []
    for _ in range(resamples):
        kept = rng.random(len(first)) < 0.5
        moved = gap[kept].sum(axis=0)
        null.append(value(total + moved) - value(total + gap.sum(axis=0) - moved))
    extreme = np.count_nonzero(np.abs(np.array(null)) >= abs(observed) - 1e-12)
    ends = percentile_interval(samples if len(first) > 1 else samples[:0], level)
    return PairedTest(observed, *ends, (1 + extreme) / (1 + resamples), len(first))


def interval_notes(intervals: Iterable[Interval]) -> list[str]:
    """What to say where a value has no interval: it is of one image."""
    one = any(not np.isnan(i.value) and np.isnan(i.low) for i in intervals)
    return (
        ["scores of one image have no interval: it takes two or more images to see how much they vary"]
        if one
        else []
    )
