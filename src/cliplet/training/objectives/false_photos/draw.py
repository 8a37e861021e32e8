"""Draws planned edits into photos."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.training.objectives.false_photos import edits
from cliplet.training.objectives.false_photos.boxes import Found
from cliplet.training.objectives.false_photos.colours import ColourSearch, looks, recolour
from cliplet.training.objectives.false_photos.edits import Box, Pixels, UnfitError
from cliplet.training.objectives.false_photos.plan import Edit

SIDE = 448
"""A photo's short side, in pixels, is scaled down to this before it is edited: towers read less."""
QUALITY = 95
"""Of the JPEG files."""
LEAST_COLOUR, LEAST_WORN = 0.18, 0.05
"""Least share of a thing's box that has the true colour, and of the part of a person where a garment is."""
UNLIKE = 80.0
"""Mean distance of colours (0..255) at the rim above which a crop of another photo does not fit."""
SOLID, CAME_OUT = 0.6, 0.5
"""Least solidity of what is recoloured, and least share of it that has the wrong colour afterwards."""
AROUND = 0.6
"""The colour may be this much as frequent round the box as in it; else the background has it as well."""
_ZONES = {
    (0.0, 0.35): "hat hats cap caps helmet helmets bandanna",
    (
        0.1,
        0.65,
    ): "shirt shirts t-shirt t-shirts tshirt tshirts tee jersey jerseys top tops blouse sweater sweaters "
    "sweatshirt sweatshirts hoodie vest vests jacket jackets coat coats scarf",
    (0.4, 0.95): "shorts pants trousers jeans trunks skirt skirts",
}
"""Part of a person's height, from above, where garments are; others are anywhere between head and foot."""
ZONES = {word: zone for zone, words in _ZONES.items() for word in words.split()}


class Drawer:
    """Draws edits of photos.

    Args:
        photos: where to read each photo.
    """

    def __init__(self, photos: Sequence[Any]) -> None:
        self.photos = photos
        self._last: tuple[int, Pixels] | None = None
        self._masks: dict[tuple[int, Found, str, str], edits.Floats | None] = {}

    def pixels(self, photo: int) -> Pixels:
        """A photo, its short side at most :data:`SIDE` pixels ``[h, w, 3]``.

        Raises:
            InputError: it cannot be read.
        """
        if self._last is None or self._last[0] != photo:  # edits of a photo come one after the other
            image = load_rgb(self.photos[photo], at_least=SIDE)
            if min(image.size) > SIDE:
                scale = SIDE / min(image.size)
                size = round(image.width * scale), round(image.height * scale)
                image = image.resize(size, Image.Resampling.BICUBIC)
            self._last = photo, np.asarray(image)
        return self._last[1]

    def draw(self, edit: Edit) -> Pixels:
        """The edited photo ``[h, w, 3]``.

        Raises:
            InputError: a photo cannot be read.
            UnfitError: the pixels do not allow the edit; the message says why.
        """
        pixels = self.pixels(edit.photo)
        if edit.kind == "mirror":
            return np.ascontiguousarray(pixels[:, ::-1])
        return {"recolour": self._recolour, "paste": self._paste, "count": self._count}[edit.kind](
            edit, pixels
        )

    def _recolour(self, edit: Edit, pixels: Pixels) -> Pixels:
        masks = (self._mask(edit, found, pixels) for found in edit.boxes)
        fit = [mask for mask in masks if mask is not None]
        if not fit or (edit.every and not edit.worn and len(fit) < len(edit.boxes)):
            raise UnfitError("the true colour is not in the box, or round it as well")
        if len(fit) > 1 and not edit.every:
            raise UnfitError("several things have the true colour")
        changed = pixels
        for mask in fit:
            changed = recolour(changed, mask, edit.after)
        painted = np.maximum.reduce(fit) > 0.6
        if not painted.any() or looks(changed, edit.after, 0.15)[painted].mean() < CAME_OUT:
            raise UnfitError("the wrong colour did not come out")
        return changed

    def _mask(self, edit: Edit, found: Found, pixels: Pixels) -> edits.Floats | None:
        """The part of a thing that has the true colour ``[h, w]``; None where it has none."""
        key = edit.photo, found, edit.before, edit.worn
        if self._masks and next(iter(self._masks))[0] != edit.photo:
            self._masks.clear()
        if key not in self._masks:  # several captions name the same colour
            box = _in_pixels(found, pixels)
            search = ColourSearch(pixels, box, edit.before, _zone(box, edit.worn) if edit.worn else None)
            least = LEAST_WORN if edit.worn else LEAST_COLOUR
            mask, solid = None, 0.0
            if search.share >= least and search.around <= AROUND * search.share:
                mask, solid = search.part()
            self._masks[key] = mask if solid >= SOLID else None
        return self._masks[key]

    def _paste(self, edit: Edit, pixels: Pixels) -> Pixels:
        original, used = pixels, set[int]()
        for found, crops in zip(edit.boxes, edit.sources, strict=True):
            box = edits.grown(_in_pixels(found, original), 0.06, original.shape)
            patches = []
            for photo, thing in crops:
                source = self.pixels(photo)
                patch = edits.crop(source, edits.grown(_in_pixels(thing, source), 0.06, source.shape))
                patches.append((photo in used, edits.unlike_rim(original, patch, box), photo, patch))
            _, unlike, photo, patch = min(patches, key=lambda p: p[:3])
            if unlike > UNLIKE:
                raise UnfitError("no crop fits the surroundings")
            used.add(photo)
            pixels = edits.paste(pixels, patch, box)
        return pixels

    def _count(self, edit: Edit, pixels: Pixels) -> Pixels:
        boxes = [_in_pixels(f, pixels) for f in edit.boxes]
        known = [_in_pixels(f, pixels) for f in edit.others]
        rng = np.random.default_rng(edit.seed)
        if edit.times < 0:
            for box in boxes[: -edit.times]:
                others = [b for b in known if b != box]
                pixels = edits.fill(pixels, box, others)
            return pixels
        original, order = pixels, rng.permutation(len(boxes))
        for number in range(edit.times):
            reason: UnfitError | None = None
            for at in np.roll(order, -number):
                try:
                    pixels, box = edits.duplicate(pixels, boxes[at], known, rng, original)
                    known.append(box)
                    break
                except UnfitError as error:
                    reason = error
            else:
                raise reason or UnfitError("there is nothing to copy")
        return pixels


def _in_pixels(found: Found, pixels: Pixels) -> Box:
    height, width = pixels.shape[:2]
    left, top, right, bottom = found.box
    return left * width, top * height, right * width, bottom * height


def _zone(box: Box, worn: str) -> Box:
    """The part of a person's box where a garment is."""
    first, last = ZONES.get(worn, (0.05, 1.0))
    left, top, right, bottom = box
    return left, top + first * (bottom - top), right, top + last * (bottom - top)


def encoded(pixels: Pixels) -> bytes:
    """As a JPEG file with colours at full resolution."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()
