"""Photos without labels: what their vectors say of texts and of the space, computed once."""

from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Embeddings, unit_norm
from cliplet.errors import InputError

Floats32 = NDArray[np.float32]


class Head(Protocol):
    """What scores photos."""

    def scores(self, photos: Embeddings) -> Floats32:
        """[n, C] for unit vectors [n, d]."""
        ...


class Background:
    """Unlabelled photos of the kind that will be classified."""

    def __init__(self, vectors: Embeddings) -> None:
        """Raises InputError for fewer than two photos: they have no spread."""
        if len(vectors) < 2:
            raise InputError(
                "one unlabelled photo has no spread to standardise by: give at least two, better hundreds"
            )
        self.vectors = vectors
        """[u, d] unit vectors."""

        self._whitened: dict[float, tuple[Floats32, Floats32]] = {}
        self._scored: tuple[object, Floats32] | None = None
        self._moments: list[tuple[Embeddings, tuple[Floats32, Floats32]]] = []

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
        for known, found in self._moments:
            if known is texts:  # the same texts under another rule
                return found
        spread = np.sqrt(np.maximum(((texts @ self.covariance) * texts).sum(axis=1), 1e-8))
        found = texts @ self.centre, np.asarray(spread, dtype=np.float32)
        self._moments = [*self._moments[-7:], (texts, found)]
        return found

    def whitened(self, shrink: float) -> tuple[Floats32, Floats32]:
        """The map [d, d] ``(S + shrink * tr(S)/d * I)^(-1/2)``, up to a rotation, with the covariance S of the photos;
        and the photos [u, d] by it, less their mean and scaled to length 1."""
        if shrink not in self._whitened:
            values, axes = self._spectrum
            scale = np.sqrt(values + shrink * max(float(values.mean()), 1e-12))
            matrix = np.asarray(axes / scale, dtype=np.float32)
            self._whitened[shrink] = matrix, unit_norm((self.vectors - self.centre) @ matrix)
        return self._whitened[shrink]

    def scores(self, head: Head) -> Floats32:
        """[u, C] the photos' scores by a head; those of the last one are kept."""
        if self._scored is None or self._scored[0] is not head:
            self._scored = head, head.scores(self.vectors)
        return self._scored[1]
