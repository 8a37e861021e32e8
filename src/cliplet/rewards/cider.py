"""CIDEr-D as a reward: references counted once, document frequencies fixed."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.cider import CandidateOrder, DocumentFrequencies, ReferenceVectors, VectorOrder
from cliplet.metrics.ngrams import BLOCK_IMAGES, Caption, Floats, Ints, NgramIndex, count_ngrams
from cliplet.rewards.base import WordReward, check_lengths, image_rows
from cliplet.rewards.references import CountedReferences, References, all_words, reference_words, with_end


class CiderReward(WordReward):
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

    name = "cider"

    def __init__(
        self,
        references: References,
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
        self.end_token = end_token
        self.rows, grouped = reference_words(references, "CIDEr")
        captions = [with_end(group, end_token) for group in grouped]
        if document_frequencies is None:
            document_frequencies = DocumentFrequencies.from_references(captions)
        elif end_token is not None and end_token not in document_frequencies.index.words:
            raise InputError(
                f"the document frequencies do not know the end token {end_token!r}: count them over references that"
                " end with it, or leave end_token out"
            )
        self.documents = document_frequencies.documents
        self._index = document_frequencies.index.copy()  # the numbering continues that of the frequencies
        counted = CountedReferences.of(captions, self._index)
        self._unseen_weight = document_frequencies.log_ref_len
        self._weights = _weights(self._index, document_frequencies)
        self._vectors = _vectors(counted, self._weights)

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str] | Sequence[Caption]) -> Floats:
        """[n]: CIDEr-D of each caption for its image, 0 to 10.

        ``captions`` are strings, each tokenised on its own, or lists of words as `tokenize` gives them; no captions
        give an empty array. Raises `InputError` for an image without references here, or when the two lists differ
        in length.
        """
        if not len(captions) and not len(images):
            return np.zeros(0)
        words = all_words(captions)
        check_lengths(images, captions)
        self.check_images(images)
        return self.of_words(images, words)

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: CIDEr-D of captions given as lists of words."""
        assert self.rows is not None
        rows = image_rows(images, self.rows)
        captions = with_end(words, self.end_token)
        parts = []
        for first in range(0, len(captions), BLOCK_IMAGES):
            stop = first + BLOCK_IMAGES
            parts.append(self._score(rows[first:stop], captions[first:stop]))
        return np.concatenate(parts)

    def _score(self, rows: Ints, captions: Sequence[Caption]) -> Floats:
        counts = count_ngrams(captions)
        orders = []
        for order, numbers, weights in zip(
            counts.orders, self._index.lookup(counts), self._weights, strict=True
        ):
            known = numbers >= 0
            idf = np.full(len(numbers), self._unseen_weight)  # [distinct n-grams of the batch]
            idf[known] = weights[numbers[known]]
            orders.append(CandidateOrder(order.caption, numbers[order.gram], order.count * idf[order.gram]))
        return self._vectors.score(orders, counts.lengths, rows)


def _vectors(counted: CountedReferences, weights: list[Floats]) -> ReferenceVectors:
    references = len(counted.lengths)
    levels = [
        VectorOrder.build(order, weight, references)
        for order, weight in zip(counted.orders, weights, strict=True)
    ]
    return ReferenceVectors.build(levels, counted.lengths, counted.per_image)


def _weights(index: NgramIndex, frequencies: DocumentFrequencies) -> list[Floats]:
    """For n = 1..4, the weight of each n-gram of an index that begins with that of the frequencies."""
    result = []
    for size, counts in zip(index.sizes(), frequencies.counts, strict=True):
        weights = np.full(size, frequencies.log_ref_len)
        weights[: len(counts)] -= np.log(np.maximum(counts, 1))
        result.append(weights)
    return result
