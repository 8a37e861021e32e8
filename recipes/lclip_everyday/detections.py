"""Captions of a photo from what a detector found on it: counts, what lies on or rides what, and bare names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.regions.base import Regions

SURE = 0.45
"""Lowest score of a thing that is spoken of."""
SMALL, LARGE = 0.004, 0.55
"""Shares of the photo below which a thing is not spoken of, and from which the photo is a close-up."""
NUMBERS = ("no", "one", "two", "three", "four", "five")
SPOKEN = {
    "sports ball": "ball",
    "dining table": "table",
    "potted plant": "plant",
    "cell phone": "phone",
    "tv": "television",
    "mouse": "computer mouse",
    "remote": "remote control",
}
"""What people call some of the detector's classes."""
PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "bus": "buses",
    "knife": "knives",
    "bench": "benches",
    "sandwich": "sandwiches",
    "wine glass": "wine glasses",
    "toothbrush": "toothbrushes",
    "computer mouse": "computer mice",
}
RIDDEN = {
    "bicycle", "motorcycle", "horse", "elephant", "skateboard", "surfboard", "snowboard", "boat", "train", "bus",
}  # fmt: skip
"""Things that a person above them rides."""
HELD = {
    "umbrella", "handbag", "suitcase", "frisbee", "kite", "baseball bat", "tennis racket", "bottle", "wine glass",
    "cup", "fork", "knife", "spoon", "banana", "apple", "sandwich", "hot dog", "pizza", "donut", "remote control",
    "phone", "book", "teddy bear", "toothbrush", "backpack", "tie", "laptop", "skis",
}  # fmt: skip
"""Things that a person on whom they lie is with."""
UNDER = {
    "bench",
    "couch",
    "bed",
    "chair",
    "table",
    "toilet",
    "sink",
    "boat",
    "car",
    "truck",
    "suitcase",
    "laptop",
}
"""Things on which others lie."""


@dataclass(frozen=True)
class Thing:
    """Something on a photo."""

    name: str
    """As people call it."""
    score: float
    """How sure the detector is."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, as shares of the photo."""

    @property
    def area(self) -> float:
        """Share of the photo."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)


def things(regions: Regions, width: int, height: int) -> list[Thing]:
    """What the detector is sure of, the largest first."""
    scale = np.array([width, height, width, height], dtype=np.float32)
    found = []
    for k in np.flatnonzero(regions.scores >= SURE):
        name = regions.label(int(k))
        thing = Thing(SPOKEN.get(name, name), float(regions.scores[k]), tuple(regions.boxes[k] / scale))
        if thing.area >= SMALL:
            found.append(thing)
    return sorted(found, key=lambda thing: -thing.area)


def plural(name: str) -> str:
    """The plural of a name."""
    return PLURALS.get(name, f"{name}s")


def counted(name: str, count: int) -> str:
    """Some things of a name: "a cat", "two cats", "a group of people"."""
    if plural(name) == name and count == 1 and name != "sheep":
        return name  # a pair, such as skis
    if count == 1:
        return f"an {name}" if name[0] in "aeiou" else f"a {name}"
    if count < len(NUMBERS):
        return f"{NUMBERS[count]} {plural(name)}"
    return f"a group of {plural(name)}" if count < 10 else f"many {plural(name)}"


def captions(found: Sequence[Thing]) -> list[str]:
    """Several ways to say what is there, the fullest first; none where nothing is.

    Args:
        found: from :func:`things`.
    """
    if not found:
        return []
    counts = Counter(thing.name for thing in found)
    size: Counter[str] = Counter()
    for thing in found:
        size[thing.name] += thing.area  # type: ignore[assignment]
    names = [name for name, _ in size.most_common()]
    said = [_together(found, counts)] if len(names) > 1 else []
    listed = [counted(name, counts[name]) for name in names[:4]]
    first = listed[0]
    if found[0].area >= LARGE and counts[names[0]] == 1:
        said.append(f"a close up of {first}")
    if len(listed) > 1:
        said.append(f"{' , '.join(listed[:-1])} and {listed[-1]}".replace(" ,", ","))
        said.append(f"{first} with {listed[1]}")
    said.append(f"a photo of {first}")
    said.append(first)
    said.append(", ".join(names[:5]))
    return list(dict.fromkeys(said))


def _together(found: Sequence[Thing], counts: Counter[str]) -> str:
    """The two most telling things in their relation."""
    person = next((thing for thing in found if thing.name == "person"), None)
    others = [thing for thing in found if thing.name != "person"]
    people = counted("person", counts["person"])
    if person is not None:
        for thing in others:
            if _inside(thing, person) < 0.1 and not _touch(person, thing):
                continue
            if thing.name in RIDDEN and _above(person, thing):
                return f"{people} riding {counted(thing.name, counts[thing.name])}"
            if thing.name in HELD:
                return f"{people} with {counted(thing.name, counts[thing.name])}"
    for below in found:
        if below.name not in UNDER:
            continue
        for thing in found:
            if thing.name != below.name and thing.name not in UNDER and _inside(thing, below) > 0.6:
                verb = "sitting on" if thing.name in ("person", "cat", "dog", "bird") else "on"
                return f"{counted(thing.name, counts[thing.name])} {verb} {counted(below.name, 1)}"
    first, second = found[0], next(thing for thing in found if thing.name != found[0].name)
    if second.name == "person":
        first, second = second, first
    join = "next to" if _touch(first, second) else "and"
    return f"{counted(first.name, counts[first.name])} {join} {counted(second.name, counts[second.name])}"


def _inside(thing: Thing, other: Thing) -> float:
    """Share of a thing's box that lies in the other's."""
    width = min(thing.box[2], other.box[2]) - max(thing.box[0], other.box[0])
    height = min(thing.box[3], other.box[3]) - max(thing.box[1], other.box[1])
    return max(0.0, width) * max(0.0, height) / max(thing.area, 1e-6)


def _touch(thing: Thing, other: Thing) -> bool:
    """Whether two boxes meet."""
    a, b = thing.box, other.box
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _above(thing: Thing, other: Thing) -> bool:
    """Whether a thing's middle is higher than the other's."""
    return thing.box[1] + thing.box[3] < other.box[1] + other.box[3]
