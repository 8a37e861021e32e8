"""Captions that are hard to tokenise, with the jar's tokens, and random ones: shared by tests and benchmarks."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
_CONTENT = json.loads(FILE.read_text("utf-8"))

HARD: dict[str, list[tuple[str, str]]] = {
    kind: [(caption, tokens) for caption, tokens in pairs] for kind, pairs in _CONTENT["hard"].items()
}
"""By kind: captions in a fixed order, and what pycocoevalcap makes of them when they are lines of one file."""
PIECES, MARKS, DOTTED = _CONTENT["pieces"], _CONTENT["marks"], _CONTENT["dotted"]

NUMERIC = "0123456789" * 5 + "      ..,,--//:()+$%&#'\u00a0\u00bdabkmst"

LINE_ENDS = "\r\x0b\x0c\x85\u2028\u2029"
"""The jar takes these for the end of a caption (the fourth only inside some patterns); random captions avoid them."""


def edited(rng: random.Random, real: Sequence[str]) -> str:
    """A real caption with one to four characters inserted, deleted or replaced."""
    caption = list(rng.choice(real))
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randint(0, len(caption)), rng.random()
        new = rng.choice(MARKS) if rng.random() < 0.7 else chr(rng.randint(48, 122))
        if kind < 0.5 or place == len(caption):
            caption.insert(place, new)
        elif kind < 0.75:
            del caption[place]
        else:
            caption[place] = new
    return "".join(caption)


def pieced(rng: random.Random, real: Sequence[str]) -> str:
    """Words of real captions, hard tokens and marks in a row, most of them with spaces between."""
    result = ""
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        piece = rng.choice(
            rng.choice(real).split() or ["a"] if kind < 0.45 else PIECES if kind < 0.8 else MARKS
        )
        change = rng.random()
        result += piece.upper() if change < 0.1 else piece.capitalize() if change < 0.2 else piece
        result += " " if rng.random() < 0.8 else ""
    return result


def printable(rng: random.Random, real: Sequence[str]) -> str:
    """Printable ASCII at random."""
    return "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(0, 40)))


def unicode(rng: random.Random, real: Sequence[str]) -> str:
    """Any characters, those of Latin scripts and symbols more often."""
    spans = [
        (32, 126),
        (32, 126),
        (0x80, 0x24F),
        (0x2000, 0x2BFF),
        (0, 0xD7FF),
        (0xE000, 0xFFFF),
        (0x10000, 0x1FFFF),
    ]
    return "".join(chr(rng.randint(*rng.choice(spans))) for _ in range(rng.randint(0, 30)))


def numeric(rng: random.Random, real: Sequence[str]) -> str:
    """Digits with all that may join them."""
    return "".join(rng.choice(NUMERIC) for _ in range(rng.randint(1, 25)))


def dotted(rng: random.Random, real: Sequence[str]) -> str:
    """Periods, apostrophes and the pieces of abbreviations and addresses."""
    return "".join(rng.choice(DOTTED) for _ in range(rng.randint(1, 20)))


def marked_up(rng: random.Random, real: Sequence[str]) -> str:
    """Tags, entities and quotation marks, closed or not."""
    return "".join(rng.choice(_CONTENT["markup"]) for _ in range(rng.randint(1, 12)))


GENERATORS: dict[str, Callable[[random.Random, Sequence[str]], str]] = {
    "real captions, edited": edited,
    "hard pieces in a row": pieced,
    "random ASCII": printable,
    "random Unicode": unicode,
    "digits and joints": numeric,
    "periods and apostrophes": dotted,
    "markup, broken": marked_up,
}


def random_captions(kind: str, number: int, real: Sequence[str], seed: int = 0) -> list[str]:
    """Random captions of one kind, without the characters that the jar takes for line ends."""
    rng = random.Random(f"{kind} {seed}")
    generate = GENERATORS[kind]
    return [generate(rng, real).translate(dict.fromkeys(map(ord, LINE_ENDS))) for _ in range(number)]
