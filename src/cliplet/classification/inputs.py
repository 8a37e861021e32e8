"""Inputs of a modality: standardised and partly whitened bands, fitted on samples without labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BandInputs:
    """A linear map of the bands of one modality: ``(x - mean) @ matrix``."""

    mean: Floats
    """Mean of each band ``[bands]``."""
    matrix: Floats
    """``[bands, bands]``; outputs stand for the same bands as inputs."""

    def __call__(self, values: ArrayLike) -> Floats:
        """``[..., bands]`` -> the same shape.

        Raises:
            InputError: another number of bands.
        """
        x = np.asarray(values, dtype=np.float32)
        if x.shape[-1] != len(self.mean):
            raise InputError(
                f"samples have {x.shape[-1]} bands where the inputs were fitted on {len(self.mean)}"
            )
        found: Floats = np.matmul(x - self.mean, self.matrix, dtype=np.float32)
        return found


def fit_inputs(
    values: ArrayLike, components: int = 0, whitening: float = 0.0, scale: float = 1.0
) -> BandInputs:
    """Fit a modality's inputs.

    Each band is standardised. With ``components``, only that many principal components are kept and their standard
    deviations raised to the power ``1 - whitening``; they are turned back into bands, so that neighbouring bands stay
    neighbours (ZCA). The mean variance of the outputs is ``scale`` squared.

    Args:
        values: ``[..., bands]``, without labels; every other axis counts as samples.
        components: principal components that are kept; 0 for all.
        whitening: 0 leaves their variances, 1 makes them equal.
        scale: root mean variance of the outputs.

    Raises:
        InputError: there are fewer bands than components, or values that are no numbers.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x.reshape(-1, x.shape[-1])
    bands = x.shape[1]
    if not np.isfinite(x).all():
        raise InputError("the samples hold values that are no numbers; leave those samples out")
    if components > bands or components < 0 or not 0 <= whitening <= 1:
        raise InputError(
            f"components={components} of {bands} bands, whitening={whitening}: 0..{bands} and 0..1"
        )
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (x - mean) / spread
    variances, axes = np.linalg.eigh(z.T @ z / len(z))  # rising
    kept = components or int((variances > variances[-1] * 1e-9).sum())
    variances, axes = variances[-kept:], axes[:, -kept:]
    matrix = (axes * np.maximum(variances, 1e-12) ** (-whitening / 2)) @ axes.T
    size = np.sqrt((z @ matrix).var(axis=0).mean())
    matrix = matrix / spread[:, None] * (scale / size if size > 0 else scale)
    return BandInputs(mean.astype(np.float32), matrix.astype(np.float32))
