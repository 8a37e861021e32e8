"""Near nouns: does a model tell a thing on a photo from the things most like it?

A photo that shows one listed thing of a group (animals, vehicles, food, furniture, sport) is asked for it among that
noun and its ten nearest of the group, by the cosine of all-MiniLM-L6-v2 (`near_nouns.json`, written by
`benchmarks/near_nouns.py`). Other things of the group that the photo's labels name are left out of the choices, and a
photo whose labels name two kinds equally is not asked. Where the label comes from is said beside every result:

- ``captions``: at least 3 in 5 of the photo's captions name it: what people see;
- ``names``: the photo's file or folder is named so: what the collector of the photos meant;
- ``detector``: a detector found it: agreement with the detector, which also errs.

Chance is one over the number of choices, about 9 %. Beside it stand the guessers that see no photo: this model with the
average photo, and the noun that the other photos of the set show most often.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.texts import tidy_class_name
from cliplet.data.images import ImageInput, open_image
from cliplet.data.photos import PhotoStore
from cliplet.encoders.base import Encoder
from cliplet.encoders.embed import Progress, embed_photos, embed_texts
from cliplet.errors import InputError
from cliplet.evaluation.pairs import PairResult
from cliplet.regions.base import RegionProposer
from cliplet.statistics.resampling import bootstrap_mean

NounLabels = Literal["captions", "names", "detector"]
NEAREST = 10
TEMPLATE = "a photo of {}"
SHARE = 0.6
"""Of a photo's captions that must name a thing."""
FALLS_ON = 0.45
"""Lowest score of a detection that counts."""

# A noun a line: as it is shown, then the other words that name it, parted by "/"; plurals in -s need not stand here.
GROUPS: dict[str, str] = {
    "animals": """
a dog/puppy/puppies
a cat/kitten
a horse/pony/ponies/foal
a donkey/mule
a cow/bull/ox/oxen/cattle/calf/calves
a water buffalo
a bison/buffalo
a sheep/lamb/ram
a goat
a pig/hog/piglet
a zebra
a giraffe
an elephant
a rhinoceros/rhino
a hippopotamus/hippo
a camel/dromedary
a llama/alpaca
a deer/elk
a moose
a gazelle/impala/antelope
a lion
a tiger
a leopard
a cheetah
a bear/brown bear/black bear
a polar bear/ice bear
a giant panda/panda
a wolf/wolves/timber wolf/white wolf
a fox/foxes/red fox
a hyena
a raccoon
a monkey
a gorilla
a chimpanzee
a kangaroo/wallaby
a koala
a rabbit/hare/bunny/bunnies
a squirrel/fox squirrel
a hamster
a guinea pig
a beaver
an otter
a skunk
a porcupine
an armadillo
a sloth
a whale
a dolphin
a seal/sea lion
a shark/great white shark/tiger shark
a goldfish
an eel
a duck/drake
a goose/geese
a swan/black swan
a rooster/hen/cock
a turkey
a peacock
an ostrich/ostriches
a flamingo
a pelican
a penguin/king penguin
a stork/white stork
a seagull/gull
a pigeon
an eagle/bald eagle
a vulture
an owl/great grey owl
a parrot/macaw
a hummingbird
a crow/raven
a snake
a lizard
a turtle/tortoise
a frog/bullfrog/tree frog
a crocodile
a crab
a lobster/american lobster
an octopus
a jellyfish
a starfish
a snail
a spider
a scorpion
a butterfly/butterflies/monarch
a bee
a dragonfly/dragonflies
a ladybug
a grasshopper
a cockroach
""",
    "vehicles": """
a car/automobile/sedan/convertible
a race car/racer/racing car
a taxi/cab/taxicab
a limousine
a jeep
a van/minivan
a police van
an ambulance
a fire truck/fire engine
a truck/lorry/pickup/trailer truck
a garbage truck
a tow truck
a bus/buses/school bus
a minibus
a trolleybus
a tram/streetcar/trolley
a train/bullet train
a steam locomotive/steam engine/locomotive
a bicycle/bike/mountain bike
a tandem bicycle
a tricycle
a unicycle
a motorcycle/motorbike/dirt bike
a motor scooter/moped/scooter
a tractor
a bulldozer
a forklift
a golf cart
a tank
a wheelchair
a horse cart
a stroller
a sled/sleigh/bobsled
a snowmobile
a snowplow
an airplane/aeroplane/plane/jet/airliner
a fighter jet/warplane
a helicopter
a hot air balloon
an airship
a rocket
a sailboat/yacht
a rowboat
a canoe
a kayak
a gondola
a speedboat/motorboat
a ferry/ferries
a fireboat
a container ship
a cruise ship/ocean liner
an aircraft carrier
a submarine
""",
    "food": """
a pizza
a sandwich/sandwiches
a hamburger/burger/cheeseburger
a hot dog/hotdog
a taco
a burrito
a salad
a soup
a stew
spaghetti
noodles
rice
sushi
a steak
a meatloaf
bacon
an egg/eggs
french fries/fries
mashed potatoes/mashed potato
a bagel
a pretzel
a loaf of bread/bread/french loaf
a croissant
a muffin
a cake
a cupcake
a pie
a donut/doughnut
a cookie
a pancake
a waffle
ice cream
a trifle
chocolate
cheese
an apple
oranges
a lemon
a banana
a pineapple
a strawberry/strawberries
a grape
a cherry/cherries
a pear
a peach/peaches
a watermelon
a pomegranate
a fig
a carrot
broccoli
cauliflower
a cabbage/head cabbage
lettuce
spinach
a potato/potatoes
a tomato/tomatoes
a cucumber
a zucchini
a bell pepper
corn
an onion
a mushroom
an artichoke
guacamole
coffee/espresso
tea
wine/red wine
beer
""",
    "furniture": """
a chair
a rocking chair
a folding chair
an armchair/recliner
a couch/couches/sofa/studio couch
a bench/benches/park bench
a stool
a bed
a bunk bed
a four poster bed/four-poster
a crib/cradle
a dining table/table
a coffee table
a desk
a pool table
a bookshelf/bookcase/bookshelves
a wardrobe
a cabinet
a china cabinet
a chest of drawers/dresser/chiffonier
a filing cabinet
a lamp/table lamp
a chandelier
a mirror
a rug/carpet
a curtain/shower curtain
a clock/wall clock
a grandfather clock
a television/tv/television set
a refrigerator/fridge
an oven/stove
a microwave/microwave oven
a toaster
a dishwasher
a washing machine/washer
a sink/washbasin
a toilet/toilet seat
a bathtub/tub/bathtubs
a fireplace
a vase
a piano/grand piano/upright piano
""",
    "sport": """
baseball
basketball
football
soccer
tennis
table tennis
badminton
volleyball
golf
hockey
rugby
cricket
lacrosse
bowling
frisbee
skiing/ski/skis/skier/alpine skiing
snowboarding/snowboard/snowboarder
sledding
ice skating
skateboarding/skateboard/skateboarder/skateboards
roller skating
surfing/surf/surfer/surfboard/surfs/surfers
windsurfing
water skiing
swimming/swimmer/swim
diving/scuba diver/diver
sailing
rowing
kayaking
fishing
cycling/cyclist/biking
motocross
jogging/jogger/marathon
hurdling
pole vaulting
high jump
weightlifting/barbell/dumbbell
gymnastics/gymnast/horizontal bar/parallel bars/balance beam
boxing
wrestling
fencing
karate
archery
rock climbing/climber
horse riding/horseback
bullfighting
yoga
dancing/dancer
cheerleading
kite flying/kite
parachuting/parachute
paragliding
""",
}

NO_THING = """
teddy bear/stuffed bear/toy bear/pit bull/tank top/jet ski/train car/street car/cable car/freight car/passenger car
box car/flower bed/truck bed/apple laptop/apple computer/car wheel/car seat/coffee mug/coffee maker/coffee pot
wine glass/wine bottle/beer bottle/beer glass/soup bowl/tea cup/tea kettle/horse trailer/dog house
"""
"""Phrases whose words name another thing than they say, or none that is listed; with the plural of their last word."""


@dataclass(frozen=True)
class NounPhoto:
    """A photo that shows one listed thing of a group."""

    image: str
    """The image's name."""
    group: str
    """The group."""
    noun: str
    """The thing, as it is shown."""
    named: frozenset[str]
    """All things of the group that the labels name: none of the others is a choice."""

    @property
    def choices(self) -> list[str]:
        """The noun and its nearest, without other things that the photo shows."""
        return [self.noun, *(noun for noun in nearest()[self.group][self.noun] if noun not in self.named)]


@cache
def nouns() -> dict[str, dict[str, list[str]]]:
    """For each group its nouns as they are shown, and the words (singular and plural) that name them."""
    found: dict[str, dict[str, list[str]]] = {}
    for group, table in GROUPS.items():
        found[group] = {}
        for line in table.strip().splitlines():
            shown, *others = line.split("/")
            words = [re.sub(r"^an? |^a loaf of ", "", shown), *others]
            found[group][shown] = [form for word in words for form in (word, f"{word}s")]
    return found


@cache
def nearest() -> dict[str, dict[str, list[str]]]:
    """For each group and noun its ten nearest nouns of the group, the nearest first."""
    text = files("cliplet.evaluation").joinpath("near_nouns.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


@cache
def _finder() -> tuple[re.Pattern[str], dict[str, list[tuple[str, str]]]]:
    """A pattern that finds listed words, the longest first, and what each names: (group, noun)."""
    meaning: dict[str, list[tuple[str, str]]] = {}
    for group, members in nouns().items():
        for noun, words in members.items():
            for word in words:
                meaning.setdefault(word, []).append((group, noun))
    for phrase in re.split(r"[/\n]", NO_THING.strip()):
        meaning |= {phrase: [], f"{phrase}s": [], f"{phrase}es": []}
    words = sorted(map(re.escape, meaning), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(words)})\b"), meaning


def things_named(text: str) -> set[tuple[str, str]]:
    """Which listed things a text names, as (group, noun); of "polar bear" only the polar bear."""
    pattern, meaning = _finder()
    return {thing for word in pattern.findall(text.lower()) for thing in meaning[word]}


def _photos(image: str, counts: Mapping[tuple[str, str], float], least: float) -> list[NounPhoto]:
    """One a group in which exactly one thing is named by at least this share."""
    found = []
    for group in GROUPS:
        named = {noun: share for (g, noun), share in counts.items() if g == group}
        sure = [noun for noun, share in named.items() if share >= least]
        if len(sure) == 1:
            found.append(NounPhoto(image, group, sure[0], frozenset(named)))
    return found


def from_captions(captions: Mapping[str, Sequence[str]]) -> list[NounPhoto]:
    """Photos by what at least 3 in 5 of their captions name."""
    found = []
    for image, own in captions.items():
        counts = Counter(thing for caption in own for thing in things_named(caption))
        found += _photos(image, {thing: n / len(own) for thing, n in counts.items()}, SHARE)
    return found


def from_names(names: Iterable[str]) -> list[NounPhoto]:
    """Photos whose file (or, for a file without a listed name, folder) is named after one thing.

    The name ends with the thing: "African elephant" is an elephant, "wolf spider" a spider, "wine bottle" nothing here.
    """
    found = []
    for name in names:
        path = PurePosixPath(name)
        for part in (path.stem, path.parent.name):
            label = tidy_class_name(re.sub(r"([_-]\d+)+$", "", part) or part).lower()
            things = [thing for thing in things_named(label) if label.endswith(tuple(_forms(thing)))]
            if things:
                found += [NounPhoto(name, group, noun, frozenset([noun])) for group, noun in sorted(things)]
                break
    return found


def _forms(thing: tuple[str, str]) -> list[str]:
    group, noun = thing
    return nouns()[group][noun]


def from_detector(
    detector: RegionProposer, photos: Mapping[str, ImageInput], progress: Progress | None = None
) -> tuple[list[NounPhoto], list[str]]:
    """Photos by the only thing of a group that a detector is sure of, and why some photos could not be read."""
    found, failures = [], []
    for i, (name, photo) in enumerate(photos.items()):
        try:
            regions = detector.propose(open_image(photo), name)
        except InputError as error:
            failures.append(f"{name}: {error}")
            continue
        counts: dict[tuple[str, str], float] = {}
        for k, score in enumerate(regions.scores):
            for thing in things_named(regions.label(k)):
                counts[thing] = max(counts.get(thing, 0.0), float(score))
        found += _photos(name, counts, FALLS_ON)
        if progress is not None:
            progress(i + 1, len(photos))
    return found, failures


def evaluate_near_nouns(
    encoder: Encoder,
    asked: Sequence[NounPhoto],
    photos: PhotoStore,
    prefix: str = "",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[list[PairResult], list[str]]:
    """How often the right noun has the largest cosine, over all groups and by group, and photos that failed.

    The text of a noun is "a photo of ..." after ``prefix``. A tie with a wrong noun counts as wrong.

    Raises:
        InputError: no photo shows a listed thing, or none can be read.
    """
    if not asked:
        raise InputError("no photo's labels name exactly one thing of a group: near nouns cannot be asked")
    names = list(dict.fromkeys(a.image for a in asked))
    found, missing = photos.photos(names)
    embedded = embed_photos(encoder, found, names, progress, missing)
    at = {names[i]: n for n, i in enumerate(embedded.kept)}
    asked = [a for a in asked if a.image in at]
    shown = sorted({noun for a in asked for noun in a.choices})
    vectors = embed_texts(encoder, [prefix + TEMPLATE.format(noun) for noun in shown])
    place = {noun: i for i, noun in enumerate(shown)}
    images = embedded.embeddings[[at[a.image] for a in asked]]
    average = np.broadcast_to(embedded.embeddings.mean(axis=0), images.shape)
    wins = {
        "model": _wins(images, vectors, asked, place),
        "this model, average photo": _wins(average, vectors, asked, place),
        "commonest noun": _commonest(asked),
    }
    groups = [group for group in GROUPS if any(a.group == group for a in asked)]
    owner = np.array([a.image for a in asked])
    results = []
    for name in ["all", *groups]:
        here = np.array([name in ("all", a.group) for a in asked])
        chance = float(np.mean([1 / len(a.choices) for a, chosen in zip(asked, here, strict=True) if chosen]))
        controls = {k: float(v[here].mean()) for k, v in wins.items() if k != "model"} | {"chance": chance}
        interval = bootstrap_mean(wins["model"][here], owner[here], resamples, seed=seed)
        results.append(PairResult(name, "near nouns", interval, controls, chance))
    return results, list(embedded.failures.values())


def _wins(
    images: NDArray[np.float32],
    vectors: NDArray[np.float32],
    asked: Sequence[NounPhoto],
    place: Mapping[str, int],
) -> NDArray[np.float64]:
    """[asked] whether the noun's text is strictly nearer than all other choices'."""
    wins = []
    for image, a in zip(images, asked, strict=True):
        cosines = vectors[[place[noun] for noun in a.choices]] @ image  # [choices]
        wins.append(float((cosines[0] > cosines[1:]).all()))
    return np.array(wins)


def _commonest(asked: Sequence[NounPhoto]) -> NDArray[np.float64]:
    """[asked] whether the noun is the one that the other photos show most often among the choices."""
    counts = Counter((a.group, a.noun) for a in asked)
    wins = []
    for a in asked:
        often = [counts[a.group, noun] - (noun == a.noun) for noun in a.choices]
        wins.append(float(often[0] > max(often[1:], default=0)))
    return np.array(wins)
