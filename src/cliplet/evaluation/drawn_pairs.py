"""Drawn pairs: two pictures that differ in one visual detail, each with the statement that fits it alone.

Shapes are drawn before a crop of a photo, the same for both pictures of a pair, so that nothing but the detail tells
them apart. They follow the idea of pairs that look alike to a CLIP and differ for people (MMVP, arXiv 2401.06209), but
are drawings with template texts: figures on them say nothing about that benchmark.

The kinds are in :data:`PATTERNS`; each is drawn twice as large and scaled down. All of a pair depends on the seed, its
pattern and its number alone.
"""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.evaluation.pairs import Quartet
from cliplet.files import whole

COLOURS = {
    "red": (214, 32, 36), "green": (36, 150, 60), "blue": (36, 80, 214), "yellow": (245, 208, 30),
    "orange": (245, 130, 30), "purple": (130, 50, 170), "black": (20, 20, 20), "white": (248, 248, 248),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "heart")
NUMBERS = ("one", "two", "three", "four", "five", "six")
FACING = ("arrow", "fish", "car")
PARTS = {
    "house": ("with a door", "without a door"), "face": ("with glasses", "without glasses"),
    "cup": ("with a handle", "without a handle"), "tree": ("with apples", "without apples"),
    "flower": ("with leaves", "without leaves"),
}  # fmt: skip
"""Things that can be drawn with a part and without it."""

Point = tuple[float, float]
Colour = tuple[int, int, int]
Picture = Image.Image


@dataclass(frozen=True)
class DrawnPair:
    """Two pictures and their statements."""

    pattern: str
    """What differs, of :data:`PATTERNS`."""
    images: tuple[Image.Image, Image.Image]
    """Both pictures."""
    texts: tuple[str, str]
    """Text i fits picture i alone."""


class _Canvas:
    """A picture in the making: coordinates in 0..1, the origin at the top left."""

    def __init__(self, background: Image.Image) -> None:
        self.side = 2 * background.width
        self.image = background.resize((self.side, self.side), Image.Resampling.BICUBIC)
        self.pen = ImageDraw.Draw(self.image)

    def done(self) -> Image.Image:
        """Scaled down."""
        size = self.side // 2
        return self.image.resize((size, size), Image.Resampling.LANCZOS)

    def _box(self, x: float, y: float, rx: float, ry: float) -> list[float]:
        return [self.side * v for v in (x - rx, y - ry, x + rx, y + ry)]

    @property
    def line(self) -> int:
        """Width of outlines in pixels."""
        return max(2, self.side // 110)

    def polygon(self, points: Sequence[Point], fill: Colour, outline: bool = True) -> None:
        """A filled polygon."""
        scaled = [(self.side * x, self.side * y) for x, y in points]
        self.pen.polygon(scaled, fill=fill)
        if outline:
            self.pen.line([*scaled, scaled[0], scaled[1]], fill=_edge(fill), width=self.line, joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour | None) -> None:
        """An ellipse around a point; without ``fill`` its outline."""
        edge = _edge(fill) if fill else (20, 20, 20)
        self.pen.ellipse(
            self._box(x, y, rx, ry), fill=fill, outline=edge, width=self.line * (1 if fill else 2)
        )

    def box(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """A rectangle around a point."""
        self.pen.rectangle(self._box(x, y, rx, ry), fill=fill, outline=_edge(fill), width=self.line)

    def shape(self, kind: str, x: float, y: float, r: float, fill: Colour) -> None:
        """One of :data:`SHAPES` around a point."""
        if kind == "circle":
            self.ellipse(x, y, r, r, fill)
        elif kind == "square":
            self.box(x, y, 0.9 * r, 0.9 * r, fill)
        elif kind == "triangle":
            self.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill)
        elif kind == "star":
            turns = [(r if i % 2 == 0 else 0.42 * r, math.pi * (i / 5 - 0.5)) for i in range(10)]
            self.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for d, a in turns], fill)
        else:
            turn = [2 * math.pi * i / 60 for i in range(60)]
            across = [x + r * math.sin(a) ** 3 for a in turn]
            down = [
                y - r * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16
                for a in turn
            ]
            self.polygon(list(zip(across, down, strict=True)), fill)


def _edge(fill: Colour) -> Colour:
    """Colour of an outline: seen before any background."""
    return (20, 20, 20) if sum(fill) > 150 else (235, 235, 235)


def _facing(canvas: _Canvas, kind: str, right: bool, y: float, fill: Colour) -> None:
    """A thing in the middle that looks to one side."""
    sign = 1.0 if right else -1.0

    def at(points: Sequence[Point]) -> list[Point]:
        return [(0.5 + sign * x, y + v) for x, v in points]

    if kind == "arrow":
        canvas.polygon(
            at([(-0.36, -0.07), (0.08, -0.07), (0.08, -0.19), (0.36, 0), (0.08, 0.19), (0.08, 0.07), (-0.36, 0.07)]),
            fill,
        )  # fmt: skip
    elif kind == "fish":
        canvas.polygon(at([(-0.18, 0), (-0.38, -0.16), (-0.38, 0.16)]), fill)
        canvas.ellipse(0.5 + sign * 0.06, y, 0.28, 0.17, fill)
        canvas.ellipse(0.5 + sign * 0.21, y - 0.04, 0.025, 0.025, (248, 248, 248))
        canvas.polygon(at([(0.02, 0.0), (-0.08, 0.07), (0.02, 0.09)]), _edge(fill), outline=False)
    else:
        canvas.polygon(
            at([
                (-0.38, 0.08), (-0.38, -0.06), (-0.32, -0.2), (0.02, -0.2), (0.13, -0.06), (0.36, -0.02), (0.38, 0.08)
            ]),
            fill,
        )  # fmt: skip
        canvas.polygon(at([(0.0, -0.17), (0.0, -0.06), (0.1, -0.06), (0.03, -0.17)]), (190, 220, 245))
        canvas.polygon(at([(-0.28, -0.17), (-0.32, -0.06), (-0.03, -0.06), (-0.03, -0.17)]), (190, 220, 245))
        canvas.ellipse(0.5 + sign * 0.36, y + 0.02, 0.025, 0.025, (250, 240, 120))
        for wheel in (-0.21, 0.21):
            canvas.ellipse(0.5 + sign * wheel, y + 0.09, 0.08, 0.08, (30, 30, 30))


def _thing(canvas: _Canvas, kind: str, part: bool, fill: Colour) -> None:
    """One of :data:`PARTS`, with its part or without it."""
    if kind == "house":
        canvas.box(0.5, 0.66, 0.27, 0.2, fill)
        canvas.polygon([(0.17, 0.47), (0.5, 0.16), (0.83, 0.47)], (150, 80, 50))
        canvas.box(0.65, 0.6, 0.06, 0.06, (190, 220, 245))
        if part:
            canvas.box(0.42, 0.72, 0.075, 0.14, (95, 55, 30))
    elif kind == "face":
        canvas.ellipse(0.5, 0.5, 0.32, 0.36, (238, 198, 160))
        for x in (0.38, 0.62):
            canvas.ellipse(x, 0.43, 0.03, 0.03, (30, 30, 30))
        canvas.ellipse(0.5, 0.7, 0.12, 0.035, (190, 60, 60))
        if part:
            for x in (0.38, 0.62):
                canvas.ellipse(x, 0.43, 0.1, 0.09, None)
            canvas.box(0.5, 0.43, 0.025, 0.008, (20, 20, 20))
    elif kind == "cup":
        if part:
            canvas.ellipse(0.7, 0.52, 0.15, 0.16, fill)
            canvas.ellipse(0.7, 0.52, 0.08, 0.09, (128, 128, 128))
        canvas.polygon([(0.24, 0.24), (0.72, 0.24), (0.66, 0.82), (0.3, 0.82)], fill)
        canvas.ellipse(0.48, 0.24, 0.24, 0.05, (80, 50, 30))
    elif kind == "tree":
        canvas.box(0.5, 0.76, 0.06, 0.17, (110, 70, 40))
        for x, y in ((0.33, 0.45), (0.67, 0.45), (0.5, 0.3), (0.5, 0.5)):
            canvas.ellipse(x, y, 0.2, 0.18, (40, 130, 55))
        if part:
            for x, y in ((0.3, 0.45), (0.45, 0.3), (0.62, 0.36), (0.53, 0.52), (0.7, 0.52)):
                canvas.ellipse(x, y, 0.045, 0.045, COLOURS["red"])
    else:
        canvas.box(0.5, 0.7, 0.015, 0.22, (40, 130, 55))
        if part:
            canvas.ellipse(0.37, 0.72, 0.12, 0.05, (40, 150, 60))
            canvas.ellipse(0.63, 0.66, 0.12, 0.05, (40, 150, 60))
        for i in range(6):
            turn = math.pi * i / 3
            canvas.ellipse(0.5 + 0.15 * math.cos(turn), 0.33 + 0.15 * math.sin(turn), 0.1, 0.1, fill)
        canvas.ellipse(0.5, 0.33, 0.09, 0.09, (245, 208, 30) if fill != COLOURS["yellow"] else (120, 70, 30))


Draw = Callable[[_Canvas], None]
Drawn = tuple[Draw, Draw, str, str]
Make = Callable[[np.random.Generator], Drawn]
"""Gives how to draw both pictures, and both statements."""


def _pick(rng: np.random.Generator, items: Any, count: int = 1) -> list[Any]:
    items = list(items)
    return [items[i] for i in rng.permutation(len(items))[:count]]


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _count(rng: np.random.Generator) -> Drawn:
    (colour,), (shape,) = _pick(rng, COLOURS), _pick(rng, SHAPES)
    few, many = sorted(_pick(rng, range(1, 7), 2))
    cells = [(0.2 + 0.3 * (i % 3), 0.2 + 0.3 * (i // 3)) for i in range(9)]
    places = [
        (x + dx, y + dy)
        for (x, y), (dx, dy) in zip(_pick(rng, cells, many), rng.uniform(-0.02, 0.02, (many, 2)), strict=True)
    ]

    def several(count: int) -> Draw:
        def draw(canvas: _Canvas) -> None:
            for x, y in places[:count]:
                canvas.shape(shape, x, y, 0.1, COLOURS[colour])

        return draw

    first, second = (f"{NUMBERS[n - 1]} {colour} {shape}{'s' * (n > 1)}" for n in (few, many))
    return several(few), several(many), first, second


def _colour(rng: np.random.Generator) -> Drawn:
    colours, (shape,) = _pick(rng, COLOURS, 2), _pick(rng, SHAPES)
    x, y, r = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.18, 0.28)

    def painted(colour: str) -> Draw:
        return lambda canvas: canvas.shape(shape, x, y, r, COLOURS[colour])

    first, second = (_a(f"{colour} {shape}") for colour in colours)
    return painted(colours[0]), painted(colours[1]), first, second


def _two(rng: np.random.Generator) -> tuple[list[str], list[tuple[str, Colour]]]:
    """Two shapes of other colours, as words and to draw."""
    colours, shapes = _pick(rng, COLOURS, 2), _pick(rng, SHAPES, 2)
    words = [_a(f"{c} {s}") for c, s in zip(colours, shapes, strict=True)]
    return words, [(s, COLOURS[c]) for c, s in zip(colours, shapes, strict=True)]


def _side(rng: np.random.Generator) -> Drawn:
    words, things = _two(rng)
    y = rng.uniform(0.4, 0.6, 2)

    def placed(order: Sequence[int]) -> Draw:
        def draw(canvas: _Canvas) -> None:
            for x, n in zip((0.27, 0.73), order, strict=True):
                canvas.shape(things[n][0], x, y[n], 0.17, things[n][1])

        return draw

    first, second = (f"{words[0]} to the {side} of {words[1]}" for side in ("left", "right"))
    return placed((0, 1)), placed((1, 0)), first, second


def _height(rng: np.random.Generator) -> Drawn:
    words, things = _two(rng)
    x = rng.uniform(0.4, 0.6, 2)

    def placed(order: Sequence[int]) -> Draw:
        def draw(canvas: _Canvas) -> None:
            for y, n in zip((0.27, 0.73), order, strict=True):
                canvas.shape(things[n][0], x[n], y, 0.17, things[n][1])

        return draw

    first, second = (f"{words[0]} {where} {words[1]}" for where in ("above", "below"))
    return placed((0, 1)), placed((1, 0)), first, second


def _direction(rng: np.random.Generator) -> Drawn:
    (colour,), (kind,), y = _pick(rng, COLOURS), _pick(rng, FACING), rng.uniform(0.4, 0.6)
    verb = "pointing" if kind == "arrow" else "facing"

    def looking(right: bool) -> Draw:
        return lambda canvas: _facing(canvas, kind, right, y, COLOURS[colour])

    first, second = (f"{_a(f'{colour} {kind}')} {verb} {side}" for side in ("left", "right"))
    return looking(False), looking(True), first, second


def _presence(rng: np.random.Generator) -> Drawn:
    (colour,), (kind,) = _pick(rng, COLOURS), _pick(rng, PARTS)
    what = _a(kind if kind in ("face", "tree") else f"{colour} {kind}")

    def made(part: bool) -> Draw:
        return lambda canvas: _thing(canvas, kind, part, COLOURS[colour])

    first, second = (f"{what} {part}" for part in PARTS[kind])
    return made(True), made(False), first, second


def _size(rng: np.random.Generator) -> Drawn:
    words, things = _two(rng)
    places = _pick(rng, ((0.3, 0.5), (0.72, 0.5)), 2)

    def sized(large: int) -> Draw:
        def draw(canvas: _Canvas) -> None:
            for n, (x, y) in enumerate(places):
                canvas.shape(things[n][0], x, y, 0.23 if n == large else 0.09, things[n][1])

        return draw

    bare = [word.split(" ", 1)[1] for word in words]
    first, second = (
        f"a {one} {bare[0]} and a {other} {bare[1]}"
        for one, other in (("large", "small"), ("small", "large"))
    )
    return sized(0), sized(1), first, second


PATTERNS: dict[str, Make] = {
    "count": _count, "colour": _colour, "left/right": _side, "above/below": _height, "facing": _direction,
    "presence": _presence, "size": _size,
}  # fmt: skip
"""What differs, to how it is drawn."""


def drawn_pairs(
    photos: Sequence[Any],
    pairs: int = 200,
    seed: int = 0,
    size: int = 224,
    patterns: Sequence[str] = tuple(PATTERNS),
    prefix: str = "a picture of ",
) -> list[DrawnPair]:
    """Pairs of pictures of each pattern.

    Args:
        photos: crops of them are the backgrounds; none for grey ones.
        pairs: of each pattern.
        seed: of all that is drawn.
        size: side of the pictures in pixels.
        patterns: of :data:`PATTERNS`.
        prefix: before every statement.

    Raises:
        InputError: an unknown pattern, or a photo that cannot be read.
    """
    unknown = [name for name in patterns if name not in PATTERNS]
    if unknown:
        raise InputError(f"unknown pattern {unknown[0]!r}: choose from {', '.join(PATTERNS)}")
    if pairs < 1 or size < 32:
        raise InputError(f"pairs={pairs} and size={size} must be at least 1 and 32")
    found = []
    for pattern in patterns:
        for number in range(pairs):
            rng = np.random.default_rng([seed, zlib.crc32(pattern.encode()), number])
            background = _background(photos, size, rng)
            one, other, first, second = PATTERNS[pattern](rng)
            images = []
            for draw in (one, other):
                canvas = _Canvas(background)
                draw(canvas)
                images.append(canvas.done())
            found.append(DrawnPair(pattern, (images[0], images[1]), (prefix + first, prefix + second)))
    return found


def _background(photos: Sequence[Any], size: int, rng: np.random.Generator) -> Image.Image:
    """A crop of a photo, paler, so that the shapes stand out; grey without photos."""
    if not len(photos):
        return Image.new("RGB", (size, size), (128, 128, 128))
    photo = load_rgb(photos[int(rng.integers(len(photos)))])
    side = max(1, int(min(photo.size) * rng.uniform(0.4, 0.8)))
    left, top = (int(rng.integers(0, whole - side + 1)) for whole in photo.size)
    crop = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return Image.blend(
        ImageEnhance.Color(crop).enhance(0.4), Image.new("RGB", crop.size, (150, 150, 150)), 0.5
    )


def write_drawn_pairs(folder: Path, pairs: Sequence[DrawnPair]) -> list[Quartet]:
    """Write the pictures as PNG files and ``examples.jsonl`` beside them, and give the pairs as quartets.

    The images of the quartets are the files' names in the folder. ``cliplet evaluate pairs`` and
    :func:`~cliplet.evaluation.pairs.read_pair_files` read the JSONL file (Winoground's fields). A folder that is there
    already is not written again.
    """
    rows = []
    for number, pair in enumerate(pairs):
        names = [f"{pair.pattern.replace('/', '-')}-{number:05}-{i}.png" for i in (0, 1)]
        rows.append(Quartet((names[0], names[1]), pair.texts, pair.pattern))
    lines = [
        {"image_0": q.images[0], "image_1": q.images[1], "caption_0": q.captions[0], "caption_1": q.captions[1],
         "tag": q.category} for q in rows
    ]  # fmt: skip
    content = "".join(json.dumps(line) + "\n" for line in lines)
    file = folder / "examples.jsonl"
    if folder.exists():
        if not file.is_file() or file.read_text(encoding="utf-8") != content:
            raise InputError(f"{folder} holds something else; name another folder")
        return rows
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as part:
        part.mkdir(parents=True, exist_ok=True)
        for quartet, pair in zip(rows, pairs, strict=True):
            for name, image in zip(quartet.images, pair.images, strict=True):
                image.save(part / name)
        (part / "examples.jsonl").write_text(content, encoding="utf-8")
    return rows
