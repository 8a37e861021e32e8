"""A small n-gram language model of captions: counted in a second, asked tens of thousands of times a second."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from cliplet.errors import InputError
from cliplet.metrics.ngrams import (
    BLOCK_IMAGES,
    Caption,
    Floats,
    Ints,
    NgramCounts,
    NgramIndex,
    count_ngrams,
    find,
)

ORDER = 3
START, END, UNKNOWN = "\x02", "\x03", "\x04"
"""Words that no tokeniser makes of a caption."""


@dataclass(frozen=True)
class CaptionLogs:
    """Natural logarithms of probabilities of n captions; a caption's end counts as a word of it."""

    model: Floats
    """[n]: by the language model."""
    unigrams: Floats
    """[n]: by the known words' frequencies alone, whatever their order; an unknown word adds nothing."""
    words: Ints
    """[n]: words, the end included."""


class NgramModel:
    """Trigram model with interpolated Kneser-Ney smoothing and an end-of-caption word.

    ``p_n(w|h) = max(c_n(hw) - D_n, 0) / c_n(h.) + D_n t_n(h.) / c_n(h.) * p_{n-1}(w|h')``: h are the n - 1 words before
    w, h' the last n - 2 of them, ``t_n(h.)`` the number of different words after h, ``D_n = n_1 / (n_1 + 2 n_2)`` from
    how many n-grams were counted once and twice; below ``p_1`` stands the even distribution. ``c_3`` counts
    occurrences, ``c_1`` and ``c_2`` the different words seen before the n-gram (occurrences at a caption's start).
    Words seen only once count as one and the same unknown word.

    Source: Chen and Goodman, Computer Speech and Language 13, 1999 (one discount an order).

    Args:
        captions: training captions as lists of words.

    Raises:
        InputError: no captions, or none with words.
    """

    def __init__(self, captions: Sequence[Caption]) -> None:
        seen = Counter(chain.from_iterable(captions))
        if not seen:
            raise InputError("a language model needs training captions with words; there are none")
        self._words = frozenset(word for word, count in seen.items() if count > 1)
        self._index = NgramIndex()
        self._index.words = {START: 0, END: 1, UNKNOWN: 2}
        counts = self._count(captions)
        occurrences = counts[0].copy()
        occurrences[0] = 0  # nobody says START
        self._unigrams = np.log(np.maximum(occurrences, 1) / occurrences.sum())
        self._unigrams[[0, 2]] = 0  # START is said for free; an unknown word is not excused by its rarity
        self._logs, self._backoffs = _estimate(counts, self._index.export())

    def __call__(self, captions: Sequence[Caption]) -> CaptionLogs:
        """Probabilities of captions given as lists of words; each depends on nothing but the caption."""
        batch = count_ngrams([self._padded(caption) for caption in captions], ORDER)
        numbers = self._index.lookup(batch)
        words, last = batch.orders[0], batch.orders[-1]
        log = self._logs[0][numbers[0]]  # [distinct words] of the batch
        suffix = np.zeros(0, np.int64)
        for n in range(1, ORDER):
            order, number = batch.orders[n], numbers[n]
            suffix = (
                order.last if n == 1 else _suffixes(batch, n, suffix)
            )  # [distinct] the n-gram's last n - 1 words
            context = numbers[n - 1][order.prefix]
            unseen = np.where(context >= 0, self._backoffs[n - 1][context], 0.0) + log[suffix]
            log = np.where(number >= 0, self._logs[n][number], unseen)
        lone = self._unigrams[numbers[0]]
        n = len(captions)
        return CaptionLogs(
            model=_sums(last.caption, last.count * log[last.gram], n),
            unigrams=_sums(words.caption, words.count * lone[words.gram], n),
            words=batch.lengths - (ORDER - 1),
        )

    def _padded(self, caption: Caption) -> list[str]:
        """With START before it, so that every word and the end stands at the end of one trigram."""
        known = self._words
        return [START] * (ORDER - 1) + [word if word in known else UNKNOWN for word in caption] + [END]

    def _count(self, captions: Sequence[Caption]) -> list[Floats]:
        """How often each n-gram of the index occurs, for n = 1..3."""
        counts = [np.zeros(0) for _ in range(ORDER)]
        for first in range(0, len(captions), BLOCK_IMAGES):
            block = count_ngrams([self._padded(c) for c in captions[first : first + BLOCK_IMAGES]], ORDER)
            for n, numbers in enumerate(self._index.lookup(block, add=True)):
                order = block.orders[n]
                grown = _sums(numbers[order.gram], order.count, self._index.sizes()[n])
                grown[: len(counts[n])] += counts[n]
                counts[n] = grown
        return counts


def _sums(group: Ints, values: ArrayLike, groups: int) -> Floats:
    return np.bincount(group, weights=values, minlength=groups).astype(np.float64)


def _suffixes(batch: NgramCounts, n: int, shorter: Ints) -> Ints:
    """For each distinct (n + 1)-gram of a batch the n-gram that it ends with; ``shorter`` are those of the n-grams."""
    order, below, width = batch.orders[n], batch.orders[n - 1], len(batch.words)
    return find(below.prefix * width + below.last, shorter[order.prefix] * width + order.last)[0]


def _estimate(counts: list[Floats], keys: list[Ints]) -> tuple[list[Floats], list[Floats]]:
    """For n = 1..3 each n-gram's log probability, and for n = 1, 2 the log weight of backing off from it.

    ``keys[n - 2]`` are prefix << 32 | last word of the n-grams, by number.
    """
    prefixes, lasts, suffixes, first = _anatomy(counts, keys)
    logs, backoffs = [], []
    below = np.zeros(0)
    for n in range(ORDER):
        kept = counts[n]
        if n < ORDER - 1:
            different = np.bincount(suffixes[n + 1], minlength=len(kept))
            kept = np.where(first[n] == 0, kept, different)
        kept = np.where(lasts[n] == 0, 0, kept)  # START is never predicted
        once, twice = int((kept == 1).sum()), int((kept == 2).sum())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        if n == 0:
            left = discount * (kept > 0).sum() / kept.sum()  # for the even distribution over all but START
            below = np.maximum(kept - discount, 0) / kept.sum() + left / (len(kept) - 1)
            below[0] = 0
        else:
            contexts = len(counts[n - 1])
            total = _sums(prefixes[n], kept, contexts)
            kinds_after = _sums(prefixes[n], kept > 0, contexts)
            weight = np.where(total > 0, discount * kinds_after / np.maximum(total, 1), 1.0)
            backoffs.append(np.log(weight))
            own = np.maximum(kept - discount, 0) / np.maximum(total, 1)[prefixes[n]]
            below = own + weight[prefixes[n]] * below[suffixes[n]]
        logs.append(np.log(np.maximum(below, 1e-300)))
    return logs, backoffs


def _anatomy(counts: list[Floats], keys: list[Ints]) -> tuple[list[Ints], list[Ints], list[Ints], list[Ints]]:
    """For n = 1..3 and each n-gram: its first n - 1 words, last word, last n - 1 words, and first word."""
    words = np.arange(len(counts[0]))
    prefixes, lasts, suffixes, first = [words], [words], [words], [words]
    for n in range(1, ORDER):
        prefix, last = keys[n - 1] >> 32, keys[n - 1] & 0xFFFFFFFF
        if n == 1:
            suffixes.append(last)
        else:
            order = np.argsort(keys[n - 2])
            at, _ = find(keys[n - 2][order], suffixes[n - 1][prefix] << 32 | last)
            suffixes.append(order[at])
        prefixes.append(prefix)
        lasts.append(last)
        first.append(first[n - 1][prefix])
    return prefixes, lasts, suffixes, first
