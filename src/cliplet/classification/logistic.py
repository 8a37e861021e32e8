"""The linear probe: multinomial logistic regression in numpy."""

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.confidence import softmax

Floats = NDArray[np.float64]
STEPS = 3000
TOLERANCE = 1e-5


def logistic_regression(
    vectors: NDArray[np.floating], labels: NDArray[np.integer], classes: int, strength: float
) -> tuple[Floats, Floats]:
    """Weights [C, d] and bias [C] that minimise ``sum_i CE_i + |W|^2 / (2 strength)``; the bias is not penalised.

    That is scikit-learn's ``LogisticRegression(C=strength)``. Solved by Nesterov's accelerated gradient, begun again
    where it overshoots (O'Donoghue and Candes 2015), until the gradient of the mean loss is below 1e-5 everywhere; in
    the space that the vectors span, where fewer vectors than dimensions have the same solution.
    """
    rows, axes = np.asarray(vectors, np.float64), None
    if rows.shape[0] < rows.shape[1]:
        axes = np.linalg.svd(rows, full_matrices=False)[2]  # [n, d]
        rows = rows @ axes.T
    rows = np.hstack([rows, np.ones((len(rows), 1))])  # [n, d + 1]
    wanted = np.eye(classes)[labels]
    decay = np.full(rows.shape[1], 1 / (strength * len(rows)))
    decay[-1] = 0
    step = 1 / (0.5 * np.linalg.norm(rows, 2) ** 2 / len(rows) + decay[0])
    weights = ahead = np.zeros((classes, rows.shape[1]))
    momentum = 1.0
    for _ in range(STEPS):
        slope = (softmax(rows @ ahead.T) - wanted).T @ rows / len(rows) + decay * ahead
        if np.abs(slope).max() < TOLERANCE:
            weights = ahead
            break
        moved = ahead - step * slope
        if (slope * (moved - weights)).sum() > 0:  # it goes uphill: begin the momentum again
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - weights)
        weights, momentum = moved, following
    return (weights[:, :-1] if axes is None else weights[:, :-1] @ axes), weights[:, -1]
