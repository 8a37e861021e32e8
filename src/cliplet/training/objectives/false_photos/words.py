"""What the words of a caption say about boxes: which classes of a detector a noun names, counts, and sides."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cliplet.data.spans import noun_phrases
from cliplet.evaluation.hard_negatives import KINDS, mentioned


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A class of COCO, and what people call it: singular/plural. A word may name several classes, because people and
# detectors part cars from trucks, and buses from trains, in different places.
_NAMED = """
person: man/men woman/women boy/boys girl/girls person/people child/children kid/kids guy/guys lady/ladies
    gentleman/gentlemen player/players toddler/toddlers baby/babies adult/adults skateboarder/skateboarders
    surfer/surfers skier/skiers snowboarder/snowboarders cyclist/cyclists biker/bikers climber/climbers rider/riders
    hiker/hikers runner/runners dancer/dancers swimmer/swimmers worker/workers teenager/teenagers
bicycle: bicycle/bicycles bike/bikes
car: car/cars truck/trucks van/vans suv/suvs
truck: truck/trucks van/vans
motorcycle: motorcycle/motorcycles motorbike/motorbikes
airplane: airplane/airplanes plane/planes aeroplane/aeroplanes aircraft/aircraft
bus: bus/buses
train: train/trains
boat: boat/boats kayak/kayaks canoe/canoes ship/ships sailboat/sailboats
bench: bench/benches
bird: bird/birds duck/ducks seagull/seagulls pigeon/pigeons
cat: cat/cats kitten/kittens
dog: dog/dogs puppy/puppies
horse: horse/horses pony/ponies
sheep: sheep/sheep goat/goats lamb/lambs
cow: cow/cows bull/bulls
elephant: elephant/elephants
backpack: backpack/backpacks
umbrella: umbrella/umbrellas
frisbee: frisbee/frisbees
snowboard: snowboard/snowboards
surfboard: surfboard/surfboards
skateboard: skateboard/skateboards
sports ball: ball/balls football/footballs basketball/basketballs
kite: kite/kites
bottle: bottle/bottles
banana: banana/bananas
apple: apple/apples
sandwich: sandwich/sandwiches
pizza: pizza/pizzas
cake: cake/cakes
chair: chair/chairs
couch: couch/couches sofa/sofas
bed: bed/beds
dining table: table/tables
tv: television/televisions tv/tvs
cell phone: phone/phones cellphone/cellphones
book: book/books
teddy bear: bear/bears
"""
WORN = _words(
    """
    shirt shirts t-shirt t-shirts tshirt tshirts tee jersey jerseys top tops blouse sweater sweaters sweatshirt
    sweatshirts hoodie vest vests jacket jackets coat coats dress dresses skirt skirts suit suits uniform uniforms
    outfit outfits costume costumes robe robes swimsuit swimsuits bikini shorts pants trousers jeans trunks overalls
    hat hats cap caps helmet helmets bandanna scarf clothes clothing
    """
)
"""What a person wears: its colour lies in the person's box."""
PAIRS = _words("shorts pants trousers jeans trunks overalls clothes")
"""Plurals that one person wears."""
_DRAWN = (("one", "1"), ("two", "2"), ("three", "3"), ("four", "4"), ("five", "5"), ("six", "6"))
NUMBERS = {word: number for number, words in enumerate(_DRAWN, 1) for word in words}
"""Number words that can be drawn."""
TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9'-]*")
_SIDE = re.compile(
    r"\b(?:(?<=on the )|(?<=to the )|(?<=at the )|(?<=from the )|(?<=in the )|(?<=on his )|(?<=on her )|(?<=to his )"
    r"|(?<=to her )|(?<=the far )|(?<=facing )|(?<=looking ))(left|right)\b(?! (?:of way|behind|before|after|now)\b)"
    r"|\b(left|right)(?=[ -](?:side|hand|arm|leg|foot|corner|shoulder|knee|eye|ear|edge|lane)\b)",
    re.IGNORECASE,
)


@cache
def _table() -> dict[str, tuple[bool, tuple[str, ...]]]:
    """Word to (whether it is a plural, the classes that it names)."""
    found: dict[str, tuple[bool, tuple[str, ...]]] = {}
    for line in re.sub(r"\n +", " ", _NAMED).strip().splitlines():
        name, _, words = line.partition(":")
        for forms in words.split():
            one, many = forms.split("/")
            for word in dict.fromkeys((many, one)):  # "sheep" counts as one
                found[word] = (word != one, (*found.get(word, (False, ()))[1], name))
    return found


def named_classes(word: str, names: Sequence[str]) -> tuple[frozenset[int], bool]:
    """The classes of a detector that a noun names, and whether it is a plural.

    Args:
        word: a noun.
        names: what the detector calls its classes; a class's own name, or that with an s, always names it.
    """
    lower = word.lower()
    many, known = _table().get(lower, (False, ()))
    found = {i for i, name in enumerate(names) if name in known or name.lower() == lower}
    if not found and lower.endswith("s"):
        found = {i for i, name in enumerate(names) if name.lower() == lower[:-1]}
        many = bool(found)
    return frozenset(found), many


def is_person(word: str) -> bool:
    """Whether a noun names a person."""
    return "person" in _table().get(word.lower(), (False, ()))[1]


@dataclass(frozen=True)
class Place:
    """Where two captions differ in one word."""

    before: str
    """The word of the true caption, lower case."""
    after: str
    """The word of the false one, lower case."""
    head: str
    """Last word of the noun phrase with the swapped word in the true caption, lower case; empty without a phrase."""


def swapped_place(true: str, false: str, before: str, after: str) -> Place | None:
    """Where a false caption differs from the true one; None where it is not one word."""
    old, new = list(TOKEN.finditer(true)), TOKEN.findall(false)
    if len(old) != len(new):
        return None
    for match, other in zip(old, new, strict=True):
        if match.group().lower() == before.lower() and other.lower() == after.lower():
            return Place(before.lower(), after.lower(), head_of(true, match.start()))
    return None


def head_of(caption: str, at: int) -> str:
    """The last word of the noun phrase with a character of the caption, lower case; empty without one."""
    for span in noun_phrases(caption):
        if span.start <= at < span.end:
            words = TOKEN.findall(span.text)
            return words[-1].lower() if words else ""
    return ""


@cache
def meaning(word: str, kind: Any) -> frozenset[int]:
    """The listed thing that a word means (near-synonyms are one); empty for a word of no list."""
    return frozenset(mentioned([word], kind)) if kind in KINDS else frozenset()


def slot(word: str, head: str, kind: str) -> tuple[frozenset[int], object]:
    """What a caption says of a thing: a colour or a number with its noun; an object or an action by itself."""
    if kind not in ("colour", "number"):
        return meaning(word, kind), ""
    return meaning(word, kind), meaning(head, "object") or head.removesuffix("s")


def slots(caption: str, kind: str) -> set[tuple[frozenset[int], object]]:
    """All that a caption says of things of a kind."""
    return {
        slot(m.group().lower(), head_of(caption, m.start()) if kind in ("colour", "number") else "", kind)
        for m in TOKEN.finditer(caption)
        if meaning(m.group().lower(), kind)
    }


def other_side(caption: str) -> tuple[str, str, str] | None:
    """(caption of the mirrored photo, first side before, after), or None for a caption that names no side.

    Only left and right as sides are swapped, all of them: "on the left", "his right hand", "facing left"; never "had
    left" or "right behind".

    Example:
        >>> other_side("A man on the left kicks with his right foot")
        ('A man on the right kicks with his left foot', 'left', 'right')
    """
    first = _SIDE.search(caption)
    if first is None:
        return None
    return _SIDE.sub(lambda m: _swapped(m.group()), caption), first.group(), _swapped(first.group())


def _swapped(side: str) -> str:
    word = "right" if side.lower() == "left" else "left"
    return word.capitalize() if side[0].isupper() else word


def classes_named(captions: Iterable[str], names: Sequence[str]) -> dict[int, set[frozenset[int]]]:
    """By class of the detector, what captions call it (:func:`meaning`).

    Words of no list, such as "person" and "player", may mean any of them and do not count.
    """
    found: dict[int, set[frozenset[int]]] = {}
    for caption in captions:
        for token in TOKEN.findall(caption):
            called = meaning(token.lower(), "object")
            for number in named_classes(token, names)[0]:
                found.setdefault(number, set()).update([called] if called else [])
    return found
