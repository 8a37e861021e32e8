"""Intervals and paired tests of corpus values that are functions of sums, such as BLEU and METEOR."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cliplet.evaluation.statistics import Interval, PairedTest, resample_weights
from cliplet.metrics.corpus import CorpusStatistic

Floats = NDArray[np.float64]
Value = Callable[[Floats], Floats]


def corpus_interval(
    statistic: CorpusStatistic,
    images: NDArray[np.integer],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A corpus value with its percentile bootstrap interval, whole images resampled.

    Args:
        statistic: n captions.
        images: number of each caption's image, ``[n]``.
        draws: resamples.
        level: of the interval.
        seed: of the resamples.
    """
    groups = statistic.by_group(images, int(images.max()) + 1 if len(images) else 0)
    used = groups.any(axis=1)
    counted = int(statistic.addends.any(axis=1).sum())
    return grouped_interval(groups[used], statistic.value, counted, draws, level, seed)


def grouped_interval(
    groups: Floats, value: Value, n: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """As :func:`corpus_interval`, from sums by image ``[images, k]`` of ``n`` captions."""
    if not len(groups):
        return Interval(float("nan"), float("nan"), float("nan"), n)
    samples = np.concatenate([value(w @ groups) for w in resample_weights(len(groups), draws, seed)])
    return Interval(float(value(groups.sum(axis=0))), *_percentiles(samples, level), n)


def paired_corpus_test(
    first: Floats, second: Floats, value: Value, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedTest:
    """Whether one system's corpus value exceeds another's on the same images.

    The interval is the paired bootstrap (Koehn 2004): both systems on the same resampled images. The p-value is that
    of approximate randomisation (Riezler and Maxwell 2005): the two systems' outputs are swapped on a random half of
    the images.

    Args:
        first: sums by image of the first system, ``[images, k]``.
        second: of the second.
        value: from sums to the corpus value.
        draws: resamples, and permutations.
        level: of the interval.
        seed: of both.
    """
    observed = float(value(first.sum(axis=0)) - value(second.sum(axis=0)))
    weights = list(resample_weights(len(first), draws, seed))
    samples = np.concatenate([value(w @ first) - value(w @ second) for w in weights])
    gap, total = first - second, second.sum(axis=0)
    rng = np.random.default_rng([seed, 1])
    null = []
    for _ in range(draws):
        kept = rng.random(len(first)) < 0.5
        moved = gap[kept].sum(axis=0)
        null.append(value(total + moved) - value(total + gap.sum(axis=0) - moved))
    extreme = np.count_nonzero(np.abs(np.array(null)) >= abs(observed) - 1e-12)
    return PairedTest(observed, *_percentiles(samples, level), (1 + extreme) / (1 + draws), len(first))


def _percentiles(samples: Floats, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2 * 100
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)
