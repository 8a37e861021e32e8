"""The references of a reward: their words, and their n-grams counted once to be looked up by image."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.ngrams import BLOCK_IMAGES, Caption, Ints, NgramIndex, ReferenceOrder, count_ngrams
from cliplet.metrics.tokenizer.ptb import tokenize_many

References = Mapping[Hashable, Sequence[str] | Sequence[Caption]]
"""For each image its captions, as strings or as lists of words."""


def reference_words(references: References, who: str) -> tuple[dict[Hashable, int], list[list[Caption]]]:
    """The row of each image and, row by row, the words of its references.

    Raises:
        InputError: no references, an image without any, or references that are neither strings nor lists of words.
    """
    if not isinstance(references, Mapping):
        raise InputError(
            f"references of the {who} reward must be a mapping from image to captions, not {type(references).__name__}"
        )
    if not references:
        raise InputError(f"the {who} reward needs references of at least one image")
    for image, captions in references.items():
        if isinstance(captions, str):
            raise InputError(f"the references of image {image!r} must be a list of captions, not one string")
        if not len(captions):
            raise InputError(f"image {image!r} has no reference caption; leave it out or give it one")
    flat = [caption for captions in references.values() for caption in captions]
    words = iter(all_words(flat))
    grouped = [[next(words) for _ in captions] for captions in references.values()]
    return {image: row for row, image in enumerate(references)}, grouped


def all_words(captions: Sequence[str] | Sequence[Caption]) -> list[Caption]:
    """The words of captions, each tokenised on its own; lists of words are taken as they are.

    Raises:
        InputError: some captions are strings and some are not.
    """
    strings = [caption for caption in captions if isinstance(caption, str)]
    lists = [caption for caption in captions if isinstance(caption, (list, tuple))]
    if max(len(strings), len(lists)) != len(captions):
        raise InputError("captions must be either all strings or all lists of words")
    return list(tokenize_many(strings, joined=False)) if strings else list(lists)


def with_end(captions: Sequence[Caption], end_token: str | None) -> list[Caption]:
    """The captions, each with the end token after it if there is one."""
    return list(captions) if end_token is None else [[*caption, end_token] for caption in captions]


@dataclass(frozen=True)
class CountedReferences:
    """The n-grams of all references, numbered by an index."""

    orders: tuple[ReferenceOrder, ...]  # n = 1..4
    lengths: Ints  # [references] words
    per_image: Ints  # [images] number of references

    @classmethod
    def of(cls, captions: Sequence[Sequence[Caption]], index: NgramIndex) -> "CountedReferences":
        """Count the references of each image; the index gets the n-grams that it does not know."""
        per_image = np.fromiter(map(len, captions), np.int64, len(captions))
        image = np.repeat(np.arange(len(captions)), per_image)  # [references]
        rows: list[list[tuple[Ints, Ints, Ints]]] = [[] for _ in range(4)]
        lengths = []
        flat = list(chain.from_iterable(captions))
        for first in range(0, len(flat), BLOCK_IMAGES):
            counts = count_ngrams(flat[first : first + BLOCK_IMAGES])
            lengths.append(counts.lengths)
            numbers = index.lookup(counts, add=True)
            for n, order in enumerate(counts.orders):
                rows[n].append((order.caption + first, numbers[n][order.gram], order.count))
        orders = []
        for parts, size in zip(rows, index.sizes(), strict=True):
            reference, gram, count = (np.concatenate(column) for column in zip(*parts, strict=True))
            orders.append(ReferenceOrder.build(image[reference], gram, reference, count, max(size, 1)))
        return cls(tuple(orders), np.concatenate(lengths), per_image)
