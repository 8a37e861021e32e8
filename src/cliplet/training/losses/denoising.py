"""Squared errors of a generator that takes noise away."""

from torch import Tensor
from torch.nn import functional as F


def denoising(prediction: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the noise that was put into a photo.

    Formula: ``L = mean (prediction - noise)^2``, for ``u_t = sqrt(a_t) u + sqrt(1 - a_t) noise``.

    ========== ============ ======================================
    input      shape        what
    ========== ============ ======================================
    prediction ``[n, ...]`` the generator's guess of the noise
    noise      ``[n, ...]`` the noise, drawn from N(0, 1)
    ========== ============ ======================================

    Relation: with the image tower frozen it trains the generator (unCLIP); with the generator frozen it trains the
    image tower (un2CLIP). :func:`flow` asks for noise and photo together, so that the photo counts at every time; where
    there is noise alone, this loss asks nothing of the photo.

    Source: DDPM (arXiv 2006.11239), equation 14.

    Example:
        >>> denoising(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()  # (1 + 4) / 2
        2.5
    """
    return F.mse_loss(prediction.float(), noise.float())


def flow(prediction: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the direction from a photo to the noise (rectified flow).

    Formula: ``L = mean (prediction - (noise - clean))^2``, for ``u_t = (1 - t) clean + t noise``.

    ========== ============ ============================================
    input      shape        what
    ========== ============ ============================================
    prediction ``[n, ...]`` the generator's guess of ``noise - clean``
    clean      ``[n, ...]`` the photo, as the generator sees it
    noise      ``[n, ...]`` the noise, drawn from N(0, 1)
    ========== ============ ============================================

    Relation: a guess of the direction at time t implies a guess of the noise whose error is ``1 - t`` times as large,
    so this is :func:`denoising` with the weight ``1 / (1 - t)^2``: most is asked where most noise is, and there the
    embedding must tell what the photo shows.

    Source: Rectified flow (arXiv 2209.03003), equation 1; GenHancer trains a CLIP with it.

    Example:
        >>> clean, noise = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])
        >>> flow(torch.tensor([[0.0, 2.0]]), clean, noise).item()  # the direction is (-1, 2)
        0.5
    """
    return F.mse_loss(prediction.float(), noise.float() - clean.float())
