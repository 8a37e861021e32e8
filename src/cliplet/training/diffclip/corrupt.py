"""What pretraining does to a sample: noise of a diffusion, and hidden tokens."""

import torch
from torch import Tensor


def noise_levels(steps: int) -> Tensor:
    """Share of the signal's variance that is left at each step ``[steps]``, from 1 downwards (DDPM's linear betas).

    Step 0 is the clean sample. The betas rise from 1e-4 to 0.02 over 1,000 steps and are scaled for other numbers
    (Ho et al. 2020, arXiv 2006.11239).
    """
    scale = 1000 / steps
    betas = torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), max(steps - 1, 0), dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)]).float()


def add_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """``sqrt(level) clean + sqrt(1 - level) noise`` for ``[n, T, V]`` and levels ``[n]``."""
    level = level[:, None, None]
    return level.sqrt() * clean + (1 - level).sqrt() * noise


def visible_places(order: Tensor, visible: int) -> tuple[Tensor, Tensor]:
    """Which tokens stay visible when their places are shuffled.

    The released code takes the inverse of the shuffle for LiDAR, so that its decoder puts tokens back at other places
    than they came from.

    Args:
        order: a permutation of the places in each row ``[n, T]``.
        visible: how many stay.

    Returns:
        Their places ``[n, visible]``, and which places are hidden ``[n, T]`` (bool).
    """
    keep = order[:, :visible]
    hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, keep, False)
    return keep, hidden
