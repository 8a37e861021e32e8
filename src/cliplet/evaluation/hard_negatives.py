"""False captions made from true ones: one object, colour, number or action swapped for a wrong one.

"A black dog runs on the beach" becomes "A black cat runs on the beach". Only words from our own lists are swapped,
for a word of the same kind and grammatical form, never for a near-synonym, and never for something that another
caption of the same photo mentions. The result depends on the seed and the captions, not on the order of the
captions. Words are put in as often as the captions given use them, so that a false caption does not stand out by a rare
word: a model that sees no photo should find little to go by (:func:`cliplet.evaluation.pairs.blind_wins` measures it).
The lists are small and English; a caption without a listed word gets no negative of that kind.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from cliplet.errors import InputError
from cliplet.evaluation.pairs import CaptionPair

Kind = Literal["object", "colour", "number", "action"]
KINDS: tuple[Kind, ...] = ("object", "colour", "number", "action")

# Each line is a family whose members can stand for each other in a sentence. Members are parted by spaces; a member's
# forms by "/" (singular/plural, or -ing/-s form); "=" joins members too alike to be swapped for one another.
_OBJECTS = """
man/men=guy/guys=gentleman/gentlemen woman/women=lady/ladies
boy/boys girl/girls
dog/dogs=puppy/puppies cat/cats=kitten/kittens horse/horses=pony/ponies cow/cows=bull/bulls sheep/sheep=goat/goats \
bird/birds duck/ducks rabbit/rabbits monkey/monkeys pig/pigs elephant/elephants
car/cars=truck/trucks=van/vans bus/buses=train/trains bicycle/bicycles=bike/bikes \
motorcycle/motorcycles=motorbike/motorbikes boat/boats=kayak/kayaks=canoe/canoes \
airplane/airplanes=plane/planes tractor/tractors
skateboard/skateboards surfboard/surfboards scooter/scooters snowboard/snowboards sled/sleds
ball/balls=football/footballs=basketball/basketballs frisbee/frisbees stick/sticks bone/bones shoe/shoes \
balloon/balloons umbrella/umbrellas guitar/guitars camera/cameras book/books bottle/bottles
beach/beaches=shore/shores=sand forest/forests=woods street/streets=road/roads=sidewalk/sidewalks desert/deserts \
kitchen/kitchens stadium/stadiums mountain/mountains=hill/hills=cliff/cliffs
pool/pools=lake/lakes=river/rivers=ocean/oceans=water field/fields=meadow/meadows=grass snow=ice
shirt/shirts=t-shirt/t-shirts jacket/jackets=coat/coats dress/dresses sweater/sweaters \
uniform/uniforms swimsuit/swimsuits
hat/hats=cap/caps helmet/helmets scarf/scarves wig/wigs crown/crowns
bench/benches=chair/chairs table/tables bed/beds couch/couches=sofa/sofas swing/swings ladder/ladders
tree/trees building/buildings=house/houses fence/fences=wall/walls bridge/bridges statue/statues=fountain/fountains
pizza/pizzas sandwich/sandwiches cake/cakes apple/apples=fruit banana/bananas salad/salads soup/soups
"""
_COLOURS = """
red=orange=pink=maroon blue=purple=navy=turquoise green yellow=golden=gold=blond=blonde black \
white=cream brown=tan=beige grey=gray=silver
"""
_NUMBERS = "two=2 three=3 four=4 five=5 six=6 seven=7=eight=8=nine=9=ten=10"
_ACTIONS = """
walking/walks=strolling/strolls=hiking/hikes=wandering/wanders=strutting/struts \
running/runs=jogging/jogs=racing/races=sprinting/sprints=chasing/chases \
jumping/jumps=leaping/leaps=hopping/hops=flying/flies=bounding/bounds \
sitting/sits=resting/rests=kneeling/kneels=crouching/crouches=squatting/squats \
standing/stands=posing/poses=waiting/waits lying/lies=laying/lays=sleeping/sleeps=napping/naps \
swimming/swims=wading/wades=splashing/splashes=diving/dives \
crawling/crawls climbing/climbs dancing/dances=spinning/spins skating/skates falling/falls
holding/holds=carrying/carries=clutching/clutches throwing/throws=tossing/tosses catching/catches=grabbing/grabs \
kicking/kicks pushing/pushes pulling/pulls=dragging/drags=tugging/tugs painting/paints washing/washes
eating/eats=chewing/chews=biting/bites drinking/drinks=sipping/sips reading/reads cooking/cooks writing/writes
smiling/smiles=laughing/laughs=grinning/grins crying/cries=screaming/screams=yelling/yells singing/sings \
yawning/yawns=frowning/frowns
"""
_TABLES: dict[Kind, str] = {"object": _OBJECTS, "colour": _COLOURS, "number": _NUMBERS, "action": _ACTIONS}


@dataclass(frozen=True)
class HardNegative:
    """A true caption and a false one that differs in one word."""

    image: str
    """The image's name."""
    true: str
    """The caption."""
    false: str
    """The caption with one word swapped."""
    category: Kind
    """What kind of word."""
    before: str
    """The word that was there."""
    after: str
    """The word put in its place."""

    def pair(self) -> CaptionPair:
        """As a pair for :func:`cliplet.evaluation.pairs.evaluate_pairs`."""
        return CaptionPair(self.image, self.true, self.false, self.category)


@dataclass(frozen=True)
class _Word:
    family: int
    member: int
    form: int


@cache
def _lexicon(kind: Kind) -> tuple[dict[str, _Word], dict[tuple[int, int], list[tuple[int, str]]]]:
    """(word to its place, (family, form) to all (member, word))."""
    words: dict[str, _Word] = {}
    family_words: dict[tuple[int, int], list[tuple[int, str]]] = {}
    member = 0
    for family, line in enumerate(re.sub(r"\\\n", " ", _TABLES[kind]).strip().splitlines()):
        for alike in line.split():
            for forms in alike.split("="):
                for form, word in enumerate(forms.split("/")):
                    words.setdefault(word, _Word(family, member, form))
                    family_words.setdefault((family, form), []).append((member, word))
            member += 1
    return words, family_words


_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9'-]*")


def mentioned(captions: Iterable[str], kind: Kind) -> set[int]:
    """Which listed things of a kind (near-synonyms count as one) any of the captions mentions."""
    words = _lexicon(kind)[0]
    found = (words.get(token.lower()) for caption in captions for token in _TOKEN.findall(caption))
    return {word.member for word in found if word is not None}


def _choices(word: _Word, kind: Kind, forbidden: set[int]) -> list[str]:
    """Words that may stand in for this one."""
    return [other for member, other in _lexicon(kind)[1][(word.family, word.form)] if member not in forbidden]


def swap_word(
    caption: str,
    kind: Kind,
    rng: np.random.Generator,
    also: Sequence[str] = (),
    frequencies: Mapping[str, int] | None = None,
) -> tuple[str, str, str] | None:
    """(false caption, word before, word after), or None when the caption has no word of this kind to swap.

    ``also``: other captions of the same image, whose things are never put in. ``frequencies``: how often each word is
    used, so that a word is put in as often as people write it; without them all are equally likely.
    """
    if kind not in _TABLES:
        raise InputError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    words = _lexicon(kind)[0]
    forbidden = mentioned([caption, *also], kind)
    places = [(m, words[m.group().lower()]) for m in _TOKEN.finditer(caption) if m.group().lower() in words]
    options = [(m, chosen) for m, word in places if (chosen := _choices(word, kind, forbidden))]
    if not options:
        return None
    match, chosen = options[int(rng.integers(len(options)))]
    weights = np.array([0.1 + (frequencies.get(w, 0) if frequencies else 1) for w in chosen])
    after = chosen[int(rng.choice(len(chosen), p=weights / weights.sum()))]
    before = match.group()
    if before.isdigit() != after.isdigit():
        after = _other_spelling(after)
    shown = after.capitalize() if before[0].isupper() else after
    start = _with_article(caption[: match.start()], shown)
    return start + shown + caption[match.end() :], before, shown


def _other_spelling(number_word: str) -> str:
    """``two`` for ``2`` and the other way round."""
    names = [w for group in _NUMBERS.split() for w in group.split("=")]
    at = names.index(number_word)
    return names[at - 1 if number_word.isdigit() else at + 1]


def _with_article(before: str, word: str) -> str:
    """The text before a swapped word, its last "a" or "an" made to fit."""
    article = re.search(r"\b([Aa])n?(\s+)$", before)
    if article is None:
        return before
    n = "n" if word[0].lower() in "aeiou" and not word.lower().startswith("uni") else ""
    return before[: article.start()] + article.group(1) + n + article.group(2)


def hard_negatives(
    captions: Mapping[str, Sequence[str]], kinds: Sequence[Kind] = KINDS, seed: int = 0
) -> list[HardNegative]:
    """One false caption of each kind for every caption that has a word to swap.

    ``captions`` maps image names to all their captions. The result is in their order, kinds in the order given.
    """
    frequencies = Counter(t.lower() for own in captions.values() for c in own for t in _TOKEN.findall(c))
    out = []
    for image, own in captions.items():
        for caption in own:
            for kind in kinds:
                key = zlib.crc32(f"{kind}\t{image}\t{caption}".encode("utf-8", "surrogatepass"))
                swapped = swap_word(caption, kind, np.random.default_rng([seed, key]), own, frequencies)
                if swapped is not None:
                    out.append(HardNegative(image, caption, swapped[0], kind, swapped[1], swapped[2]))
    return out
