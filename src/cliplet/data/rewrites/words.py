"""Words that the rewriting rules know: what means the same, how verbs bend, where things are.

The lists are small and English. A caption without a listed word is left as it is by that rule.
"""

from dataclasses import dataclass
from functools import cache

# Sets of the same meaning. Members are parted by "=", the forms of one (singular/plural, or -ing/-s) by "/". Unlike the
# sets of the false captions, whose members are only too alike to be swapped for a wrong word, these say the same.
_ALIKE = """
man/men=guy/guys woman/women=lady/ladies child/children=kid/kids baby/babies=infant/infants
motorcycle/motorcycles=motorbike/motorbikes couch/couches=sofa/sofas airplane/airplanes=plane/planes
photograph/photographs=photo/photos=picture/pictures ocean=sea
"""
# Only the first for the second: a bike may be a motorbike, woods have no singular.
_ONE_WAY = """
bicycle/bicycles>bike/bikes automobile/automobiles>car/cars puppy/puppies>dog/dogs kitten/kittens>cat/cats
sailboat/sailboats>boat/boats
"""
# Phrases and words that stand before, between or beside nouns.
_PHRASES = """
next to=beside
on top of=atop
large=big
multicolored=multi-colored=colorful
grey=gray
t-shirt=tee shirt
tshirt=t-shirt
towards=toward
amongst=among
whilst>while
playing around in>playing in
laying on>lying on
laying in>lying in
in the air=in midair
swimming pool>pool
a couple of>two
jumping over=leaping over
jumps over=leaps over
jump over=leap over
jumping into=leaping into
jumps into=leaps into
looking at=gazing at
looks at=gazes at
is sitting=is seated
are sitting=are seated
sitting on=seated on
sitting in=seated in
sitting at=seated at
dressed in>wearing
smiling=grinning
outdoors=outside
indoors=inside
throwing=tossing
throws=tosses
various>different
"""


def _pairs() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for line in _ALIKE.split():
        members = [m.split("/") for m in line.split("=")]
        for one in members:
            for form, word in enumerate(one):
                found.setdefault(word, []).extend(m[form] for m in members if m is not one)
    for line in _ONE_WAY.split():
        first, second = (m.split("/") for m in line.split(">"))
        for form, word in enumerate(first):
            found.setdefault(word, []).append(second[form])
    return {k: tuple(dict.fromkeys(v)) for k, v in found.items()}


def _phrases() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in _PHRASES.strip().splitlines():
        if ">" in line:
            first, second = line.split(">")
            found[first] = (*found.get(first, ()), second)
            continue
        members = line.split("=")
        for one in members:
            found[one] = (*found.get(one, ()), *(m for m in members if m != one))
    return found


NOUNS = _pairs()
"""Noun to nouns that say the same, in the same number."""
PHRASES = _phrases()
"""Further words and phrases to what says the same."""
ALIKE = tuple(frozenset(f for m in line.split("=") for f in m.split("/")) for line in _ALIKE.split())
"""The sets of nouns."""


@dataclass(frozen=True)
class Verb:
    """Forms of a verb."""

    base: str
    """They ride."""
    s: str
    """She rides."""
    ing: str
    """She is riding."""
    participle: str
    """It is ridden; empty for a verb without an object."""


_TRANSITIVE = """
ride/ridden hold/held throw/thrown catch/caught chase/chased carry/carried push/pushed pull/pulled kick/kicked eat/eaten
read/read watch/watched paint/painted wash/washed drive/driven feed/fed hug/hugged kiss/kissed pet/petted bite/bitten
lick/licked lift/lifted toss/tossed pour/poured cut/cut cook/cooked build/built examine/examined photograph/photographed
follow/followed touch/touched sniff/sniffed wear/worn drag/dragged inspect/inspected steer/steered herd/herded
clean/cleaned fix/fixed sweep/swept tackle/tackled embrace/embraced swing/swung observe/observed
surf/surfed climb/climbed hit/hit play/played walk/walked perform/performed cross/crossed fly/flown take/taken use/used
retrieve/retrieved paddle/paddled drink/drunk approach/approached grab/grabbed enjoy/enjoyed shovel/shoveled pass/passed
surround/surrounded
"""
_INTRANSITIVE = """
run sit stand swim jump leap smile laugh sleep lie dance sing crawl skate pose wade dive kneel
crouch hike jog race talk look lean rest bounce roll splash
"""
_DOUBLED = frozenset(["run", "sit", "swim", "hug", "pet", "cut", "jog", "drag", "hit", "grab"])
_IRREGULAR_ING = {"lie": "lying"}


def _verb(base: str, participle: str = "") -> Verb:
    if base in _DOUBLED:
        ing = base + base[-1] + "ing"
    elif base in _IRREGULAR_ING:
        ing = _IRREGULAR_ING[base]
    else:
        ing = (base[:-1] if base.endswith("e") else base) + "ing"
    if base.endswith(("ss", "sh", "ch", "x", "o")):
        s = base + "es"
    else:
        s = base[:-1] + "ies" if base.endswith("y") and base[-2] not in "aeiou" else base + "s"
    return Verb(base, s, ing, participle)


@cache
def verbs() -> dict[str, Verb]:
    """Every form (base, -s, -ing) of every listed verb to the verb."""
    rows = [_verb(*row.split("/")) for row in _TRANSITIVE.split()] + [_verb(b) for b in _INTRANSITIVE.split()]
    return {form: verb for verb in rows for form in (verb.base, verb.s, verb.ing)}


@cache
def participles() -> dict[str, Verb]:
    """Every listed participle to its verb."""
    return {verb.participle: verb for verb in verbs().values() if verb.participle}


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_COUNTS = "two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTS.split(), 2)}
"""Number words to digits."""
WORDS_OF = {digit: word for word, digit in NUMBERS.items()}
"""Digits to number words."""
PLURAL_STARTS = word_set(f"{_COUNTS} several many few some both these those")
"""What begins a plural noun phrase."""
SINGULAR_STARTS = word_set("a an one another this")
"""What begins a singular one."""
PLURALS = word_set("men women people children guys ladies kids sheep police feet teeth fish")
"""Plurals that do not end in s, and some that do."""
NO_PLURALS = word_set(
    "grass dress glass bus canvas tennis gymnastics cross bass lens harness mattress class chess moss less"
)
"""Words in -s that are no plurals."""
PLACES = word_set(
    """
    beach shore field fields grass snow water pool lake river ocean sea sand street road sidewalk park forest woods
    desert kitchen stadium mountain mountains hill hillside cliff yard backyard lawn garden meadow playground court
    room bedroom office restaurant bar store market city town dock pier bridge stage track arena rink slope trail
    path driveway parking lot alley surf waves mud sun rain sunset background distance air countryside crowd
    runway harbor airport farmland
    """
)
"""Heads of phrases that say where."""
SUPPORTS = word_set(
    "table bench desk shelf bed couch sofa plate tray boat beach field street road court bridge roof wall counter "
    "runway airport lawn grass"
)
"""What things can stand or lie on: "a table with a cake on it" is "a cake on a table"."""
CONTAINERS = word_set("pool lake bowl basket box bathtub room cage cup bucket pond harbor garage")
"""What things can be in: "a pool with a dog in it" is "a dog in a pool"."""
