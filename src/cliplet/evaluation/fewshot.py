"""Few-shot classification: how good classes learned from 1, 2, 4... labelled photos are, adapter by adapter.

Each draw takes k photos of every class from the train photos; what is learned from them classifies the test photos. An
adapter's settings are chosen for each k inside the train photos: by other draws of k photos, on train photos that these
leave. The test photos choose nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.classifier import Classifier
from cliplet.classification.coder import make_head
from cliplet.classification.fewshot import ADAPTERS, Adapter, Shots
from cliplet.encoders.base import Embeddings
from cliplet.encoders.embed import Progress
from cliplet.errors import InputError
from cliplet.statistics.kendall import Floats, Ints
from cliplet.statistics.resampling import Interval, bootstrap_mean, paired_mean_test

CHOOSING_DRAWS = 3
CHOOSING_PHOTOS = 500
BASELINE = "probe"
"""What every other adapter is compared with."""


@dataclass(frozen=True)
class FewShotData:
    """Unit vectors of labelled photos."""

    train: Embeddings
    """[n, d] photos that the labelled ones are drawn from."""
    train_labels: Ints
    """[n] their classes."""
    test: Embeddings
    """[m, d] photos that results are reported on."""
    test_labels: Ints
    """[m] their classes."""
    classes: list[str]
    """Names of the classes."""


@dataclass(frozen=True)
class FewShotResult:
    """An adapter with k photos a class."""

    adapter: str
    """Its name."""
    shots: int
    """k."""
    accuracy: Interval
    """Mean over draws; the interval resamples test photos."""
    by_draw: Floats
    """[draws] accuracy of each draw."""
    settings: dict[str, float] = field(default_factory=dict)
    """What was chosen inside the train photos."""
    difference: Interval | None = None
    """To the baseline on the same draws; None for the baseline itself."""
    p_value: float = math.nan
    """Of the difference, by swapping both on a random half of the test photos."""
    wins: int = 0
    """Draws in which it is better than the baseline."""

    def row(self) -> dict[str, Any]:
        """Its numbers, times 100."""
        low, high = (
            (math.nan, math.nan) if self.difference is None else (self.difference.low, self.difference.high)
        )
        return {
            "adapter": self.adapter,
            "shots": self.shots,
            "top-1": round(100 * self.accuracy.value, 1),
            "sd of draws": round(100 * float(self.by_draw.std()), 1),
            "difference": None if self.difference is None else round(100 * self.difference.value, 1),
            "low": None if self.difference is None else round(100 * low, 1),
            "high": None if self.difference is None else round(100 * high, 1),
            "p": None if self.difference is None else round(self.p_value, 4),
            "wins": f"{self.wins} of {len(self.by_draw)}",
            "settings": self.settings,
        }


def drawn(labels: Ints, classes: int, shots: int, *seed: int) -> Ints:
    """``shots`` photos of every class; with one seed, more shots hold the fewer ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    return np.concatenate([order[labels[order] == c][:shots] for c in range(classes)])


def evaluate_fewshot(
    data: FewShotData,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    draws: int = 10,
    adapters: Sequence[str] | None = None,
    classifier: Classifier | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    kept: dict[int, tuple[NDArray[np.float64], dict[str, float]]] | None = None,
) -> list[FewShotResult]:
    """Accuracies of adapters on draws of labelled photos.

    Args:
        data: the photos.
        shots: labelled photos a class.
        draws: of each number.
        adapters: their names; default: all. The baseline (``probe``) is always among them.
        classifier: one for ``data.classes`` whose texts, rule and unlabelled photos the adapters may use; default:
            labelled photos are all there is.
        resamples: of the intervals and of the test.
        seed: of all draws.
        progress: called with (done, total) of the pairs of adapter and number of photos.
        kept: what the baseline got, kept from one call to the next on the same data, draws and seed.

    Raises:
        InputError: an unknown adapter, or a class with fewer train photos than shots.
    """
    _check(data, shots, draws)
    chosen = [BASELINE, *(name for name in adapters or ADAPTERS if name != BASELINE)]
    unknown = [name for name in chosen if name not in ADAPTERS]
    if unknown:
        raise InputError(f"unknown adapter {unknown[0]!r}: choose from {', '.join(ADAPTERS)}")
    text, bank, unlabelled = None, None, None
    if classifier is not None:
        text = make_head(classifier.bank, classifier.rule, classifier.unlabelled)
        bank, unlabelled = classifier.bank, classifier.unlabelled
    everything = Shots(data.train, data.train_labels, len(data.classes), unlabelled, text, bank)
    results, done, kept = [], 0, {} if kept is None else kept
    for k in shots:
        baseline = None
        for name in chosen:
            if name == BASELINE and k in kept:
                right, settings = kept[k]
            else:
                settings = settings_inside(everything, ADAPTERS[name], k, seed)
                right = _right(everything, ADAPTERS[name], settings, data, k, draws, seed)
            if name == BASELINE:
                kept[k] = right, settings
            results.append(_result(name, k, right, settings, baseline, resamples, seed))
            baseline = right if baseline is None else baseline
            done += 1
            if progress is not None:
                progress(done, len(shots) * len(chosen))
    return results


def settings_inside(train: Shots, adapter: Adapter, shots: int, seed: int = 0) -> dict[str, float]:
    """An adapter's settings for so many photos a class, chosen by other draws of the train photos.

    The first of those with the highest mean accuracy on the train photos that each draw leaves, at most 500 of them.
    """
    choices = adapter.choices()
    if len(choices) < 2:
        return choices[0]
    right = np.zeros(len(choices))
    for draw in range(CHOOSING_DRAWS):
        rows = drawn(train.labels, train.classes, shots, seed, 1, draw)
        rest = np.setdiff1d(np.arange(len(train.labels)), rows)
        rest = np.random.default_rng((seed, 2, draw)).permutation(rest)[:CHOOSING_PHOTOS]
        if not len(rest):
            return choices[0]
        for i, settings in enumerate(choices):
            scores = adapter.fit(train.only(rows), settings).scores(train.vectors[rest])
            right[i] += (scores.argmax(axis=1) == train.labels[rest]).mean()
    return choices[int(right.argmax())]


def _right(
    train: Shots,
    adapter: Adapter,
    settings: dict[str, float],
    data: FewShotData,
    shots: int,
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """[draws, m] which test photos are right."""
    rows = []
    for draw in range(draws):
        head = adapter.fit(train.only(drawn(train.labels, train.classes, shots, seed, 0, draw)), settings)
        rows.append(head.scores(data.test).argmax(axis=1) == data.test_labels)
    return np.array(rows, dtype=np.float64)


def _result(
    name: str,
    shots: int,
    right: NDArray[np.float64],
    settings: dict[str, float],
    baseline: NDArray[np.float64] | None,
    resamples: int,
    seed: int,
) -> FewShotResult:
    accuracy = bootstrap_mean(right.mean(axis=0), resamples=resamples, seed=seed)
    by_draw = right.mean(axis=1)
    if baseline is None:
        return FewShotResult(name, shots, accuracy, by_draw, settings)
    test = paired_mean_test(right.mean(axis=0), baseline.mean(axis=0), resamples=resamples, seed=seed)
    return FewShotResult(
        name, shots, accuracy, by_draw, settings,
        Interval(test.difference, test.low, test.high, right.shape[1]), test.p_value,
        int((by_draw > baseline.mean(axis=1)).sum()),
    )  # fmt: skip


def _check(data: FewShotData, shots: Sequence[int], draws: int) -> None:
    if not shots or min(shots) < 1 or draws < 1:
        raise InputError("give at least one draw and one photo a class")
    counts = np.bincount(data.train_labels, minlength=len(data.classes))
    few = int(counts.argmin())
    if counts[few] < max(shots):
        raise InputError(
            f"class {data.classes[few]!r} has {counts[few]} train photos: {max(shots)} shots a class cannot be drawn"
        )
