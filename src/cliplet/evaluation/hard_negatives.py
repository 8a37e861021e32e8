"""False captions made from true ones: one object, colour, number or action swapped for a wrong one.

"A black dog runs on the beach" becomes "A black cat runs on the beach". Only words from our own lists are swapped,
for a word of the same kind and grammatical form, never for a near-synonym, and never for something that another
caption of the same photo mentions. The result depends on the seed and the captions, not on the order of the
captions. Words are put in as often as the captions given use them, so that a false caption does not stand out by a rare
word: a model that sees no photo should find little to go by (:func:`cliplet.evaluation.pairs.blind_wins` measures it).
The lists are small and English; a caption without a listed word gets no negative of that kind.
"""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from typing import Literal

import numpy as np

from cliplet.errors import InputError
from cliplet.evaluation.fluency import NgramModel, count_ngrams, fair_choice
from cliplet.evaluation.pairs import CaptionPair
from cliplet.statistics.kendall import Floats

Kind = Literal["object", "colour", "number", "action"]
KINDS: tuple[Kind, ...] = ("object", "colour", "number", "action")
Words = Literal["all", "train", "test"]
"""Which word pairs may be swapped."""

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

    def pair(self, own: Sequence[str] = (), seed: int = 0) -> CaptionPair:
        """As a pair for :func:`cliplet.evaluation.pairs.evaluate_pairs`.

        Args:
            own: captions of the image, one of which becomes the second true one.
            seed: chooses it.
        """
        others = sorted({c for c in own if c != self.true})
        key = zlib.crc32(f"{self.image}\t{self.true}".encode("utf-8", "surrogatepass"))
        also = others[int(np.random.default_rng([seed, key]).integers(len(others)))] if others else ""
        return CaptionPair(self.image, self.true, self.false, self.category, also)


@dataclass(frozen=True)
class Swaps:
    """How false captions are made from true ones, and with what they are asked; see :func:`hard_negatives`."""

    words: Words = "all"
    """Which word pairs."""
    words_seed: int = 0
    """Seed of the split of the word pairs."""
    fluent: bool = False
    """Those that sound like the true ones."""
    balanced: bool = False
    """As many as no guesser without the photo can tell."""
    two_true: bool = False
    """Ask with another true caption of the photo beside."""

    def make(self, captions: Mapping[str, Sequence[str]], seed: int = 0) -> list[CaptionPair]:
        """Pairs of all kinds, one of each kind for a caption."""
        made = hard_negatives(
            captions, KINDS, seed, self.words, self.words_seed, self.fluent, balanced=self.balanced
        )
        return [n.pair(captions[n.image] if self.two_true else (), seed) for n in made]


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


@cache
def _in_test(kind: Kind, family: int, pair: tuple[int, int], words_seed: int) -> bool:
    """Whether a pair of members belongs to ``test``: one in three of a family's, by a hash of seed and words."""
    names = {
        m: w
        for place in _lexicon(kind)[1]
        if place[0] == family
        for m, w in reversed(_lexicon(kind)[1][place])
    }

    def rank(one: tuple[int, int]) -> int:
        text = f"{words_seed} {kind} {names[one[0]]} {names[one[1]]}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    ranks = sorted(rank(one) for one in combinations(sorted(names), 2))
    whole, rest = divmod(len(ranks), 3)
    count = whole + (rest > 0 and ranks[0] % 3 < rest)  # families too small for thirds by chance
    return rank(pair) in ranks[:count]


def in_words(kind: Kind, before: str, after: str, words: Words, words_seed: int = 0) -> bool:
    """Whether two listed words of one family may stand for each other in this part of the word pairs.

    The pairs of each family's members (near-synonyms and all their forms count as one) are split by seed into two
    thirds ``train`` and one third ``test``; a pair is the same both ways round.
    """
    if words == "all":
        return True
    known = _lexicon(kind)[0]
    one, other = known[before.lower()], known[after.lower()]
    pair = (min(one.member, other.member), max(one.member, other.member))
    return _in_test(kind, one.family, pair, words_seed) == (words == "test")


@dataclass(frozen=True)
class _Option:
    """A place in a caption, and the words that may stand there."""

    at: re.Match[str]
    words: list[str]
    shares: Floats
    """How often each is taken ``[words]``."""


def _options(
    caption: str,
    kind: Kind,
    also: Sequence[str],
    frequencies: Mapping[str, int] | None,
    words: Words = "all",
    words_seed: int = 0,
) -> list[_Option]:
    """Where a word may be swapped, and for what."""
    known, family = _lexicon(kind)
    forbidden = mentioned([caption, *also], kind)
    found = []
    for match in _TOKEN.finditer(caption):
        place = known.get(match.group().lower())
        if place is None:
            continue
        chosen = [
            other
            for member, other in family[(place.family, place.form)]
            if member not in forbidden and in_words(kind, match.group(), other, words, words_seed)
        ]
        if chosen:
            weights = np.array([0.1 + (frequencies.get(w, 0) if frequencies else 1) for w in chosen])
            found.append(_Option(match, chosen, weights / weights.sum()))
    return found


def _swapped(caption: str, at: re.Match[str], after: str) -> tuple[str, str, str]:
    """(caption with the word put in, word before, word after), number, case and article made to fit."""
    before = at.group()
    if before.isdigit() != after.isdigit():
        after = _other_spelling(after)
    shown = after.capitalize() if before[0].isupper() else after
    return _with_article(caption[: at.start()], shown) + shown + caption[at.end() :], before, shown


def swap_word(
    caption: str,
    kind: Kind,
    rng: np.random.Generator,
    also: Sequence[str] = (),
    frequencies: Mapping[str, int] | None = None,
    words: Words = "all",
    words_seed: int = 0,
) -> tuple[str, str, str] | None:
    """(false caption, word before, word after), or None when the caption has no word of this kind to swap.

    ``also``: other captions of the same image, whose things are never put in. ``frequencies``: how often each word is
    used, so that a word is put in as often as people write it; without them all are equally likely. ``words``: see
    :func:`in_words`.
    """
    _check(kind, words)
    options = _options(caption, kind, also, frequencies, words, words_seed)
    if not options:
        return None
    option = options[int(rng.integers(len(options)))]
    return _swapped(caption, option.at, option.words[int(rng.choice(len(option.words), p=option.shares))])


def _check(kind: str, words: str = "all") -> None:
    if kind not in _TABLES:
        raise InputError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    if words not in ("all", "train", "test"):
        raise InputError(f"unknown part {words!r} of the word pairs; use all, train or test")


CANDIDATES = 6
"""Changed captions of which the ``fluent`` ones are taken."""
ODD = 4.0
"""A changed caption whose log likelihood is lower by more is left out where captions shall be ``fluent``."""


def swap_words(
    caption: str,
    kind: Kind,
    rng: np.random.Generator,
    count: int,
    also: Sequence[str] = (),
    frequencies: Mapping[str, int] | None = None,
    words: Words = "all",
    words_seed: int = 0,
    difference: Callable[[str, str], float] | None = None,
) -> list[tuple[str, str, str]]:
    """Up to ``count`` different false captions, as :func:`swap_word` gives one.

    Args:
        caption: the caption.
        kind: of word.
        rng: draws them, each word as often as people write it.
        count: how many.
        also: see :func:`swap_word`.
        frequencies: see :func:`swap_word`.
        words: see :func:`in_words`.
        words_seed: see :func:`in_words`.
        difference: log likelihood of a changed caption less the caption's. With it the nearest of some drawn ones are
            taken, the nearest first, and none that is unlikelier by more than :data:`ODD`.
    """
    _check(kind, words)
    options = _options(caption, kind, also, frequencies, words, words_seed)
    every = [(option.at, word) for option in options for word in option.words]
    if not every:
        return []
    shares = np.concatenate([option.shares for option in options]) / len(options)
    drawn = min(len(every), count if difference is None else max(count, CANDIDATES))
    picked = rng.choice(len(every), drawn, replace=False, p=shares)
    found = [_swapped(caption, *every[i]) for i in picked]
    if difference is not None:
        apart = [difference(false, caption) for false, _, _ in found]
        near = sorted((abs(d), i) for i, d in enumerate(apart) if d >= -ODD)
        found = [found[i] for _, i in near[:count]]
    return found


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


def rules() -> str:
    """A number of the lists and limits; false captions made by other ones may differ."""
    return f"{zlib.crc32(repr([_TABLES, CANDIDATES, ODD]).encode()):08x}"


def hard_negatives(
    captions: Mapping[str, Sequence[str]],
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
    words: Words = "all",
    words_seed: int = 0,
    fluent: bool = False,
    per_caption: int = 1,
    balanced: bool = False,
) -> list[HardNegative]:
    """False captions of each kind for every caption that has a word to swap.

    Args:
        captions: image names to all their captions.
        kinds: of words.
        seed: of the words that are put in.
        words: which word pairs: those of ``train`` and of ``test`` share none (see :func:`in_words`).
        words_seed: of the split of the word pairs.
        fluent: take the false caption that sounds most like the true one among some, by a trigram model fitted on the
            captions of the other images, and none that sounds odd ("posing up a set of stairs").
        per_caption: false captions of each kind, all different; fewer where there are not so many.
        balanced: then leave out so many that nobody can tell the false captions of a kind by their likelihood, their
            length or commoner words, without the photo (see :func:`cliplet.evaluation.fluency.fair_choice`).

    Returns:
        In the order of the captions, kinds in the order given.
    """
    frequencies = Counter(t.lower() for own in captions.values() for c in own for t in _TOKEN.findall(c))
    model = NgramModel(c for own in captions.values() for c in own) if fluent or balanced else None
    out, gaps, keys = [], [], []
    for image, own in captions.items():
        difference = None if model is None else partial(model.difference, without=count_ngrams(own))
        for caption in own:
            for kind in kinds:
                key = zlib.crc32(f"{kind}\t{image}\t{caption}".encode("utf-8", "surrogatepass"))
                rng, which = np.random.default_rng([seed, key]), (own, frequencies, words, words_seed)
                if fluent or per_caption > 1:
                    near = difference if fluent else None
                    found = swap_words(caption, kind, rng, per_caption, *which, near)
                else:
                    one = swap_word(caption, kind, rng, *which)
                    found = [] if one is None else [one]
                out += [HardNegative(image, caption, text, kind, *pair) for text, *pair in found]
                if balanced and difference is not None:
                    gaps += [_gaps(caption, swap, difference, frequencies) for swap in found]
                    keys += [key] * len(found)
    if balanced and out:
        fair = fair_choice(np.array(gaps), [n.category for n in out], keys)
        out = [n for n, stays in zip(out, fair, strict=True) if stays]
    return out


def _gaps(
    caption: str,
    swap: tuple[str, str, str],
    difference: Callable[[str, str], float],
    frequencies: Mapping[str, int],
) -> tuple[float, float, float]:
    """What guessers see of a false caption: how much likelier, of commoner words and shorter the true one is."""
    false, before, after = swap
    commoner = frequencies.get(before.lower(), 0) - frequencies.get(after.lower(), 0)
    return -difference(false, caption), commoner, len(false) - len(caption)
