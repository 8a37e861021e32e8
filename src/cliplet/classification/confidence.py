"""From scores to confidence: the softmax's temperature, and the cuts of "none of these" and of several classes."""

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError

KEPT = 0.95
"""Share of labelled photos that "none of these" keeps where it is fitted to them."""
STANDING = 3.0
"""Where nothing is fitted: how many standard deviations a class's name must stand above everyday sentences."""


def softmax(scores: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.floating]:
    """Rows of ``exp(s / temperature)`` that sum to 1."""
    powers = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature at which the softmax of [n, C] scores gives the labels the highest mean log-probability.

    Guo et al. 2017, section 4.2 ("temperature scaling"): one number, by golden-section search over its logarithm from
    1e-4 to 100 times the scores' spread. It never changes which class comes first.

    Raises:
        InputError: no photos, or scores that are all the same.
    """
    spread = float(np.std(scores)) if len(scores) else 0.0
    if spread <= 0:
        raise InputError(
            "the confidence cannot be fitted: there are no labelled photos, or all scores are the same"
        )
    values = np.asarray(scores, np.float64)

    def loss(log: float) -> float:
        scaled = values / np.exp(log)
        peak = scaled.max(axis=1)
        total = np.log(np.exp(scaled - peak[:, None]).sum(axis=1)) + peak
        return float((total - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(1e-4 * spread), np.log(100 * spread)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def expected_calibration_error(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 10
) -> float:
    """Mean difference of confidence and accuracy over equal bins of confidence, weighted by their photos (0 to 1)."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, right, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gaps).sum() / max(1, len(right)))


def fit_cut(evidence: NDArray[np.floating], kept: float = KEPT) -> float:
    """The cut that keeps this share of photos whose class is among the classes: a quantile of their best evidence."""
    return float(np.quantile(evidence, 1 - kept, method="lower"))


def fit_several(evidence: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """The cut of [n, C] evidence at which saying every class above it agrees best with the truth: largest micro-F1."""
    flat, wanted = np.ravel(evidence), np.ravel(truth)
    order = np.argsort(-flat, kind="stable")
    hits = np.cumsum(wanted[order])
    said = np.arange(1, len(flat) + 1)
    last = np.append(np.diff(flat[order]) != 0, True)  # equal evidence is said together
    f1 = np.where(last, 2 * hits / (said + wanted.sum()), -1)
    return float(flat[order][int(f1.argmax())])


def standing(cosines: NDArray[np.floating], background: NDArray[np.floating]) -> NDArray[np.floating]:
    """[n, C] cosines in standard deviations above the mean of each photo's cosines [n, b] to everyday sentences.

    The sentences (:mod:`cliplet.scoring.background`) say nothing of the photo: how high a photo's cosines are without a
    reason differs from photo to photo and from model to model.
    """
    mean = background.mean(axis=1, keepdims=True)
    spread = np.maximum(background.std(axis=1, keepdims=True), 1e-6)
    return np.asarray((cosines - mean) / spread)
