"""Tokens of remote-sensing samples: groups of bands of one pixel, or patches of a window."""

from torch import Tensor

from cliplet.errors import InputError
from cliplet.models.multimodal_config import ModalityConfig


def band_groups(pixels: Tensor, groups: int) -> Tensor:
    """Pixels ``[n, bands]`` -> tokens ``[n, groups, bands / groups]``: neighbouring bands of a pixel are one token.

    Raises:
        InputError: the groups do not divide the bands.
    """
    bands = pixels.shape[1]
    if groups < 1 or bands % groups:
        raise InputError(f"{groups} groups do not divide {bands} bands; choose a number that does")
    return pixels.unflatten(1, (groups, bands // groups))


def window_patches(windows: Tensor, patch: int) -> Tensor:
    """Windows ``[n, side, side, bands]`` -> tokens ``[n, (side / patch)^2, patch * patch * bands]``, row by row.

    The released code's tokens are patches of one pixel.

    Raises:
        InputError: the patches do not divide the window.
    """
    n, side, width, bands = windows.shape
    if patch < 1 or side % patch or width % patch:
        raise InputError(
            f"patches of {patch} do not divide windows of {side} x {width}; choose a size that does"
        )
    grid = windows.view(n, side // patch, patch, width // patch, patch, bands)
    return grid.transpose(2, 3).reshape(n, -1, patch * patch * bands)


def tokens_of(modality: ModalityConfig, values: Tensor) -> Tensor:
    """Samples of a modality -> tokens ``[n, T, V]``.

    Args:
        modality: its number and size of tokens.
        values: pixels ``[n, bands]``, or windows ``[n, side, side, bands]`` where the modality has patches.

    Raises:
        InputError: the samples are of another shape.
    """
    if values.ndim != (4 if modality.patch else 2):
        wanted = "windows [n, side, side, bands]" if modality.patch else "pixels [n, bands]"
        raise InputError(f"{modality.name}: samples of shape {list(values.shape)} where {wanted} are wanted")
    if modality.patch:
        tokens = window_patches(values, modality.patch)
    else:
        tokens = band_groups(values, modality.tokens)
    if tokens.shape[1:] != (modality.tokens, modality.values):
        raise InputError(
            f"{modality.name}: samples have {tokens.shape[1]} tokens of {tokens.shape[2]} values, "
            f"not {modality.tokens} of {modality.values}"
        )
    return tokens
