"""Pseudo-captions for photos that nobody captioned.

A bare photo gets captions of several kinds: what a detector found on it, in several forms; the name of an ImageNet
class, where the classifier is sure; and captions of other photos that are like what is seen: those nearest to the
teacher's prediction for the photo and to what was found on it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.training.pairs import PairSet
from cliplet.training.teacher_space import Floats
from cliplet.training.text_distillation import Captions

from .words import class_texts, everyday_names

SURE_CLASS = 0.35
"""Probability from which a class is named."""
FORMS = 3
"""Forms of what was found that join a photo's pseudo-captions."""


@dataclass
class BarePhotos:
    """Photos without captions, and what networks say of them in words."""

    pairs: PairSet = field(default_factory=PairSet)
    """The photos."""
    detected: list[list[str]] = field(default_factory=list)
    """For each photo ways to say what a detector found, the fullest first."""
    named: list[list[str]] = field(default_factory=list)
    """For each photo the names of a class that the classifier is sure of."""

    def said(self, photo: int) -> list[str]:
        """What is said of a photo."""
        return [*self.detected[photo][:FORMS], *self.named[photo]]

    def texts(self) -> list[str]:
        """Every text once."""
        rows = [*self.detected, *self.named]
        return list(dict.fromkeys(text for row in rows for text in row))


def class_captions(probabilities: Floats, left_out: frozenset[int]) -> list[list[str]]:
    """For each photo the name and the everyday name of a class that the classifier is sure of.

    Args:
        probabilities: ``[photos, classes]``.
        left_out: classes whose names are not taught.
    """
    names, everyday = class_texts(), everyday_names()
    found: list[list[str]] = []
    for row in probabilities:
        best, said = int(row.argmax()), []
        if row[best] >= SURE_CLASS and best not in left_out:
            said.append(names[best][0])
        share: dict[str, float] = {}
        for number in np.flatnonzero(row > 0.01):
            if int(number) not in left_out:
                share[everyday[number]] = share.get(everyday[number], 0.0) + float(row[number])
        likely = max(share, key=lambda name: share[name], default="")
        if likely and share[likely] >= SURE_CLASS:
            said.append(f"a photo of {likely}")
        found.append(said)
    return found


def pseudo_captions(
    bare: BarePhotos, guess: Floats, store: Captions, meaning: Mapping[str, Floats], dim: int, count: int
) -> tuple[Captions, Floats]:
    """Pseudo-captions of bare photos, and where the photos lie.

    Args:
        bare: the photos.
        guess: what the teacher expects of each ``[photos, dim]``, unit norm.
        store: captions of other photos, with their targets.
        meaning: target of each text that is said of a photo ``[space]``.
        dim: directions of the targets that are the meaning.
        count: captions to retrieve for a photo.

    Returns:
        The captions without tokens, and the mean meaning of each photo's ``[photos, dim]``, unit norm.
    """
    space = store.target.shape[1]
    own = [
        np.stack([meaning[text] for text in bare.said(i)])
        if bare.said(i)
        else np.zeros((0, space), np.float32)
        for i in range(len(bare.pairs.photos))
    ]
    queries = guess.copy()
    for i, rows in enumerate(own):
        if len(rows):
            queries[i] += 0.7 * unit_norm(rows[:, :dim]).mean(axis=0)
    texts: list[str] = []
    targets: list[Floats] = []
    photos: list[int] = []
    means = guess.copy()
    for i, near in enumerate(nearest(queries, unit_norm(store.target[:, :dim]), count)):
        whole = np.concatenate([own[i], store.target[near]])
        if len(whole):
            means[i] = unit_norm(unit_norm(whole[:, :dim]).mean(axis=0)[None])[0]
        texts += [*bare.said(i), *(store.texts[row] for row in near)]
        targets += list(whole)
        photos += [i] * len(whole)
    found = np.stack(targets) if targets else np.zeros((0, space), np.float32)
    return Captions(texts, np.array(photos, dtype=np.int64), [], found), means


def nearest(queries: Floats, rows: Floats, count: int, block: int = 256) -> Iterator[NDArray[np.int64]]:
    """For each query ``[d]`` the rows with the largest products, the largest first."""
    for start in range(0, len(queries), block):
        products = queries[start : start + block] @ rows.T
        some = (
            np.argpartition(-products, count, axis=1)[:, :count]
            if count
            else np.zeros((len(products), 0), int)
        )
        order = np.argsort(-np.take_along_axis(products, some, axis=1), axis=1, kind="stable")
        yield from np.take_along_axis(some, order, axis=1)
