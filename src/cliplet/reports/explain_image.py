"""An explanation as one picture: the photo, the coloured caption and a small photo for each phrase."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from cliplet.data.images import ImageInput, load_rgb
from cliplet.scoring.explain import Explanation, Unit
from cliplet.scoring.occlusion import Region

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    Font = FreeTypeFont | ImageFont.ImageFont

WIDTH = 960
"""Width of the picture, in pixels."""
_MARGIN, _LINE, _SMALL = 24, 34, 220
_INK, _SOFT, _FOR, _AGAINST = "#1d2330", "#667085", (59, 111, 182), (209, 116, 47)
_MOST = 16  # small photos


def explain_image(explanation: Explanation, photo: ImageInput) -> Image.Image:
    """The picture, RGB, WIDTH pixels wide."""
    picture = load_rgb(photo)
    picture.thumbnail((WIDTH - 2 * _MARGIN, 420), Image.Resampling.BICUBIC)
    units = [u for s in explanation.sentences for u in s.units if u.region is not None][:_MOST]
    columns = (WIDTH - _MARGIN) // (_SMALL + _MARGIN)
    rows = -(-len(units) // columns)
    words = list(_layout(explanation))
    lines = 1 + max((line for _, _, _, line, _, _ in words), default=0)
    message = _wrapped(explanation.message, ImageFont.load_default(17))
    small_height = round(_SMALL * picture.height / picture.width) if picture.width else _SMALL
    small_height = max(40, min(small_height, 300))
    top = 2 * _MARGIN + picture.height
    height = top + lines * _LINE + 26 * len(message) + 40 + rows * (small_height + 50) + _MARGIN
    canvas = Image.new("RGB", (WIDTH, height), "white")
    canvas.paste(picture, (_MARGIN, _MARGIN))
    pen = ImageDraw.Draw(canvas)
    _write_words(pen, words, top)
    y = top + lines * _LINE + 8
    for line in message:
        pen.text((_MARGIN, y), line, fill=_SOFT, font=ImageFont.load_default(17))
        y += 26
    for i, unit in enumerate(units):
        corner = (_MARGIN + (i % columns) * (_SMALL + _MARGIN), y + 16 + (i // columns) * (small_height + 50))
        _small_photo(canvas, picture, unit, corner, small_height)
    return canvas


def _layout(explanation: Explanation) -> Iterator[tuple[str, int, int, int, float, bool]]:
    """(word, left, width, line, strength of its share -1..1, whether it is most likely wrong) of every word."""
    font = ImageFont.load_default(20)
    largest = max((abs(u.share) for s in explanation.sentences for u in s.units), default=0.0) or 1.0
    wrong = explanation.wrong_word
    x, line = _MARGIN, 0
    for sentence in explanation.sentences:
        for unit in sentence.units:
            at = unit.start
            for word in explanation.caption[unit.start : unit.end].split():
                start = explanation.caption.index(word, at)
                at = start + len(word)
                width = round(font.getlength(word))
                if x + width > WIDTH - _MARGIN and x > _MARGIN:
                    x, line = _MARGIN, line + 1
                marked = wrong is not None and start <= wrong.start < at
                yield word, x, width, line, unit.share / largest, marked
                x += width + 9


def _write_words(
    pen: ImageDraw.ImageDraw, words: list[tuple[str, int, int, int, float, bool]], top: int
) -> None:
    for word, x, width, line, strength, marked in words:
        y = top + line * _LINE
        tint = _FOR if strength >= 0 else _AGAINST
        mix = 0.08 + 0.5 * min(1.0, abs(strength))
        fill = tuple(round(255 + (c - 255) * mix) for c in tint)
        pen.rectangle((x - 4, y, x + width + 4, y + 27), fill=fill)
        if strength < 0:
            pen.line((x, y + 25, x + width, y + 25), fill=_AGAINST, width=2)
        if marked:
            pen.rectangle((x - 4, y, x + width + 4, y + 27), outline=_INK, width=2)
        pen.text((x, y + 2), word, fill=_INK, font=ImageFont.load_default(20))


def _small_photo(
    canvas: Image.Image, photo: Image.Image, unit: Unit, corner: tuple[int, int], height: int
) -> None:
    small = photo.resize((_SMALL, height), Image.Resampling.BICUBIC)
    assert unit.region is not None
    canvas.paste(with_heat(small, unit.region), corner)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    text = unit.text
    while font.getlength(text) > _SMALL - 60 and len(text) > 4:
        text = text[:-4] + "..."
    pen.text((corner[0], corner[1] + height + 5), f"{text}  {unit.share:+.3f}", fill=_INK, font=font)


def with_heat(photo: Image.Image, region: Region) -> Image.Image:
    """A copy of the photo that is darker where the phrase is not, with a ring at the peak."""
    top = max(float(region.map.max()), 1e-9)
    levels = Image.fromarray((255 * (region.map / top).clip(0, 1)).astype("uint8"))
    mask = levels.resize(photo.size, Image.Resampling.BICUBIC)
    dark = Image.blend(photo, Image.new("RGB", photo.size, "black"), 0.65)
    heat = Image.composite(photo, dark, mask)
    x, y, r = region.x * photo.width, region.y * photo.height, max(4, photo.width // 30)
    pen = ImageDraw.Draw(heat)
    pen.ellipse((x - r, y - r, x + r, y + r), outline="black", width=4)
    pen.ellipse((x - r + 1, y - r + 1, x + r - 1, y + r - 1), outline="white", width=2)
    return heat


def _wrapped(text: str, font: "Font") -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > WIDTH - 2 * _MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
