"""Which noun phrase of a photo's captions names which box on it: by the head noun and the box's class.

"A brown dog jumps over a fence" and one box of the class "dog" give the pair (box, "A brown dog"). A pair is taken only
where nothing else could be meant: the caption has one phrase of that class, and the photo has as many boxes of it as
the phrase says. "Two dogs" goes with the box around both. The lists are small and English.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cliplet.data.spans import noun_phrases
from cliplet.regions.base import Floats

# class: other nouns for it, parted by spaces, "_" inside a noun
_SYNONYMS = """
person: man woman boy girl child kid baby toddler infant guy gentleman lady adult teenager teen player athlete youth
    skateboarder snowboarder surfer skier biker bicyclist cyclist motorcyclist climber hiker rider runner jogger swimmer
    diver dancer worker performer musician singer guitarist wrestler boxer cowboy cheerleader pitcher batter goalie
    golfer skater rollerblader kayaker wakeboarder fisherman soldier policeman officer firefighter chef waiter waitress
    bride groom student tourist pedestrian male female human gymnast individual acrobat dirtbiker parent mother father
bicycle: bike cycle tricycle
car: automobile sedan taxi cab suv convertible racecar race_car jeep van minivan
motorcycle: motorbike dirtbike dirt_bike scooter moped motor_bike motocross_bike
airplane: plane aeroplane jet aircraft airliner
bus: coach
train: locomotive
truck: pickup lorry pickup_truck firetruck fire_truck
boat: canoe kayak raft sailboat ship rowboat speedboat ferry yacht
traffic light: stoplight traffic_signal
fire hydrant: hydrant
bench: pew
bird: duck goose pigeon seagull gull swan parrot hawk eagle owl chicken rooster crane heron
cat: kitten kitty
dog: puppy pup poodle terrier retriever greyhound collie dalmatian bulldog hound beagle pug labrador lab spaniel
    shepherd husky dachshund chihuahua corgi rottweiler mutt canine
horse: pony foal stallion mare bronco
sheep: lamb ram ewe
cow: bull calf ox steer
bear: cub
backpack: rucksack knapsack
umbrella: parasol
handbag: purse
tie: necktie
suitcase: luggage
frisbee: disc
skis: ski
sports ball: ball football basketball baseball volleyball soccer_ball tennis_ball beachball softball
baseball bat: bat
baseball glove: mitt glove
skateboard: longboard
surfboard: wakeboard boogie_board bodyboard
tennis racket: racket racquet
wine glass: goblet
cup: mug
sandwich: burger hamburger
hot dog: hotdog
donut: doughnut
couch: sofa loveseat
chair: armchair
potted plant: houseplant
dining table: table
tv: television monitor
remote: remote_control
cell phone: phone cellphone mobile_phone smartphone telephone
refrigerator: fridge
book: magazine novel
teddy bear: teddy
hair drier: hairdryer hair_dryer
"""
_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "goose": "geese", "mouse": "mice",
    "calf": "calves", "knife": "knives", "ox": "oxen", "gentleman": "gentlemen", "policeman": "policemen",
    "fisherman": "fishermen", "sheep": "sheep", "aircraft": "aircraft", "skis": "skis", "scissors": "scissors",
    "luggage": "luggage",
}  # fmt: skip
_NUMBERS = {
    "two": 2, "2": 2, "both": 2, "three": 3, "3": 3, "four": 4, "4": 4, "five": 5, "5": 5, "six": 6, "6": 6, "seven": 7,
    "7": 7, "eight": 8, "8": 8,
}  # fmt: skip
_SEVERAL = frozenset(["some", "several", "many", "few", "all", "dozens", "lots", "these", "those"])
_WORD = re.compile(r"[A-Za-z0-9'’-]+")


@dataclass(frozen=True)
class NamedBox:
    """A box and a phrase that names it."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in the unit of the boxes given."""
    label: str
    """The box's class."""
    phrase: str
    """As the caption has it."""
    caption: int
    """Which of the photo's captions."""
    others: tuple[str, ...] = ()
    """The caption's other noun phrases."""


def _synonyms() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\n +", " ", _SYNONYMS.strip()).splitlines():
        name, _, words = line.partition(":")
        found[name] = [w.replace("_", " ") for w in words.split()]
    return found


def plural(noun: str) -> str:
    """The plural of an English noun; of several words, the last one's.

    Example:
        >>> plural("fire truck"), plural("puppy"), plural("bus"), plural("man")
        ('fire trucks', 'puppies', 'buses', 'men')
    """
    first, _, last = noun.rpartition(" ")
    if last in _PLURALS:
        several = _PLURALS[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        several = last[:-1] + "ies"
    else:
        several = last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{first} {several}".strip()


@lru_cache(maxsize=64)
def _nouns(classes: tuple[str, ...]) -> Mapping[str, tuple[str, bool]]:
    """Each noun of some classes: the class, and whether several are meant."""
    known = _synonyms()
    found: dict[str, tuple[str, bool]] = {}
    for name in classes:
        for noun in (name.lower(), *known.get(name.lower(), ())):
            found.setdefault(noun, (name, False))
    for noun, (name, _) in list(found.items()):
        found.setdefault(plural(noun), (name, True))
    return found


def named_class(phrase: str, classes: Sequence[str]) -> tuple[str, int | None] | None:
    """The class that a noun phrase names by its last noun, and how many; None where it names none of them.

    The number is None where the phrase means several and does not say how many.

    Example:
        >>> named_class("two brown puppies", ["dog", "cat"]), named_class("A man", ["person"])
        (('dog', 2), ('person', 1))
        >>> named_class("dogs", ["dog"]), named_class("a dog house", ["dog"])
        (('dog', None), None)
    """
    words = [w.lower() for w in _WORD.findall(phrase)]
    nouns = _nouns(tuple(classes))
    for length in (3, 2, 1):
        found = nouns.get(" ".join(words[-length:])) if len(words) >= length else None
        if found is not None:
            name, several = found
            numbers = [_NUMBERS[w] for w in words[:-length] if w in _NUMBERS]
            if numbers:
                return name, numbers[0]
            return name, None if several or _SEVERAL & set(words[:-length]) else 1
    return None


def name_boxes(captions: Sequence[str], boxes: Floats, labels: Sequence[str]) -> list[NamedBox]:
    """The boxes of one photo that phrases of its captions name.

    Args:
        captions: of the photo.
        boxes: ``[n, 4]``: left, top, right, bottom in any unit.
        labels: the class of each; empty for none.

    Returns:
        A row for each box and phrase; a phrase that several captions have is there once.
    """
    counts = Counter(label for label in labels if label)
    classes = sorted(counts)
    found: dict[tuple[str, str], NamedBox] = {}
    for number, caption in enumerate(captions):
        spans = [s.text for s in noun_phrases(caption)]
        named = [named_class(text, classes) for text in spans]
        times = Counter(one[0] for one in named if one)
        for place, (text, one) in enumerate(zip(spans, named, strict=True)):
            if one is None or times[one[0]] > 1 or counts[one[0]] != one[1]:
                continue
            own = boxes[[label == one[0] for label in labels]]
            around = (*own[:, :2].min(axis=0).tolist(), *own[:, 2:].max(axis=0).tolist())
            others = tuple(t for n, t in enumerate(spans) if n != place)
            found.setdefault((one[0], plain(text)), NamedBox(around, one[0], text, number, others))
    return list(found.values())


def plain(phrase: str) -> str:
    """A phrase without its article, in lower case: equal where phrases say the same.

    Example:
        >>> plain("A  brown dog") == plain("the brown dog")
        True
    """
    words = phrase.lower().split()
    return " ".join(words[1:] if words and words[0] in ("a", "an", "the") and len(words) > 1 else words)


def random_box(box: Sequence[float], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box of the same size anywhere on the photo; shares of the photo's sides."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top = rng.uniform(0, max(0.0, 1 - width)), rng.uniform(0, max(0.0, 1 - height))
    return (float(left), float(top), float(left + width), float(top + height))
