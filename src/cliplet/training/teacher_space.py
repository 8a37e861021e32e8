"""A space of captions from sentence encoders, for towers to learn, and where a photo lies in it.

A caption's target is its sentence embedding by several encoders, end to end, seen so that captions of one photo lie
close: within-class covariance normalisation, then the directions in which captions of different photos differ.
A photo's target is the mean of its captions, mixed with what features of other networks predict for it when it has
not been seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CaptionSpace:
    """Linear map from sentence embeddings to targets: ``unit(unit(x - mean) @ matrix)``."""

    mean: Floats
    """``[D]``."""
    matrix: Floats
    """``[D, d]``."""

    def __call__(self, sentences: Floats) -> Floats:
        """Sentence embeddings ``[n, D]`` -> targets ``[n, d]``, unit norm."""
        return unit_norm(unit_norm(sentences - self.mean) @ self.matrix)

    @classmethod
    def fit(
        cls, sentences: Floats, groups: NDArray[np.int64], dim: int, power: float = 0.25
    ) -> "CaptionSpace":
        """Learn the space from captions of known photos.

        Args:
            sentences: ``[n, D]``.
            groups: photo of each caption ``[n]``.
            dim: directions to keep, those of the largest variance.
            power: 0 leaves the spread among captions of one photo as it is, 1 makes it equal in all directions.
        """
        mean = sentences.mean(axis=0)
        x = unit_norm(sentences - mean)
        within = x - group_means(x, groups)
        values, vectors = np.linalg.eigh(within.T @ within / len(x))
        values = values.clip(0) + 1e-3 * values.max()
        whiten = (vectors * (values / values.mean()) ** (-power / 2)) @ vectors.T  # [D, D]
        x = unit_norm(x @ whiten)
        _, vectors = np.linalg.eigh(x.T @ x)
        return cls(mean, (whiten @ vectors[:, ::-1][:, :dim]).astype(np.float32))


def group_means(rows: Floats, groups: NDArray[np.int64]) -> Floats:
    """For each row the mean of the rows of its group: ``[n, d]``; groups are numbered from 0."""
    count = int(groups.max()) + 1
    sums = np.zeros((count, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, groups, rows)
    result: Floats = (sums / np.bincount(groups, minlength=count)[:, None].clip(1))[groups]
    return result


def standardise(features: Floats) -> tuple[Floats, Floats, Floats]:
    """Features with mean 0 and deviation 1, the mean and the deviation."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
    return (features - mean) / deviation, mean, deviation


def ridge(x: Floats, y: Floats, penalty: float) -> Floats:
    """``[D, d]`` that minimises ``|x W - y|^2 + penalty |W|^2``."""
    result: Floats = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return result


def unseen_predictions(
    x: Floats, y: Floats, penalty: float, folds: int = 5, seed: int = 0, weights: Floats | None = None
) -> Floats:
    """Ridge predictions of ``y`` for each row by the folds that it is not in, unit norm ``[n, d]``.

    ``weights`` ``[n]`` of the rows' squared errors; all alike without.
    """
    fold = np.random.default_rng(seed).integers(0, folds, len(x))
    out = np.zeros_like(y)
    root = np.ones((len(x), 1), np.float32) if weights is None else np.sqrt(weights)[:, None]
    for k in range(folds):
        known = fold != k
        out[~known] = x[~known] @ ridge(x[known] * root[known], y[known] * root[known], penalty)
    return unit_norm(out)


def sentence_space_inputs(texts: Sequence[str], models: Sequence[Any]) -> Floats:
    """Sentence embeddings of several encoders, each brought to length 1, end to end."""
    from cliplet.models.pretrained import sentence_embeddings

    return np.concatenate([unit_norm(sentence_embeddings(m, texts)) for m in models], axis=1)
