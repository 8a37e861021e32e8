"""Colours of things on photos: what people call so, where it is in a box, and painting it another colour."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cliplet.training.objectives.false_photos.edits import (
    Box,
    Floats,
    Pixels,
    UnfitError,
    blend,
    feather,
    grown,
    whole_pixels,
)

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
    "brown": ((24, 18), (0.25, 0.95), (0.12, 0.62), (0.5, 0.7), (0.36, 0.5)),
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
    scaled: Floats = found * np.array([360 / 255, 1 / 255, 1 / 255], dtype=np.float32)
    return scaled


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


def _filtered(mask: Floats, *filters: ImageFilter.Filter) -> Floats:
    """A mask in 0..1 through filters of Pillow."""
    image = Image.fromarray(np.round(mask * 255).astype(np.uint8))
    for one in filters:
        image = image.filter(one)
    found: Floats = np.asarray(image, dtype=np.float32) / np.float32(255)
    return found


class ColourSearch:
    """Looks for the pixels of a box that have a colour, and for their neighbours that nearly have it.

    Args:
        pixels: the photo.
        box: of the thing.
        colour: the colour.
        within: the part of a person's box where the colour is looked for; what is joined to it and has the colour is of
            it, skin never.

    Raises:
        UnfitError: an unknown colour.
    """

    def __init__(self, pixels: Pixels, box: Box, colour: str, within: Box | None = None) -> None:
        self.shape, self.colour = pixels.shape[:2], colour
        left, top, right, bottom = self.place = whole_pixels(grown(box, 0.3, pixels.shape))
        self.view = view = pixels[top:bottom, left:right]  # nothing further away matters
        self.box, part = _moved(box, left, top), _moved(within or box, left, top)
        self.seen, inside = looks(view, colour), feather(view.shape, self.box, 0.03) > 0.5
        self.here = feather(view.shape, part, 0.03) > 0.5
        self.ring = (feather(view.shape, grown(self.box, 0.25, view.shape), 0.01) > 0.5) & ~inside
        self.may = inside & ~_skin(view) if within is not None else inside
        self.share = _mean(self.seen, self.here)
        """Share of the colour where it was looked for."""
        self.around = _mean(self.seen, self.ring)
        """Share of the colour in a ring round the box; 0 where the box fills the photo."""

    def part(self) -> tuple[Floats, float]:
        """How much each pixel of the photo belongs to what has the colour, and how solid that is.

        Pixels that surely have the colour spread to joined ones that nearly have it, as hysteresis does for edges.

        Returns:
            ``[h, w]``, and the share of the neighbourhood of its pixels that is of it as well: near 1 for an area, low
            for specks and edges.
        """
        short = min(self.box[2] - self.box[0], self.box[3] - self.box[1])
        own = self.seen * self.may
        sure = _grown_within(_filtered(own * self.here, ImageFilter.MedianFilter(5)), own, 200)
        nearly = (
            (looks(self.view, self.colour, 0.3) > 0.25) & ~_like(self.view, self.ring, sure > 0.5) & self.may
        )
        sure = _grown_within(sure, np.maximum(nearly, own), max(2, int(0.08 * short)))
        dense = _filtered(sure, ImageFilter.BoxBlur(max(2, int(0.06 * short))))
        soft = _filtered(sure, ImageFilter.MedianFilter(5), ImageFilter.GaussianBlur(max(0.6, short / 90)))
        mask = np.zeros(self.shape, dtype=np.float32)
        left, top, right, bottom = self.place
        mask[top:bottom, left:right] = soft * feather(self.view.shape, self.box, 0.05)
        return mask, _mean(dense, sure > 0.5)


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
    return blend(pixels, _rgb(out), mask)
