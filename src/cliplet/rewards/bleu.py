"""Sentence BLEU-4 as a reward, against references counted once."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.bleu import BleuStatistics
from cliplet.metrics.ngrams import MAX_ORDER, Caption, Floats, Ints, NgramIndex, count_ngrams, find
from cliplet.rewards.base import WordReward, image_rows
from cliplet.rewards.references import CountedReferences, References, reference_words, with_end

SMOOTHINGS = ("add-one", "none")


class BleuReward(WordReward):
    """Sentence BLEU-4: the geometric mean of clipped n-gram precisions, times the brevity penalty.

    ``exp(min(0, 1 - r/c)) * (p_1 p_2 p_3 p_4)^(1/4)`` with c the caption's and r the closest reference's length. With
    ``add-one`` smoothing ``p_n = (matches + 1) / (n-grams + 1)`` for n > 1 (Lin and Och, ACL 2004), so that a caption
    without a matching 4-gram, as most samples are, still tells better from worse; a caption without a matching word
    is 0. ``none`` is the per-caption value of ``cliplet.metrics.bleu`` (pycocoevalcap's), mostly about 0.

    Range 0 to 1, higher is better. Source: Papineni et al., ACL 2002.

    Args:
        references: for each image its captions, as strings or as lists of words.
        smoothing: ``add-one`` or ``none``.
        end_token: a word put after every reference and every caption, as in :class:`CiderReward`.

    Raises:
        InputError: no references, an image without any, or an unknown smoothing.
    """

    name = "bleu"

    def __init__(
        self, references: References, *, smoothing: str = "add-one", end_token: str | None = None
    ) -> None:
        if smoothing not in SMOOTHINGS:
            raise InputError(
                f"unknown smoothing {smoothing!r} of BLEU: choose one of {', '.join(SMOOTHINGS)}"
            )
        self.smoothing, self.end_token = smoothing, end_token
        self.rows, grouped = reference_words(references, "BLEU")
        captions = [with_end(group, end_token) for group in grouped]
        self._index = NgramIndex()
        counted = CountedReferences.of(captions, self._index)
        self._keys = [order.keys for order in counted.orders]  # image * width + n-gram
        self._widths = [order.width for order in counted.orders]
        self._most = [  # the largest count of the n-gram in a reference of the image
            np.maximum.reduceat(order.count, order.starts[:-1]) if len(order.keys) else order.count
            for order in counted.orders
        ]
        self._lengths, self._per_image = counted.lengths, counted.per_image
        self._first = np.cumsum(counted.per_image) - counted.per_image

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: BLEU-4 of captions given as lists of words."""
        assert self.rows is not None
        rows = image_rows(images, self.rows)
        counts = count_ngrams(with_end(words, self.end_token))
        correct = np.zeros((len(words), MAX_ORDER), np.int64)
        for n, (order, numbers) in enumerate(zip(counts.orders, self._index.lookup(counts), strict=True)):
            gram = numbers[order.gram]  # [caption and n-gram]
            at, found = find(self._keys[n], rows[order.caption] * self._widths[n] + gram)
            found &= gram >= 0
            if found.any():
                matched = np.minimum(order.count, self._most[n][at]) * found
                correct[:, n] = np.bincount(order.caption, weights=matched, minlength=len(words))
        closest = self._closest(rows, counts.lengths)
        if self.smoothing == "none":
            return BleuStatistics(correct, counts.lengths, closest).score().per_caption[MAX_ORDER - 1]
        return _add_one(correct, counts.lengths, closest)

    def _closest(self, rows: Ints, lengths: Ints) -> Ints:
        """[n]: the reference length closest to each caption's; the shorter of two equally close ones."""
        many = self._per_image[rows]
        caption = np.repeat(np.arange(len(rows)), many)  # [pairs]
        before = np.cumsum(many) - many
        reference = self._lengths[np.arange(len(caption)) - (before - self._first[rows])[caption]]
        rank = np.abs(reference - lengths[caption]) * (self._lengths.max() + 1) + reference
        return np.minimum.reduceat(rank, before) % (self._lengths.max() + 1)


def _add_one(correct: Ints, length: Ints, reference_length: Ints) -> Floats:
    possible = np.maximum(length[:, None] - np.arange(MAX_ORDER), 0)  # [n, 4]
    extra = np.array([0, 1, 1, 1])
    precision = (correct + extra) / np.maximum(possible + extra, 1)
    brevity = np.exp(np.minimum(0.0, 1 - reference_length / np.maximum(length, 1)))
    result: Floats = brevity * precision.prod(axis=1) ** (1 / MAX_ORDER)
    return result
