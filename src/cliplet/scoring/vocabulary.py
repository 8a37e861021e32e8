"""Common words of captions by kind: what `explain` tries in the place of a word.

The words are the usual ones of everyday captions (heads of noun phrases, verbs and modifiers of the captions of
Flickr8k's train split and of COCO), sorted by us. No word is tied to another: which of them fits is for the photo to
say. A word that is in no list gets its kind from its ending and its place.
"""

from functools import cache
from typing import Literal

Kind = Literal["noun", "nouns", "doing", "does", "colour", "number", "quality", "place"]
"""noun (singular), nouns (plural), doing (-ing), does (-s), colour, number, quality (adjective) or place."""

_NOUNS = """
man men, woman women, boy boys, girl girls, child children, kid kids, baby babies, person people, player
players, team teams, family families, couple couples, crowd crowds, dog dogs, cat cats, horse horses, cow
cows, sheep, goat goats, bird birds, duck ducks, bear bears, elephant elephants, zebra zebras, giraffe
giraffes, monkey monkeys, rabbit rabbits, lion lions, animal animals, fish, car cars, truck trucks, bus buses,
train trains, bicycle bicycles, bike bikes, motorcycle motorcycles, boat boats, kayak kayaks, airplane
airplanes, helicopter helicopters, tractor tractors, skateboard skateboards, surfboard surfboards, snowboard
snowboards, scooter scooters, sled sleds, skis, ball balls, frisbee frisbees, stick sticks, bat bats, racket
rackets, toy toys, balloon balloons, kite kites, umbrella umbrellas, guitar guitars, drum drums, camera
cameras, phone phones, book books, newspaper newspapers, bottle bottles, cup cups, glass glasses, bag bags,
backpack backpacks, suitcase suitcases, box boxes, basket baskets, rope ropes, flag flags, sign signs,
microphone microphones, computer computers, laptop laptops, keyboard keyboards, television televisions, clock
clocks, vase vases, knife knives, spoon spoons, fork forks, plate plates, bowl bowls, beach beaches, forest
forests, street streets, road roads, path paths, sidewalk sidewalks, desert deserts, city cities, park parks,
garden gardens, yard yards, playground playgrounds, stadium stadiums, court courts, track tracks, mountain
mountains, hill hills, rock rocks, cliff cliffs, pool pools, lake lakes, river rivers, ocean oceans, water,
wave waves, waterfall waterfalls, puddle puddles, field fields, grass, snow, ice, sand, mud, dirt, sky,
kitchen kitchens, bathroom bathrooms, bedroom bedrooms, restaurant restaurants, store stores, office offices,
room rooms, shirt shirts, jacket jackets, coat coats, dress dresses, skirt skirts, sweater sweaters, suit
suits, uniform uniforms, costume costumes, swimsuit swimsuits, jeans, shorts, pants, shoe shoes, boot boots,
hat hats, cap caps, helmet helmets, scarf scarves, glove gloves, mask masks, crown crowns, sunglasses, tie
ties, collar collars, bench benches, chair chairs, table tables, desk desks, bed beds, couch couches, swing
swings, slide slides, ladder ladders, tree trees, flower flowers, bush bushes, leaf leaves, log logs, branch
branches, building buildings, house houses, tower towers, church churches, fence fences, wall walls, bridge
bridges, stairs, railing railings, tent tents, statue statues, fountain fountains, ramp ramps, pole poles,
door doors, window windows, mirror mirrors, pizza pizzas, sandwich sandwiches, cake cakes, apple apples,
banana bananas, orange oranges, fruit fruits, vegetable vegetables, carrot carrots, salad salads, soup soups,
bread, donut donuts, food, coffee, wine, drink drinks, toilet toilets, sink sinks, refrigerator refrigerators,
oven ovens, hand hands, face faces, head heads, mouth mouths, hair, arm arms, leg legs, dancer dancers, rider
riders, climber climbers, surfer surfers, skier skiers, skateboarder skateboarders, football footballs,
basketball basketballs, soccer, tennis, baseball baseballs, hockey, tunnel tunnels, fire, bubble bubbles,
parade, stage, race races
"""
_VERBS = """
walk walking walks, run running runs, jump jumping jumps, leap leaping leaps, sit sitting sits, stand standing
stands, lie lying lies, lay laying lays, sleep sleeping sleeps, rest resting rests, kneel kneeling kneels,
crawl crawling crawls, climb climbing climbs, hike hiking hikes, dance dancing dances, sing singing sings,
swim swimming swims, wade wading wades, splash splashing splashes, dive diving dives, surf surfing surfs,
skate skating skates, ski skiing skis, slide sliding slides, swing swinging swings, ride riding rides, drive
driving drives, race racing races, chase chasing chases, fly flying flies, fall falling falls, play playing
plays, fight fighting fights, wrestle wrestling wrestles, hold holding holds, carry carrying carries, throw
throwing throws, catch catching catches, kick kicking kicks, hit hitting hits, push pushing pushes, pull
pulling pulls, dig digging digs, eat eating eats, bite biting bites, lick licking licks, chew chewing chews,
drink drinking drinks, cook cooking cooks, cut cutting cuts, read reading reads, write writing writes, paint
painting paints, wash washing washes, clean cleaning cleans, brush brushing brushes, smile smiling smiles,
laugh laughing laughs, cry crying cries, scream screaming screams, yawn yawning yawns, talk talking talks,
look looking looks, watch watching watches, stare staring stares, point pointing points, pose posing poses,
wave waving waves, hug hugging hugs, kiss kissing kisses, wear wearing wears, work working works, wait waiting
waits, fish fishing fishes, shop shopping shops, smoke smoking smokes, row rowing rows, sail sailing sails,
hang hanging hangs, lean leaning leans, graze grazing grazes, park parking parks, perform performing performs
"""
_COLOURS = (
    "red orange pink blue purple green yellow black white brown tan grey golden silver blond colorful striped"
)
_NUMBERS = "one two three four five six seven eight nine ten several many"
_QUALITIES = """
big small large little tall short long old young elderly wet dry empty crowded busy open closed dark bright sunny snowy
rocky sandy muddy grassy wooden metal stone brick plastic happy sad shirtless furry fluffy hairy bald stuffed toy modern
outdoor indoor
"""
_PLACES = """
in on at under over above below behind beside near between through across along around into inside outside from toward
against down up off past with without
"""
_DETERMINERS = "a an the this that these those some any another each every his her its their our my your"
DETERMINERS = frozenset(_DETERMINERS.split())
"""Words before a noun."""
_FUNCTION = """
    and or but nor so as of to for by while whilst when where who whom whose which what than then that it he she they
    them him i me we us you himself herself itself themselves there here is are was were be been being am has have had
    having do does did doing can could will would may might must shall should not no very just also too only other
    others out away back together something someone one's all both
"""
FUNCTION = frozenset(_FUNCTION.split())
"""Words that show nothing by themselves."""


@cache
def words_of_kind() -> dict[Kind, tuple[str, ...]]:
    """Each kind's words, in the order of the lists."""
    nouns = [forms.split() for forms in _NOUNS.split(",")]
    verbs = [forms.split() for forms in _VERBS.split(",")]
    return {
        "noun": tuple(forms[0] for forms in nouns),
        "nouns": tuple(forms[-1] for forms in nouns if len(forms) > 1),
        "doing": tuple(forms[1] for forms in verbs),
        "does": tuple(forms[2] for forms in verbs),
        "colour": tuple(_COLOURS.split()),
        "number": tuple(_NUMBERS.split()),
        "quality": tuple(_QUALITIES.split()),
        "place": tuple(_PLACES.split()),
    }


@cache
def _listed() -> dict[str, tuple[Kind, ...]]:
    """Every listed word's kinds."""
    found: dict[str, tuple[Kind, ...]] = {}
    for kind, words in words_of_kind().items():
        for word in words:
            found[word] = (*found.get(word, ()), kind)
    return found


def kinds_of(word: str) -> tuple[Kind, ...]:
    """The kinds of a listed word (lower case), the usual one first; empty for others."""
    return _listed().get(word) or (("number",) if word.isdigit() else ())


def kind_by_place(word: str, in_phrase: bool, head: bool) -> Kind | None:
    """The kind that a word (lower case) has by its ending and its place.

    Args:
        word: the word.
        in_phrase: whether it stands in a noun phrase.
        head: whether it is that phrase's last word.
    """
    plural = word.endswith("s") and not word.endswith(("ss", "us"))
    if head:
        return "nouns" if plural else "noun"
    if in_phrase:
        return "quality"
    if word.endswith("ing"):
        return "doing"
    return "does" if plural else None
