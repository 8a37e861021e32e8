"""The vectors of all class texts, encoded together and once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.classification.ensemble import ensembles, filled
from cliplet.classification.texts import KINDS, ClassTexts
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.embed import Progress, embed_texts
from cliplet.statistics.kendall import Ints

TEXT_KINDS = tuple(kind for kind in KINDS if kind != "synonyms")
"""Kinds of texts that are sentences of their own, in the order of their numbers."""


@dataclass(frozen=True)
class TextBank:
    """Vectors of the texts of C classes."""

    classes: int
    """C."""
    names: Embeddings
    """[names, d] unit vectors of every class's name and then its synonyms, each the mean of its prompts."""
    name_class: Ints
    """[names] whose they are, growing."""
    texts: Embeddings
    """[texts, d] unit vectors of the attributes, analogues and sentences."""
    text_class: Ints
    """[texts] whose they are, growing."""
    text_kind: Ints
    """[texts] place of their kind in :data:`TEXT_KINDS`."""
    pairs: Embeddings
    """[pairs, d] for two classes (c, o) the mean vector of the texts of c that do not fit o."""
    pair_classes: Ints
    """[pairs, 2] c and o, sorted."""

    @property
    def own_names(self) -> Embeddings:
        """[C, d] vectors of the classes' own names, without synonyms."""
        return self.names[np.searchsorted(self.name_class, np.arange(self.classes))]


def encode_texts(
    encoder: Encoder,
    classes: Sequence[ClassTexts],
    templates: Sequence[str],
    progress: Progress | None = None,
) -> TextBank:
    """Encode all texts of all classes; equal texts are encoded once."""
    names = [name for own in classes for name in (own.name, *own.synonyms)]
    texts = [(i, kind, text) for i, own in enumerate(classes) for kind, text in own.texts()]
    place = {own.name: i for i, own in enumerate(classes)}
    against = [
        ((i, place[other]), rows)
        for i, own in enumerate(classes)
        for other, rows in sorted(own.against.items(), key=lambda item: place[item[0]])
        if rows
    ]
    prompts = filled(names, templates)
    flat = [*prompts, *(text for *_, text in texts), *(text for _, rows in against for text in rows)]
    vectors = embed_texts(encoder, flat, progress=progress)
    pairs = vectors[len(prompts) + len(texts) :]
    starts = np.cumsum([0, *(len(rows) for _, rows in against)])
    if against:
        sums = np.add.reduceat(pairs, starts[:-1], axis=0)
        pairs = np.asarray(sums / np.diff(starts)[:, None], dtype=np.float32)
    return TextBank(
        classes=len(classes),
        names=ensembles(vectors[: len(prompts)], len(templates)),
        name_class=np.repeat(np.arange(len(classes)), [1 + len(own.synonyms) for own in classes]),
        texts=vectors[len(prompts) : len(prompts) + len(texts)],
        text_class=np.array([i for i, *_ in texts], dtype=np.int64),
        text_kind=np.array([TEXT_KINDS.index(kind) for _, kind, _ in texts], dtype=np.int64),
        pairs=pairs,
        pair_classes=np.array([key for key, _ in against], dtype=np.int64).reshape(-1, 2),
    )
