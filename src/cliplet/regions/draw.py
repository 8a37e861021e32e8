"""Boxes drawn on a photo."""

from PIL import Image, ImageDraw, ImageFont

from cliplet.regions.base import Regions

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6")


def draw_regions(image: Image.Image, regions: Regions, notes: tuple[str, ...] = ()) -> Image.Image:
    """A copy of the photo with each box, its number, class and score.

    Args:
        image: the upright photo.
        regions: what to draw; boxes of one class have one colour.
        notes: said instead of class and score, one for each region.
    """
    drawn = image.convert("RGB").copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(image.size) / 200))
    font = ImageFont.load_default(max(9, round(min(image.size) / 28)))
    for i in reversed(range(len(regions))):  # the surest on top
        number = int(regions.labels[i])
        colour = _COLOURS[(i if number < 0 else number) % len(_COLOURS)]
        left, top, right, bottom = (float(v) for v in regions.boxes[i])
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
        text = notes[i] if notes else f"{i + 1} {regions.label(i)} {regions.scores[i]:.2f}".replace("  ", " ")
        place = pen.textbbox((left + width, top + width), text, font=font)
        pen.rectangle(place, fill=colour)
        pen.text((left + width, top + width), text, fill="white", font=font)
    return drawn
