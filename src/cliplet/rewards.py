"""Rewards for training captioners: numbers that say how good a sampled caption is, fast and without a model's help."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.cider import CandidateOrder, DocumentFrequencies, ReferenceVectors, VectorOrder
from cliplet.metrics.ngrams import (
    BLOCK_IMAGES,
    Caption,
    Floats,
    Ints,
    NgramIndex,
    ReferenceOrder,
    count_ngrams,
)
from cliplet.metrics.ptb_tokenizer import tokenize_many


class CiderReward:
    """CIDEr-D of captions against cached references, with fixed document frequencies.

    The references are tokenised, counted and weighed once; scoring a batch takes one count of its n-grams. The value
    of a caption depends on nothing but the caption, its image's references and the frequencies: neither on the
    batch nor on earlier calls. Objects can be pickled, hold no cache that grows, and may be shared by threads.

    Reference implementation: pycocoevalcap 1.2 ``Cider()`` (CIDEr-D) with the given document frequencies.
    Source: self-critical training, Rennie et al., CVPR 2017.

    Example::

        reward = CiderReward({"dog.jpg": ["A dog runs.", "A brown dog on grass."], ...}, frequencies)
        values = reward(["dog.jpg", "dog.jpg"], ["a dog runs on grass", "a cat"])   # float64 [2], 0 to 10
    """

    def __init__(
        self,
        references: Mapping[Hashable, Sequence[str] | Sequence[Caption]],
        document_frequencies: DocumentFrequencies | None = None,
        *,
        end_token: str | None = None,
    ) -> None:
        """Prepare the references.

        Args:
            references: for each image its captions, as strings or as lists of words.
            document_frequencies: weights of the n-grams; normally those of the training split. Without them they
                are counted over ``references``.
            end_token: a word put after every reference and every scored caption, so that captions that stop
                properly earn n-grams for it (without it self-critical training learns to cut captions short).
                Given frequencies must have been counted with it.

        Raises:
            InputError: no references, an image without any, or frequencies that do not know ``end_token``.
        """
        self.images: dict[Hashable, int] = {image: row for row, image in enumerate(references)}
        self.end_token = end_token
        captions = [self._words(list(references[image])) for image in references]
        if not captions:
            raise InputError("CiderReward needs references of at least one image")
        for image, row in self.images.items():
            if not captions[row]:
                raise InputError(f"image {image!r} has no reference caption; leave it out or give it one")
        if document_frequencies is None:
            document_frequencies = DocumentFrequencies.from_references(captions)
        elif end_token is not None and end_token not in document_frequencies.index.words:
            raise InputError(
                f"the document frequencies do not know the end token {end_token!r}: count them over references that"
                " end with it, or leave end_token out"
            )
        self.documents = document_frequencies.documents
        self._index, self._vectors = _prepare(captions, document_frequencies)
        self._unseen_weight = document_frequencies.log_ref_len
        self._weights = _weights(self._index, document_frequencies)

    def __call__(self, image_ids: Sequence[Hashable], captions: Sequence[str] | Sequence[Caption]) -> Floats:
        """[captions]: CIDEr-D of each caption for its image, 0 to 10.

        ``captions`` are strings, each tokenised on its own, or lists of words as `tokenize` gives them.
        Raises `InputError` for an image without references here, or when the two lists differ in length.
        """
        if len(image_ids) != len(captions):
            raise InputError(
                f"{len(captions)} captions but {len(image_ids)} images: give one image a caption"
            )
        parts = [np.zeros(0)]
        for first in range(0, len(captions), BLOCK_IMAGES):
            stop = first + BLOCK_IMAGES
            parts.append(self._score(image_ids[first:stop], captions[first:stop]))
        return np.concatenate(parts)

    def _score(self, image_ids: Sequence[Hashable], captions: Sequence[str] | Sequence[Caption]) -> Floats:
        try:
            rows = np.fromiter(map(self.images.__getitem__, image_ids), np.int64, len(image_ids))
        except KeyError as error:
            raise InputError(f"image {error.args[0]!r} has no references in this CiderReward") from None
        counts = count_ngrams(self._words(captions))
        orders = []
        for order, numbers, weights in zip(
            counts.orders, self._index.lookup(counts), self._weights, strict=True
        ):
            known = numbers >= 0
            idf = np.full(len(numbers), self._unseen_weight)  # [distinct n-grams of the batch]
            idf[known] = weights[numbers[known]]
            orders.append(CandidateOrder(order.caption, numbers[order.gram], order.count * idf[order.gram]))
        return self._vectors.score(orders, counts.lengths, rows)

    def _words(self, captions: Sequence[str] | Sequence[Caption]) -> list[Caption]:
        strings = [caption for caption in captions if isinstance(caption, str)]
        words: list[Caption]
        if not strings:
            words = list(captions)
        elif len(strings) == len(captions):
            words = list(tokenize_many(strings, joined=False))
        else:
            raise InputError("captions must be either all strings or all lists of words")
        if self.end_token is not None:
            words = [[*caption, self.end_token] for caption in words]
        return words


def _prepare(
    captions: Sequence[Sequence[Caption]], frequencies: DocumentFrequencies
) -> tuple[NgramIndex, ReferenceVectors]:
    """Number and weigh the references' n-grams; the numbering continues that of the frequencies."""
    index = frequencies.index.copy()
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
    weights = _weights(index, frequencies)
    levels = []
    for n, parts in enumerate(rows):
        reference, gram, count = (np.concatenate(column) for column in zip(*parts, strict=True))
        arranged = ReferenceOrder.build(image[reference], gram, reference, count, max(index.sizes()[n], 1))
        levels.append(VectorOrder.build(arranged, weights[n], len(flat)))
    return index, ReferenceVectors.build(levels, np.concatenate(lengths), per_image)


def _weights(index: NgramIndex, frequencies: DocumentFrequencies) -> list[Floats]:
    """For n = 1..4, the weight of each n-gram of an index that begins with that of the frequencies."""
    result = []
    for size, counts in zip(index.sizes(), frequencies.counts, strict=True):
        weights = np.full(size, frequencies.log_ref_len)
        weights[: len(counts)] -= np.log(np.maximum(counts, 1))
        result.append(weights)
    return result
