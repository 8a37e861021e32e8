"""Edits of photos in a box: paste, duplicate, fill. Pixels are ``uint8 [h, w, 3]``, boxes are in pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class UnfitError(Exception):
    """A photo does not allow an edit; the message says why."""


def feather(shape: tuple[int, ...], box: Box, share: float = 0.08) -> Floats:
    """1 well inside a box, 0 outside, a ramp of ``share`` of its shorter side between: ``[h, w]``.

    There is no ramp where the box ends at the photo's edge.
    """
    height, width = shape[:2]
    left, top, right, bottom = box
    ramp = max(1.0, share * min(right - left, bottom - top))
    x, y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
    far = np.float32(1e6)
    across = np.minimum(x - left if left > 1 else x + far, right - x if right < width - 1 else far - x)
    along = np.minimum(y - top if top > 1 else y + far, bottom - y if bottom < height - 1 else far - y)
    depth = np.clip(np.minimum(across[None], along[:, None]) / ramp, 0, 1)
    found: Floats = depth * depth * (3 - 2 * depth)
    return found


def blend(below: Pixels, above: NDArray[np.number], alpha: Floats) -> Pixels:
    """A layer over a photo, as much of it as ``alpha`` says ``[h, w]``."""
    mixed = below + (above.astype(np.float32) - below) * alpha[..., None]
    return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def grown(box: Box, share: float, shape: tuple[int, ...], least: float = 0.0) -> Box:
    """A box with a margin, within the photo.

    Args:
        box: the box.
        share: margin, as a share of the box's sides; below 0 the box shrinks.
        shape: of the photo.
        least: margin in pixels at least.
    """
    left, top, right, bottom = box
    wide, high = (
        max(share * side, least) if share > 0 else share * side for side in (right - left, bottom - top)
    )
    right, bottom = min(float(shape[1]), right + wide), min(float(shape[0]), bottom + high)
    return max(0.0, left - wide), max(0.0, top - high), right, bottom


def whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least one each way."""
    left, top = int(box[0]), int(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def crop(pixels: Pixels, box: Box) -> Pixels:
    """The pixels in a box, whole pixels, at least one each way."""
    left, top, right, bottom = whole_pixels(box)
    return pixels[top:bottom, left:right]


def paste(pixels: Pixels, patch: Pixels, box: Box, share: float = 0.1) -> Pixels:
    """A patch over a box, stretched to it, its rim shaded like what it replaces, and feathered."""
    scaled, (left, top, right, bottom) = _stretched(pixels, patch, box)
    under = pixels[top:bottom, left:right].astype(np.float32)
    fitted = scaled + _rim(
        under - scaled, (left > 1, top > 1, right < pixels.shape[1] - 1, bottom < pixels.shape[0] - 1)
    )
    layer = pixels.astype(np.float32)
    layer[top:bottom, left:right] = fitted
    return blend(pixels, layer, feather(pixels.shape, (left, top, right, bottom), share))


def unlike_rim(pixels: Pixels, patch: Pixels, box: Box) -> float:
    """How much the rim of a patch, stretched to a box, differs from the photo there: mean distance of colours."""
    scaled, (left, top, _, _) = _stretched(pixels, patch, box)
    return _mismatch(pixels, scaled, left, top)


def _stretched(pixels: Pixels, patch: Pixels, box: Box) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A patch in the size of a box, and the box in whole pixels."""
    left, top, right, bottom = whole_pixels(box)
    right, bottom = min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    image = Image.fromarray(np.ascontiguousarray(patch)).resize(
        (right - left, bottom - top), Image.Resampling.BICUBIC
    )
    return np.asarray(image), (left, top, right, bottom)


def _rim(difference: Floats, sides: tuple[bool, bool, bool, bool]) -> Floats:
    """A difference at a patch's rim, smoothed, fading inwards: what makes the patch's light fit ``[h, w, 3]``."""
    height, width = difference.shape[:2]
    deep, reach = min(2, height, width), max(1, min(height, width) // 10)
    left, right = (
        _along(d.mean(axis=1), reach)[:, None] for d in (difference[:, :deep], difference[:, -deep:])
    )
    top, bottom = (_along(d.mean(axis=0), reach)[None] for d in (difference[:deep], difference[-deep:]))
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    depths = (x[None], y[:, None], width - 1 - x[None], height - 1 - y[:, None])
    edges = (left, top, right, bottom)
    weights = [np.exp(-d / (0.18 * min(height, width) + 1)) * s for d, s in zip(depths, sides, strict=True)]
    total = np.maximum(sum(weights), 1.0)
    found = sum(
        np.broadcast_to(w[..., None] * e, difference.shape) for w, e in zip(weights, edges, strict=True)
    )
    return np.clip(found / total[..., None], -70, 70).astype(np.float32)


def _along(values: Floats, reach: int) -> Floats:
    """Running means along an edge ``[n, 3]``."""
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    sums = np.cumsum(np.concatenate([np.zeros((1, 3), values.dtype), padded]), axis=0)
    found: Floats = (sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)
    return found


def overlap(box: Box, others: Sequence[Box]) -> float:
    """The largest share of a box, or of another box, that the two have in common."""
    worst = 0.0
    for other in others:
        wide = min(box[2], other[2]) - max(box[0], other[0])
        high = min(box[3], other[3]) - max(box[1], other[1])
        if wide > 0 and high > 0:
            small = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
            worst = max(worst, wide * high / max(small, 1e-6))
    return worst


def _mismatch(pixels: Pixels, patch: Pixels, left: int, top: int) -> float:
    """How much a patch's rim differs from the photo there: mean distance of colours."""
    height, width = patch.shape[:2]
    there = pixels[top : top + height, left : left + width].astype(np.float32)
    apart = np.abs(there - patch).mean(axis=-1)
    return float(np.concatenate([apart[0], apart[-1], apart[:, 0], apart[:, -1]]).mean())


MARGIN = 0.12
"""Of a copy round its box, as a share of the box's sides."""
UNLIKE = 45.0
"""Mean distance of colours (0..255) at the rim above which a patch does not fit a place."""


def duplicate(
    pixels: Pixels, box: Box, others: Sequence[Box], rng: np.random.Generator, source: Pixels | None = None
) -> tuple[Pixels, Box]:
    """A copy of a box beside itself, where the photo looks most like the box's rim and no other box is.

    Args:
        pixels: the photo.
        box: what is copied.
        others: all boxes of the photo, this one too; the copy covers at most a twentieth of each.
        rng: mirrors the copy, or not.
        source: the photo before it was edited, from which the copy is taken; ``pixels`` itself without it.

    Returns:
        The photo, and the copy's box.

    Raises:
        UnfitError: there is no room.
    """
    area = grown(box, MARGIN, pixels.shape)
    patch = crop(pixels if source is None else source, area)
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    for scale in (1.0, 0.85, 0.7):
        height, width = max(2, int(patch.shape[0] * scale)), max(2, int(patch.shape[1] * scale))
        small = np.asarray(
            Image.fromarray(np.ascontiguousarray(patch)).resize((width, height), Image.Resampling.BICUBIC)
        )
        bottom = int(min(area[3], pixels.shape[0]))
        places = []
        for top in {bottom - height, bottom - height - height // 12, bottom - height + height // 12}:
            for left in range(0, pixels.shape[1] - width + 1, max(1, pixels.shape[1] // 56)):
                inner = grown(
                    (left, top, left + width, top + height), -MARGIN / (1 + 2 * MARGIN), pixels.shape
                )
                if top < 0 or top + height > pixels.shape[0] or overlap(inner, others) > 0.05:
                    continue
                apart = _mismatch(pixels, small, left, top)
                if apart <= UNLIKE:
                    places.append((apart + 30 * abs(left - area[0]) / pixels.shape[1], left, top))
        if places:
            _, left, top = min(places)
            where = (float(left), float(top), float(left + width), float(top + height))
            return paste(pixels, small, where, 0.12), where
    raise UnfitError("there is no room for a copy on such a background")


EVEN = 20.0
"""Deviation of the colours (0..255) of a rim that can be drawn inwards."""


def fill(pixels: Pixels, box: Box, others: Sequence[Box]) -> Pixels:
    """Background over a box: a free part of the photo at the same height that fits the rim, else the rim drawn inwards.

    A narrow free part is continued by its mirror image.

    Raises:
        UnfitError: there is none, and the rim has many colours.

    Args:
        pixels: the photo.
        box: what goes.
        others: the other boxes of the photo, from which no background is taken.
    """
    area = grown(box, 0.08, pixels.shape, 3)
    left, top, right, bottom = whole_pixels(area)
    right, bottom = min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    width = right - left
    for share in (1, 2, 3):
        own = max(4, -(-width // share))
        best: tuple[float, int] | None = None
        for x in range(0, pixels.shape[1] - own + 1, max(1, pixels.shape[1] // 56)):
            if overlap((x, top, x + own, bottom), [area, *others]) > 0.02:
                continue
            found = _mismatch(pixels, _continued(pixels[top:bottom, x : x + own], width), left, top)
            if best is None or (found, x) < best:
                best = found, x
        if best is not None and best[0] <= UNLIKE:
            patch = _continued(pixels[top:bottom, best[1] : best[1] + own], width)
            return paste(pixels, patch, (left, top, right, bottom), 0.08)
    under = pixels[top:bottom, left:right]
    rim = np.concatenate([under[0], under[-1], under[:, 0], under[:, -1]])
    if rim.std(axis=0).mean() > EVEN:
        raise UnfitError("there is no background to put there")
    return paste(pixels, _drawn_inwards(under), (left, top, right, bottom), 0.08)


def _continued(patch: Pixels, width: int) -> Pixels:
    """A patch continued to a width by its mirror image."""
    missing = max(0, width - patch.shape[1])
    while missing:
        step = min(missing, patch.shape[1] - 1)
        patch = np.concatenate([patch, patch[:, -2 : -2 - step : -1]], axis=1)
        missing -= step
    return patch[:, :width]


def _drawn_inwards(under: Pixels) -> Pixels:
    """The rim of a patch continued smoothly into it (Laplace's equation on a coarse grid), with the rim's grain."""
    height, width = under.shape[:2]
    coarse = np.asarray(
        Image.fromarray(under).resize((32, 32), Image.Resampling.BOX), dtype=np.float32
    ).copy()
    rim = np.concatenate([coarse[0], coarse[-1], coarse[:, 0], coarse[:, -1]])
    coarse[1:-1, 1:-1] = np.median(rim, axis=0)
    for _ in range(300):
        near = coarse[:-2, 1:-1] + coarse[2:, 1:-1] + coarse[1:-1, :-2] + coarse[1:-1, 2:]
        coarse[1:-1, 1:-1] = near / 4
    smooth = Image.fromarray(np.round(coarse).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(smooth)
