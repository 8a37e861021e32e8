"""Which edit of a photo makes a false caption true: chosen from the caption's words and the photo's boxes."""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cliplet.training.objectives.false_captions import FalseCaption
from cliplet.training.objectives.false_photos.boxes import Boxes, Found
from cliplet.training.objectives.false_photos.edits import UnfitError, overlap
from cliplet.training.objectives.false_photos.words import (
    NUMBERS,
    PAIRS,
    WORN,
    Place,
    classes_named,
    is_person,
    meaning,
    named_classes,
)
from cliplet.training.pairs import PairSet

LEAST_AREA, MOST_AREA = 0.012, 0.75
"""Shares of the photo: smaller things are not seen by a tower, and larger ones leave no photo round them."""
SKIN = frozenset({"brown", "tan", "beige", "cream", "golden", "gold", "blond", "blonde"})
"""Colours of garments that cannot be told from skin."""
CROPS = 8
"""Crops that are tried on a box."""
SURE = 0.5
"""Lowest score of a box from which a crop is taken."""


@dataclass(frozen=True)
class Edit:
    """What to do with a photo."""

    row: int
    """Of the false caption."""
    kind: str
    """``recolour``, ``paste``, ``count`` or ``mirror``."""
    photo: int
    """The photo that is edited."""
    before: str
    """The true word."""
    after: str
    """The word that the edit makes true."""
    boxes: tuple[Found, ...] = ()
    """What is edited."""
    others: tuple[Found, ...] = ()
    """Everything found on the photo."""
    every: bool = False
    """All boxes must be edited; else exactly one must be fit."""
    worn: str = ""
    """The garment whose colour it is; empty where it is the box's own."""
    sources: tuple[tuple[tuple[int, Found], ...], ...] = ()
    """For each of ``boxes`` photo and box of the crops that may be pasted; the one that fits best is."""
    times: int = 0
    """Copies to add, or things to take away where it is negative."""
    seed: int = 0
    """Of the edit's own choices."""


class Planner:
    """Plans edits for the false captions of a set.

    Args:
        pairs: photos and captions.
        boxes: of each photo.
        seed: of the choice among crops.
    """

    def __init__(self, pairs: PairSet, boxes: Boxes, seed: int) -> None:
        self.pairs, self.boxes, self.seed = pairs, boxes, seed
        self.captions_of = pairs.captions_of()

    def plan(self, row: int, false: FalseCaption, place: Place | None, kind: str) -> Edit:
        """The edit of a kind for a false caption.

        Raises:
            UnfitError: the words or the boxes do not allow it; the message says why.
        """
        photo = int(self.pairs.photo_of[false.caption])
        if photo < 0:
            raise UnfitError("the caption has no photo")
        key = f"{kind}\t{self.pairs.names[photo]}\t{self.pairs.captions[false.caption]}\t{false.text}"
        number = zlib.crc32(key.encode("utf-8", "surrogatepass"))
        common = {"row": row, "kind": kind, "photo": photo, "seed": number}
        if kind == "mirror":
            return Edit(**common, before=false.before, after=false.after)  # type: ignore[arg-type]
        if place is None:
            raise UnfitError("not one word is swapped")
        if not self.boxes.names:
            raise UnfitError("the boxes have no classes: name a detector in regions.proposer")
        things = self.boxes.photos[photo]
        words = {"before": place.before, "after": place.after, "others": things}
        make = {"recolour": self._recolour, "paste": self._paste, "count": self._count}[kind]
        return Edit(**common, **words, **make(photo, place, number))  # type: ignore[arg-type]

    def _seen(self, photo: int, classes: frozenset[int]) -> list[Found]:
        """Things of some classes on a photo, one box each: people part cars from trucks elsewhere than a detector."""
        found: list[Found] = []
        for thing in self.boxes.photos[photo]:
            if thing.label in classes and overlap(thing.box, [f.box for f in found]) < 0.7:
                found.append(thing)
        return found

    def _recolour(self, photo: int, place: Place, number: int) -> dict[str, object]:
        worn = place.head in WORN
        classes, many = named_classes("person" if worn else place.head, self.boxes.names)
        if not classes:
            raise UnfitError("the colour's noun is no class of the detector")
        if not worn and is_person(place.head):
            raise UnfitError("the colour is of hair or skin")
        seen = [f for f in self._seen(photo, classes) if f.area >= LEAST_AREA]
        if not seen:
            raise UnfitError("the coloured thing was not found")
        if worn and place.before in SKIN:
            raise UnfitError("skin has the garment's colour")
        many = many if not worn else place.head.endswith("s") and place.head not in PAIRS
        return {"boxes": tuple(seen), "every": many, "worn": place.head if worn else ""}

    def _paste(self, photo: int, place: Place, number: int) -> dict[str, object]:
        classes, many = named_classes(place.before, self.boxes.names)
        wanted, _ = named_classes(place.after, self.boxes.names)
        if not classes or not wanted:
            raise UnfitError("the detector does not know both objects")
        seen = self._seen(photo, classes)
        if not seen:
            raise UnfitError("the object was not found")
        if not 2 <= len(seen) <= 4 if many else len(seen) > 1:
            raise UnfitError("there are more or fewer things of this class")
        said = self._called[photo]
        if len(set().union(*(said.get(c, set()) for c in classes))) > 1:
            raise UnfitError("the captions name other things of this class")
        if any(f.area < LEAST_AREA or f.area > MOST_AREA for f in seen):
            raise UnfitError("the object is too small or too large")
        crops = [
            c
            for label in sorted(wanted)
            for c in self._crops[label, meaning(place.after, "object")]
            if c[0] != photo
        ]
        true = meaning(place.before, "object")
        crops = [c for c in crops if not any(true in called for called in self._called[c[0]].values())]
        sources = tuple(
            self._fitting(f, crops, np.random.default_rng([self.seed, number, i])) for i, f in enumerate(seen)
        )
        return {"boxes": tuple(seen), "every": True, "sources": sources}

    def _fitting(
        self, thing: Found, crops: Sequence[tuple[int, Found]], rng: np.random.Generator
    ) -> tuple[tuple[int, Found], ...]:
        """Some of the crops whose shape and size are most like a box's."""
        shape = _shape(thing)
        near = [c for c in crops if abs(_shape(c[1]) - shape) < 0.45 and 0.4 < c[1].area / thing.area < 2.5]
        if not near:
            raise UnfitError("no crop of the wrong object has such a shape and size")
        near = sorted(near, key=lambda c: (abs(_shape(c[1]) - shape), c[0]))[: 3 * CROPS]
        return tuple(near[i] for i in sorted(rng.permutation(len(near))[:CROPS].tolist()))

    def _count(self, photo: int, place: Place, number: int) -> dict[str, object]:
        true, wanted = NUMBERS.get(place.before, 0), NUMBERS.get(place.after, 0)
        if not true or not wanted:
            raise UnfitError("the number is too large to draw")
        classes, _ = named_classes(place.head, self.boxes.names)
        if not classes:
            raise UnfitError("what is counted is no class of the detector")
        seen = self._seen(photo, classes)
        if len(seen) != true:
            raise UnfitError("the detector counts otherwise")
        if abs(wanted - true) > 2:
            raise UnfitError("the numbers are too far apart")
        if any(f.area < LEAST_AREA / 2 for f in seen):
            raise UnfitError("the things are too small")
        if wanted < true:  # what stands alone can be taken away
            seen = [
                f
                for f in seen
                if overlap(f.box, [o.box for o in self.boxes.photos[photo] if o is not f]) < 0.12
            ]
            if len(seen) < true - wanted:
                raise UnfitError("the things lie on one another")
            seen.sort(key=lambda f: f.area)
        return {"boxes": tuple(seen), "times": wanted - true}

    @cached_property
    def _called(self) -> list[dict[int, set[frozenset[int]]]]:
        """By photo and class of the detector, what the photo's captions call it."""
        return [
            classes_named((self.pairs.captions[c] for c in rows), self.boxes.names)
            for rows in self.captions_of
        ]

    @cached_property
    def _crops(self) -> dict[tuple[int, frozenset[int]], list[tuple[int, Found]]]:
        """By class, and what captions call it: photo and box of each crop that shows it alone."""
        found: dict[tuple[int, frozenset[int]], list[tuple[int, Found]]] = defaultdict(list)
        for photo, things in enumerate(self.boxes.photos):
            for thing in things:
                called = self._called[photo].get(thing.label, set())
                alike = [o for o in things if o.label == thing.label]
                if (
                    len(called) == 1 and len(alike) == 1 and thing.score >= SURE and thing.area >= 2 * LEAST_AREA
                    and overlap(thing.box, [o.box for o in things if o is not thing]) < 0.35
                ):  # fmt: skip
                    found[thing.label, next(iter(called))].append((photo, thing))
        return found


def fits_words(place: Place | None, kind: str, names: Sequence[str]) -> bool:
    """Whether the words of a false caption allow a kind of false photo, whatever is on the photo.

    Args:
        place: where it differs from the true caption.
        kind: the kind.
        names: the detector's classes.
    """
    if place is None or kind in ("mirror", "retrieve"):
        return place is not None or kind == "mirror"
    if kind == "recolour":
        head = "person" if place.head in WORN else place.head
        body = place.before in SKIN if place.head in WORN else is_person(place.head)
        return bool(named_classes(head, names)[0]) and not body
    if kind == "paste":
        return all(named_classes(word, names)[0] for word in (place.before, place.after))
    drawn = place.before in NUMBERS and place.after in NUMBERS
    return drawn and bool(named_classes(place.head, names)[0])


def _shape(thing: Found) -> float:
    """Logarithm of a box's width over its height."""
    left, top, right, bottom = thing.box
    return float(np.log(max(right - left, 1e-3) / max(bottom - top, 1e-3)))
