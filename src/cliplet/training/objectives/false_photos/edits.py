"""Edits of photos in a box: recolour, paste, duplicate, fill. Pixels are ``uint8 [h, w, 3]``, boxes are in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class UnfitError(Exception):
    """A photo does not allow an edit; the message says why."""


# Hue in degrees (centre and half width; None: any), saturation and brightness of what people call so (0..1), and the
# saturation and brightness that a recoloured thing gets: least and most.
_Range = tuple[float, float]
COLOURS: dict[str, tuple[tuple[float, float] | None, _Range, _Range, _Range, _Range]] = {
    "red": ((0, 14), (0.45, 1.0), (0.3, 1.0), (0.75, 0.95), (0.5, 0.85)),
    "orange": ((26, 13), (0.5, 1.0), (0.5, 1.0), (0.8, 1.0), (0.8, 1.0)),
    "pink": ((338, 22), (0.18, 0.75), (0.6, 1.0), (0.4, 0.55), (0.85, 1.0)),
    "maroon": ((352, 18), (0.4, 1.0), (0.15, 0.5), (0.7, 0.9), (0.3, 0.42)),
    "yellow": ((54, 14), (0.4, 1.0), (0.5, 1.0), (0.75, 0.95), (0.8, 1.0)),
    "golden": ((38, 18), (0.25, 1.0), (0.35, 1.0), (0.55, 0.75), (0.65, 0.9)),
    "blond": ((40, 18), (0.2, 0.8), (0.4, 1.0), (0.4, 0.55), (0.75, 0.95)),
    "green": ((115, 48), (0.22, 1.0), (0.15, 1.0), (0.6, 0.85), (0.35, 0.7)),
    "turquoise": ((178, 18), (0.3, 1.0), (0.35, 1.0), (0.6, 0.8), (0.6, 0.85)),
    "blue": ((218, 34), (0.25, 1.0), (0.2, 1.0), (0.65, 0.9), (0.4, 0.8)),
    "navy": ((226, 30), (0.25, 1.0), (0.08, 0.45), (0.6, 0.85), (0.2, 0.35)),
    "purple": ((282, 30), (0.2, 1.0), (0.2, 1.0), (0.5, 0.75), (0.4, 0.7)),
    "brown": ((24, 18), (0.25, 0.95), (0.12, 0.62), (0.5, 0.7), (0.28, 0.45)),
    "tan": ((34, 18), (0.15, 0.6), (0.45, 0.95), (0.3, 0.45), (0.6, 0.8)),
    "cream": ((45, 22), (0.05, 0.35), (0.75, 1.0), (0.12, 0.2), (0.88, 0.97)),
    "black": (None, (0.0, 0.6), (0.0, 0.27), (0.0, 0.15), (0.1, 0.17)),
    "white": (None, (0.0, 0.2), (0.7, 1.0), (0.0, 0.06), (0.86, 0.95)),
    "grey": (None, (0.0, 0.2), (0.22, 0.78), (0.0, 0.06), (0.42, 0.6)),
    "silver": (None, (0.0, 0.16), (0.5, 0.95), (0.0, 0.06), (0.65, 0.8)),
}
"""What can be seen and painted."""
SAME = {"gold": "golden", "blonde": "blond", "beige": "tan", "gray": "grey"}
_HUES = {"pink": 338.0, "green": 118.0}
"""Where a painted hue is not the centre of what people call so."""


def _spec(colour: str) -> tuple[tuple[float, float] | None, _Range, _Range, _Range, _Range]:
    name = SAME.get(colour.lower(), colour.lower())
    if name not in COLOURS:
        raise UnfitError(f"{colour} is no colour that is known by hue and brightness")
    return COLOURS[name]


def hsv(pixels: Pixels) -> Floats:
    """Hue in degrees, saturation and brightness in 0..1: ``[h, w, 3]``."""
    found = np.asarray(Image.fromarray(pixels).convert("HSV"), dtype=np.float32)
    return found * np.array([360 / 255, 1 / 255, 1 / 255], dtype=np.float32)


def _rgb(values: Floats) -> Pixels:
    """The inverse of :func:`hsv`."""
    scaled = values * np.array([255 / 360, 255, 255], dtype=np.float32)
    whole = np.round(np.clip(scaled, 0, 255)).astype(np.uint8)
    return np.asarray(Image.fromarray(whole, "HSV").convert("RGB"))


def looks(pixels: Pixels, colour: str, soft: float = 0.08) -> Floats:
    """How much each pixel has a colour, 0..1: ``[h, w]``.

    Args:
        pixels: the photo.
        colour: its name.
        soft: how far outside the colour's range of saturation and brightness a pixel may be to have it a little.

    Raises:
        UnfitError: an unknown colour.
    """
    hue, saturation, brightness, _, _ = _spec(colour)
    values = hsv(pixels)
    # the saturation of nearly black pixels is noise
    steady = values[..., 1] * np.clip(values[..., 2] / 0.2, 0, 1) if hue is None else values[..., 1]
    found = _within(steady, saturation, soft) * _within(values[..., 2], brightness, soft)
    if hue is not None:
        slack = 125 * soft
        found *= np.clip((hue[1] + slack - np.abs(_turn(values[..., 0] - hue[0]))) / slack, 0, 1)
    return found


def _turn(degrees: Floats) -> Floats:
    """Angles in -180..180."""
    found: Floats = (degrees + 180) % 360 - 180
    return found


def _within(values: Floats, limits: _Range, soft: float) -> Floats:
    found: Floats = np.clip(1 + np.minimum(values - limits[0], limits[1] - values) / soft, 0, 1)
    return found


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


def _blend(below: Pixels, above: NDArray[np.number], alpha: Floats) -> Pixels:
    mixed = below + (above.astype(np.float32) - below) * alpha[..., None]
    return np.round(np.clip(mixed, 0, 255)).astype(np.uint8)


def _filtered(mask: Floats, *filters: ImageFilter.Filter) -> Floats:
    """A mask in 0..1 through filters of Pillow."""
    image = Image.fromarray(np.round(mask * 255).astype(np.uint8))
    for one in filters:
        image = image.filter(one)
    return np.asarray(image, dtype=np.float32) / 255


@dataclass(frozen=True)
class Part:
    """The pixels of a thing that have a colour."""

    mask: Floats
    """How much each pixel of the photo belongs to them ``[h, w]``."""
    share: float
    """Their share of the place where the colour was looked for."""
    around: float
    """Share of the colour in a ring round the box; 0 where the box fills the photo."""
    solid: float
    """Share of the neighbourhood of its pixels that is of it as well: near 1 for an area, low for specks and edges."""


def coloured_part(pixels: Pixels, box: Box, colour: str, within: Box | None = None) -> Part:
    """The pixels of a box that have a colour, and their neighbours that nearly have it (as hysteresis does for edges).

    Args:
        pixels: the photo.
        box: of the thing.
        colour: the colour.
        within: the part of a person's box where the colour is looked for; what is joined to it and has the colour is of
            it, skin never.

    Raises:
        UnfitError: an unknown colour.
    """
    left, top, right, bottom = _whole(grown(box, 0.3, pixels.shape))
    view = pixels[top:bottom, left:right]  # nothing further away matters
    box, place = _moved(box, left, top), _moved(within or box, left, top)
    seen, inside = looks(view, colour), feather(view.shape, box, 0.03) > 0.5
    here = feather(view.shape, place, 0.03) > 0.5
    ring = (feather(view.shape, grown(box, 0.25, view.shape), 0.01) > 0.5) & ~inside
    share, around = _mean(seen, here), _mean(seen, ring)
    may = inside & ~_skin(view) if within is not None else inside
    short = min(box[2] - box[0], box[3] - box[1])
    sure = _grown_within(_filtered(seen * here * may, ImageFilter.MedianFilter(5)), seen * may, 200)
    nearly = (looks(view, colour, 0.3) > 0.25) & ~_like(view, ring, sure > 0.5) & may
    sure = _grown_within(sure, np.maximum(nearly, seen * may), max(2, int(0.08 * short)))
    dense = _filtered(sure, ImageFilter.BoxBlur(max(2, int(0.06 * short))))
    soft = _filtered(sure, ImageFilter.MedianFilter(5), ImageFilter.GaussianBlur(max(0.6, short / 90)))
    mask = np.zeros(pixels.shape[:2], dtype=np.float32)
    mask[top:bottom, left:right] = soft * feather(view.shape, box, 0.05)
    return Part(mask, share, around, _mean(dense, sure > 0.5))


def _moved(box: Box, left: float, top: float) -> Box:
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top


def _mean(values: Floats, where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else 0.0


def _grown_within(mask: Floats, limit: Floats, steps: int) -> Floats:
    """A mask spread over its neighbours, two pixels a step, as far as a limit allows."""
    for _ in range(steps):
        spread = np.maximum(mask, np.minimum(_filtered(mask, ImageFilter.MaxFilter(5)), limit))
        if (spread - mask).max() < 0.02:
            break
        mask = spread
    return mask


def _skin(pixels: Pixels) -> NDArray[np.bool_]:
    """Pixels that may be skin ``[h, w]``."""
    hue, saturation, brightness = np.moveaxis(hsv(pixels), -1, 0)
    found: NDArray[np.bool_] = (
        (np.abs(hue - 22) < 17) & (np.abs(saturation - 0.42) < 0.26) & (brightness > 0.25)
    )
    return found


def _like(pixels: Pixels, background: NDArray[np.bool_], thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose colour is more frequent in the background than in the thing ``[h, w]``."""
    cells = pixels // 24
    number = (cells[..., 0].astype(np.int64) * 11 + cells[..., 1]) * 11 + cells[..., 2]
    behind, before = (
        np.bincount(number[where], minlength=11**3) / max(1, int(where.sum()))
        for where in (background, thing)
    )
    found: NDArray[np.bool_] = (behind > before)[number]
    return found


def recolour(pixels: Pixels, mask: Floats, colour: str) -> Pixels:
    """The pixels of a mask ``[h, w]`` in another colour; light and shade stay.

    Hue becomes the colour's, with a third of its variation kept; the mean saturation and brightness are brought into
    the colour's range (so black becomes white by brightness, red becomes grey by saturation).
    """
    hue, _, _, saturation, brightness = _spec(colour)
    values = hsv(pixels)
    sure = mask > 0.5
    if not sure.any():
        raise UnfitError("nothing to recolour")
    out = values.copy()
    if hue is not None:
        aim = _HUES.get(SAME.get(colour, colour), hue[0])
        angles = np.deg2rad(values[..., 0][sure])
        middle = np.rad2deg(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()))
        varied = values[..., 1][sure].mean() > 0.25
        out[..., 0] = (aim + (np.clip(_turn(values[..., 0] - middle), -30, 30) / 3 if varied else 0)) % 360
    for channel, (least, most) in ((1, saturation), (2, brightness)):
        own = values[..., channel]
        mean, spread = float(own[sure].mean()), float(own[sure].std())
        aim = min(max(mean, least), most)
        # as much light and shade as fits between black and white
        gain = min(
            1.0 if channel == 2 else 0.5, 0.6 * min(max(aim, 0.08), max(1 - aim, 0.08)) / max(spread, 1e-3)
        )
        if channel == 2 and mean < 0.3 <= aim:
            gain = min(1.6, 0.1 / max(spread, 1e-3))  # shades of a dark thing are faint
        out[..., channel] = np.clip(aim + gain * (own - mean), 0, 1)
    return _blend(pixels, _rgb(out), mask)


def grown(box: Box, share: float, shape: tuple[int, ...]) -> Box:
    """A box with a margin, within the photo."""
    left, top, right, bottom = box
    wide, high = share * (right - left), share * (bottom - top)
    right, bottom = min(float(shape[1]), right + wide), min(float(shape[0]), bottom + high)
    return max(0.0, left - wide), max(0.0, top - high), right, bottom


def _whole(box: Box) -> tuple[int, int, int, int]:
    left, top = int(box[0]), int(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def crop(pixels: Pixels, box: Box) -> Pixels:
    """The pixels in a box, whole pixels, at least one each way."""
    left, top, right, bottom = _whole(box)
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
    return _blend(pixels, layer, feather(pixels.shape, (left, top, right, bottom), share))


def unlike_rim(pixels: Pixels, patch: Pixels, box: Box) -> float:
    """How much the rim of a patch, stretched to a box, differs from the photo there: mean distance of colours."""
    scaled, (left, top, _, _) = _stretched(pixels, patch, box)
    return _mismatch(pixels, scaled, left, top)


def _stretched(pixels: Pixels, patch: Pixels, box: Box) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A patch in the size of a box, and the box in whole pixels."""
    left, top, right, bottom = _whole(box)
    right, bottom = min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    image = Image.fromarray(np.ascontiguousarray(patch)).resize(
        (right - left, bottom - top), Image.Resampling.BICUBIC
    )
    return np.asarray(image), (left, top, right, bottom)


def _rim(difference: Floats, sides: tuple[bool, bool, bool, bool]) -> Floats:
    """A difference at a patch's rim, smoothed, fading inwards: what makes the patch's light fit ``[h, w, 3]``."""
    height, width = difference.shape[:2]
    halved = Image.fromarray(np.round(np.clip(difference / 2 + 128, 0, 255)).astype(np.uint8))
    blur = ImageFilter.BoxBlur(max(1, min(height, width) // 12))
    blurred = (np.asarray(halved.filter(blur), dtype=np.float32) - 128) * 2
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    depths = (x[None], y[:, None], width - 1 - x[None], height - 1 - y[:, None])
    edges = (blurred[:, :1], blurred[:1], blurred[:, -1:], blurred[-1:])
    weights = [np.exp(-d / (0.18 * min(height, width) + 1)) * s for d, s in zip(depths, sides, strict=True)]
    total = np.maximum(sum(weights), 1.0)
    found = sum(
        np.broadcast_to(w[..., None] * e, difference.shape) for w, e in zip(weights, edges, strict=True)
    )
    return np.clip(found / total[..., None], -70, 70).astype(np.float32)


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
    area = grown(box, 0.06, pixels.shape)
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
                inner = grown((left, top, left + width, top + height), -0.06 / 1.12, pixels.shape)
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
    area = grown(box, 0.08, pixels.shape)
    left, top, right, bottom = _whole(area)
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
