"""Tokenised captions kept as numbers, which is all that counting takes; lists of words are made when asked for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class NumberedCaptions(Sequence[list[str]]):
    """Tokenised captions: of each, its words."""

    def __init__(self, flat: Ints, lengths: Ints, words: list[str]) -> None:
        """Keep numbers.

        Args:
            flat: [words of all captions] their numbers, caption by caption.
            lengths: [captions] how many words each has.
            words: the word of each number, in the order in which they come first.
        """
        self.flat, self.lengths, self.words = flat, lengths, words

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> "NumberedCaptions":
        """Those of captions given as lists of words."""
        words = numbering()
        lengths = np.fromiter(map(len, captions), np.int64, len(captions))
        flat = np.fromiter(
            map(words.__getitem__, chain.from_iterable(captions)), np.int64, int(lengths.sum())
        )
        return cls(flat, lengths, list(words))

    @cached_property
    def lists(self) -> list[list[str]]:
        """The words of every caption."""
        every = [*map(self.words.__getitem__, self.flat.tolist())]
        bounds = zip((self._ends - self.lengths).tolist(), self._ends.tolist(), strict=True)
        return [every[first:end] for first, end in bounds]

    def followed_by(self, others: "NumberedCaptions") -> "NumberedCaptions":
        """These captions and then others."""
        words = numbering(self.words)
        theirs = np.fromiter(map(words.__getitem__, others.words), np.int64, len(others.words))
        return NumberedCaptions(
            np.concatenate((self.flat, theirs[others.flat])),
            np.concatenate((self.lengths, others.lengths)),
            list(words),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.lists)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self if _everything(index, len(self)) else self.lists[index]
        end = self._ends[index]
        return [self.words[number] for number in self.flat[end - self.lengths[index] : end].tolist()]

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self.lengths)


class GroupedCaptions(Sequence[list[list[str]]]):
    """The references of some images: of each image, its tokenised captions."""

    def __init__(self, captions: NumberedCaptions, sizes: Iterable[int]) -> None:
        """Group captions; ``sizes`` [images] says how many belong to each image."""
        self.captions = captions
        self.sizes: Ints = np.fromiter(sizes, np.int64)

    @cached_property
    def lists(self) -> list[list[list[str]]]:
        """The words of every caption of every image."""
        every = self.captions.lists
        bounds = zip((self._ends - self.sizes).tolist(), self._ends.tolist(), strict=True)
        return [every[first:end] for first, end in bounds]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[list[str]]]:
        return iter(self.lists)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self if _everything(index, len(self)) else self.lists[index]
        end = int(self._ends[index])
        return [self.captions[i] for i in range(end - int(self.sizes[index]), end)]

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self.sizes)


def numbering(words: Iterable[str] = ()) -> defaultdict[str, int]:
    """Numbers of different words from 0 on; one that is asked for and not there gets the next number."""
    numbers: defaultdict[str, int] = defaultdict(None, zip(words, count()))
    numbers.default_factory = numbers.__len__
    return numbers


def in_order(flat: Ints, words: Sequence[str]) -> tuple[Ints, list[str]]:
    """Numbers in the order in which they come first, and the words of those that come at all."""
    many = len(flat)
    first = np.full(len(words), many)
    first[flat[::-1]] = np.arange(many)[::-1]  # of several places the last one written, the first one, stays
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < many)]
    rank = np.zeros(len(words), np.int64)
    rank[order] = np.arange(len(order))
    return rank[flat], [words[i] for i in order.tolist()]


def _everything(index: slice, length: int) -> bool:
    return index.indices(length) == (0, length, 1)
