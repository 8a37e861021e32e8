"""The training photo that a false caption fits best: a real photo, found by the captions of others."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.training.objectives.false_captions import FalseCaption
from cliplet.training.objectives.false_photos.words import TOKEN, Place, meaning, slot, slots
from cliplet.training.pairs import PairSet

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], NDArray[Any]]
"""Texts to unit vectors ``[n, d]``."""
LEAST = 0.35
"""Least cosine of TF-IDF vectors between a false caption and a caption of the photo that stands for it."""
COMMON, FEW = 0.25, 20
"""Words in more than this share of the captions, and in more captions than this, say nothing."""


class WordCosines:
    """Cosines of TF-IDF vectors between a text and each of some captions.

    A word weighs ``ln(captions / captions with it)``, however often it stands in a caption (Sparck Jones 1972); words
    in more than a quarter of many captions weigh nothing.

    Args:
        captions: the captions.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        rows: dict[str, list[int]] = defaultdict(list)
        for number, caption in enumerate(captions):
            for word in _words(caption):
                rows[word].append(number)
        total = len(captions)
        self.weights = {
            w: float(np.log(total / len(r))) for w, r in rows.items() if len(r) <= max(FEW, COMMON * total)
        }
        self.rows = {w: np.array(rows[w], dtype=np.int64) for w in self.weights}
        squares = np.zeros(total, dtype=np.float64)
        for word, weight in self.weights.items():
            squares[self.rows[word]] += weight**2
        self.norms = np.sqrt(np.maximum(squares, 1e-12))

    def __call__(self, text: str) -> Floats:
        """``[captions]``, 0..1."""
        found = np.zeros(len(self.norms))
        own = 0.0
        for word in _words(text):
            weight = self.weights.get(word, 0.0)
            own += weight**2
            if weight:
                found[self.rows[word]] += weight**2
        return (found / self.norms / max(own, 1e-12) ** 0.5).astype(np.float32)


def _words(text: str) -> set[str]:
    return {w for w in "".join(c if c.isalnum() else " " for c in text.lower()).split() if len(w) > 1}


class Retriever:
    """Finds real photos for false captions among the photos of a set.

    Args:
        pairs: the photos and their captions.
        embed: texts to unit vectors, whose cosine tells how near two texts are; TF-IDF without it.
    """

    def __init__(self, pairs: PairSet, embed: Embed | None = None) -> None:
        self.pairs, self.embed = pairs, embed
        self._said: dict[str, dict[Any, NDArray[np.int64]]] = {}
        self._near: Any = WordCosines(pairs.captions) if embed is None else None

    def photos(
        self, false: Sequence[FalseCaption], places: Sequence[Place | None]
    ) -> tuple[list[int], NDArray[np.float32], Counter[str]]:
        """A photo for each false caption, -1 where there is none.

        The photo has a caption that says what the false caption says at the swapped place (the same colour of the same
        noun, the same number of it, the same object or action), none that says what the true one said there, one that
        names the first listed thing of the false caption, and it is never the caption's own photo. Of these it is the
        one with the nearest caption.

        Args:
            false: the false captions.
            places: where each differs from its true caption.

        Returns:
            Photo of each, cosine of the nearest caption of each, and why others have none.
        """
        chosen, cosines, reasons = [-1] * len(false), np.zeros(len(false), np.float32), Counter[str]()
        vectors = known = None
        if self.embed is not None and false:
            known = np.asarray(self.embed(self.pairs.captions), dtype=np.float32)
            vectors = np.asarray(self.embed([f.text for f in false]), dtype=np.float32)
        for i, (one, place) in enumerate(zip(false, places, strict=True)):
            if place is None:
                reasons["retrieve: not one word is swapped"] += 1
                continue
            allowed = self._allowed(one, place)
            if not allowed.any():
                reasons["retrieve: no other photo shows this"] += 1
                continue
            near = self._near(one.text) if known is None or vectors is None else known @ vectors[i]
            near = np.where(allowed[self.pairs.photo_of] & (self.pairs.photo_of >= 0), near, -np.inf)
            best = int(near.argmax())
            if known is None and near[best] < LEAST:
                reasons["retrieve: no caption is near enough"] += 1
                continue
            chosen[i], cosines[i] = int(self.pairs.photo_of[best]), near[best]
        return chosen, cosines, reasons

    def _allowed(self, one: FalseCaption, place: Place) -> NDArray[np.bool_]:
        """Which photos may stand for a false caption ``[photos]``."""
        said = self._said_by(one.kind)
        allowed = np.zeros(len(self.pairs.photos), dtype=bool)
        allowed[said.get(slot(place.after, place.head, one.kind), [])] = True
        if one.kind in ("object", "action"):  # the swapped word is its own noun
            allowed[said.get(slot(place.before, "", one.kind), [])] = False
        else:
            allowed[said.get(slot(place.before, place.head, one.kind), [])] = False
        subject = next((m for t in TOKEN.findall(one.text) if (m := meaning(t.lower(), "object"))), None)
        if subject is not None:
            shown = np.zeros_like(allowed)
            shown[self._said_by("object").get((subject, ""), [])] = True
            allowed &= shown
        allowed[self.pairs.photo_of[one.caption]] = False
        return allowed

    def _said_by(self, kind: str) -> dict[Any, NDArray[np.int64]]:
        """Photos of whose captions at least one says a thing, by what is said."""
        if kind not in self._said:
            found: dict[Any, set[int]] = defaultdict(set)
            for photo, caption in zip(self.pairs.photo_of.tolist(), self.pairs.captions, strict=True):
                if photo >= 0:
                    for said in slots(caption, kind):
                        found[said].add(photo)
            self._said[kind] = {said: np.array(sorted(photos)) for said, photos in found.items()}
        return self._said[kind]
