"""Pixel values of any kind as 8 bits a channel: wide integers, floats, arrays with channels first or last."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.errors import InputError

OVERSHOOT = 0.102
"""How far floats may lie outside 0..1 (a bicubic filter overshoots); they are clipped. 0.1, as 16-bit floats round."""
TWELVE_BIT = (
    "16-bit values below 4,096, nearly black as 16-bit values: if they are 12-bit, multiply them by 16 first"
)
"""Said of a photo whose 16-bit values use 12 bits."""
EIGHT_BIT = "16-bit values of 0..255, taken for 8-bit values"
"""Said of a photo whose 16-bit values use 8 bits."""
_SHAPES = "[h, w], [h, w, 3] (RGB) or [h, w, 4] (RGBA), or have its channels first, as [3, h, w]"
_RARE = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "LAB": "RGB", "HSV": "RGB", "YCbCr": "RGB", "RGBX": "RGB"}


def common_mode(image: Image.Image, name: str) -> tuple[Image.Image, str | None]:
    """The image in a mode of 8 bits that every library converts to RGB, and a note on its values if there is one.

    Raises:
        InputError: values without a meaning as shades, or a mode that Pillow cannot convert.
    """
    note = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, note = _to_8bit(np.asarray(image), f"{name} (mode {image.mode})")
        return Image.fromarray(values), note
    if image.mode in _RARE:
        try:
            return image.convert(_RARE[image.mode]), None
        except ValueError as error:
            raise InputError(
                f"{name} has the mode {image.mode}, which Pillow does not convert ({error}): save it as RGB"
            ) from None
    return image, None


def array_image(values: NDArray[Any]) -> tuple[Image.Image, str | None]:
    """An array ``[h, w]``, ``[h, w, 1|3|4]`` or ``[1|3|4, h, w]`` as an image, and a note if there is one.

    Raises:
        InputError: another or an ambiguous shape, a dtype or values without a meaning as shades.
    """
    name = f"array of shape {values.shape}"
    values = _channels_last(values, name)
    if values.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values)), None
    shades, note = _to_8bit(values, name)
    return Image.fromarray(np.ascontiguousarray(shades)), note


def _channels_last(values: NDArray[Any], name: str) -> NDArray[Any]:
    """``[h, w]``, ``[h, w, 3]`` or ``[h, w, 4]``."""
    shape = values.shape
    if values.ndim == 4:
        raise InputError(f"{name} holds several images, each {_SHAPES}: give its rows, such as list(array)")
    if values.ndim == 3 and 0 not in shape:
        first, last = shape[0] in (1, 3), shape[2] in (1, 3, 4)
        if first and last:
            raise InputError(
                f"{name} can be read as [h, w, {shape[2]}] and as [{shape[0]}, h, w]: give a PIL image, "
                "Image.fromarray(array) or Image.fromarray(array.transpose(1, 2, 0))"
            )
        if first or (shape[0] == 4 and not last):
            values = np.moveaxis(values, 0, 2)  # [h, w, c]
        if values.shape[2] == 1:
            return values[:, :, 0]
        if values.shape[2] in (3, 4):
            return values
    elif values.ndim == 2 and 0 not in shape:
        return values
    raise InputError(f"{name}: an image array must be {_SHAPES}")


def _to_8bit(values: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], str | None]:
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255), None
    if kind in "iu":
        return _integers_to_8bit(values, name)
    if kind == "f":
        return _floats_to_8bit(values, name), None
    raise InputError(f"{name} has dtype {values.dtype}: use uint8, uint16, bool or float in 0..1")


def _integers_to_8bit(values: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], str | None]:
    """0..255 as they are, up to 65535 by the high byte."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"{name} has values from {low} to {high}, outside 0..255 (8 bits) and 0..65535 (16 bits): scale them "
            "first, such as (array / largest * 255).astype(np.uint8)"
        )
    if high <= 255:
        return values.astype(np.uint8), EIGHT_BIT if values.dtype.itemsize == 2 else None
    return (values >> 8).astype(np.uint8), TWELVE_BIT if high < 4096 else None


def _floats_to_8bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """0..1, with an overshoot that is clipped."""
    if not np.isfinite(values).all():
        raise InputError(f"{name} has NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(
            f"{name} has values from {low:.4g} to {high:.4g}, outside 0..1. {_looks_like(low, high)}Values of 0..255: "
            "array / 255, or array.astype(np.uint8); values of -1..1: (array + 1) / 2"
        )
    return np.rint(np.clip(values, 0, 1) * 255.0).astype(np.uint8)


def _looks_like(low: float, high: float) -> str:
    """What a tensor made for a model says of itself by its range."""
    if low >= -OVERSHOOT or high > 2.7 or low < -2.2 or high <= 0:
        return ""
    if low >= -1.001 and high <= 1.001:
        return "They look normalised to -1..1, as for SigLIP. "
    who, mean, std = ("ImageNet", "0.485, 0.456, 0.406", "0.229, 0.224, 0.225")
    if low >= -1.8 and high <= 2.15:
        who, mean, std = ("CLIP", "0.481, 0.458, 0.408", "0.269, 0.261, 0.276")
    return (
        f"They look normalised as {who}'s preprocessing does it: give the photo itself, or undo it with "
        f"array * std + mean (mean {mean}; std {std}). "
    )
