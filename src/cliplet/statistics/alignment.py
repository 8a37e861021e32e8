"""Closed-form maps between two spaces of embeddings, from pairs of rows or from each side's mean alone.

All take centred float64 rows: ``x [n, d]`` of one space, ``y [n, k]`` of the other, row i of both a pair.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

ROBUST_ROUNDS = 5
"""Rounds of reweighting in :func:`robust_procrustes`."""
_LEAST = 1e-3
"""Added to residuals before they are turned into weights."""
_NOTHING = 1e-9
"""Singular values below this share of the largest say nothing about the rotation."""


@dataclass(frozen=True)
class AffineMap:
    """``(rows - mean) @ matrix``; the caller brings the result to length 1."""

    mean: Rows
    """``[d]``."""
    matrix: Rows | None = None
    """``[d, k]``; None leaves the centred rows as they are."""

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """float32 ``[n, d]`` -> ``[n, k]``, computed in float32 as a folded map is."""
        centred = np.asarray(rows, dtype=np.float32) - np.asarray(self.mean, dtype=np.float32)
        if self.matrix is None:
            return centred
        return centred @ np.asarray(self.matrix, dtype=np.float32)

    @property
    def width(self) -> int:
        """k."""
        return len(self.mean) if self.matrix is None else self.matrix.shape[1]


def procrustes(x: Rows, y: Rows) -> Rows:
    """The orthogonal Procrustes map ``W [d, k]``: ``min |x W - y|`` with orthonormal columns or rows.

    ``x^T y = U S V^T``, ``W = U V^T``. With d = k it is a rotation (and perhaps reflection), and directions in which no
    pair says anything stay as they are; with d != k those map to 0, and ``W^T W`` or ``W W^T`` is the identity on the
    others.

    Source: Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    product = x.T @ y
    u, s, vt = np.linalg.svd(product, full_matrices=False)
    known = s > _NOTHING * max(s[0], 1e-300)
    if known.all():
        return u @ vt
    if product.shape[0] != product.shape[1]:
        return u[:, known] @ vt[known]
    u, _, vt = np.linalg.svd(product + _NOTHING * s[0] * np.eye(len(product)))
    return u @ vt


def robust_procrustes(x: Rows, y: Rows, rounds: int = ROBUST_ROUNDS) -> tuple[Rows, Rows]:
    """Procrustes again and again with less weight on pairs that do not fit: ``W [d, k]`` and the last weights ``[n]``.

    A round's weights are ``sqrt((1 / (|y_i - x_i W| + 1e-3)) / max)``, 0 to 1; the residual of a pair is measured
    between rows of length 1, so that a short row does not count as a good fit.
    """
    weights = np.ones(len(x))
    a, b = _unit(x), _unit(y)
    for _ in range(rounds):
        matrix = procrustes(x * weights[:, None], y)
        inverse = 1 / (np.linalg.norm(b - _unit(a @ matrix), axis=1) + _LEAST)
        weights = np.sqrt(inverse / inverse.max())
    return procrustes(x * weights[:, None], y), weights


def ridge(x: Rows, y: Rows, penalty: float) -> Rows:
    """``W [d, k]`` that minimises ``|x W - y|^2 + penalty |W|^2``: ``(x^T x + penalty I)^-1 x^T y``.

    With fewer rows than columns it is computed as ``x^T (x x^T + penalty I)^-1 y``, which is the same.
    """
    n, d = x.shape
    if n < d:
        return np.asarray(x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(n), y), dtype=np.float64)
    return np.asarray(np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T @ y), dtype=np.float64)


class CanonicalCorrelation:
    """Regularised canonical correlation analysis, with maps for several penalties from one decomposition.

    ``Cx^-1/2 x^T y Cy^-1/2 = U S V^T``; the maps are ``Cx^-1/2 U S^power`` and ``Cy^-1/2 V S^power``. A penalty is
    added to a covariance's eigenvalues, as a share of their mean.

    Args:
        x: ``[n, d]``.
        y: ``[n, k]``.
        y_all: rows ``[m, k]`` behind y's covariance; y themselves, or the rows whose means by group y are.
        penalty_y: penalty of y's covariance.

    Source: Hardoon, Szedmak, Shawe-Taylor 2004; axes scaled by their correlations: Gong, Ke, Isard, Lazebnik 2014
    (arXiv 1212.4522).
    """

    def __init__(self, x: Rows, y: Rows, y_all: Rows, penalty_y: float) -> None:
        self._values, self._vectors = _spectrum(x)
        values, vectors = _spectrum(y_all)
        self._second = vectors / np.sqrt(_with_penalty(values, penalty_y)) @ vectors.T  # [k, k]
        self._product = self._vectors.T @ (x.T @ y / len(x)) @ self._second  # [r, k]

    def maps(self, penalty_x: float, power: float, axes: int) -> tuple[Rows, Rows]:
        """Maps ``[d, r]`` and ``[k, r]``: the first ``axes`` directions, or as many as there are."""
        scale = np.sqrt(_with_penalty(self._values, penalty_x))[:, None]
        u, s, vt = np.linalg.svd(self._product / scale, full_matrices=False)
        strength = s[:axes] ** power
        return self._vectors @ (u[:, :axes] / scale) * strength, self._second @ vt[:axes].T * strength


def _spectrum(rows: Rows) -> tuple[Rows, Rows]:
    """Eigenvalues ``[r]`` and eigenvectors ``[d, r]`` of the covariance, those that the rows show: r <= min(n, d)."""
    n, d = rows.shape
    if n < d:
        values, left = np.linalg.eigh(rows @ rows.T / n)
        kept = values > _NOTHING * max(values[-1], 1e-300)
        return values[kept], rows.T @ left[:, kept] / np.sqrt(n * values[kept])
    values, vectors = np.linalg.eigh(rows.T @ rows / n)
    kept = values > _NOTHING * max(values[-1], 1e-300)
    return values[kept], vectors[:, kept]


def _with_penalty(values: Rows, penalty: float) -> Rows:
    return np.asarray(values + penalty * values.mean())


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))
