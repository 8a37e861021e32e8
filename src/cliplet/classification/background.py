"""Photos without labels: what their vectors say of texts and of the space, computed once."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Embeddings

Floats32 = NDArray[np.float32]


class Background:
    """Unlabelled photos of the kind that will be classified."""

    def __init__(self, vectors: Embeddings) -> None:
        self.vectors = vectors
        """[u, d] unit vectors."""

    @cached_property
    def centre(self) -> Floats32:
        """[d] their mean."""
        return np.asarray(self.vectors.mean(axis=0), dtype=np.float32)

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """[d, d] their covariance, divided by u."""
        moved = (self.vectors - self.centre).astype(np.float64)
        return np.asarray(moved.T @ moved / len(moved))

    @cached_property
    def _spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, axes = np.linalg.eigh(self.covariance)
        return np.maximum(values, 0), axes

    def moments(self, texts: Embeddings) -> tuple[Floats32, Floats32]:
        """Mean and standard deviation [texts] of the cosines of texts [texts, d] to the photos."""
        spread = np.sqrt(np.maximum(((texts @ self.covariance) * texts).sum(axis=1), 1e-12))
        return texts @ self.centre, np.asarray(spread, dtype=np.float32)

    def whitening(self, shrink: float) -> Floats32:
        """[d, d]: ``(S + shrink * tr(S)/d * I)^(-1/2)`` up to a rotation, with the covariance S of the photos."""
        values, axes = self._spectrum
        return np.asarray(
            axes / np.sqrt(values + shrink * max(float(values.mean()), 1e-12)), dtype=np.float32
        )
