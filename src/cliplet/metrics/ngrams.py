"""Counting n-grams of many captions at once: the common ground of BLEU, CIDEr and the diversity measures.

Words become integers, an n-gram is the pair (its first n-1 words, its last word), itself an integer, and one sort
per order counts everything. Captions are taken in blocks of images, so the memory needed does not grow with the
number of captions, only with the number of distinct n-grams where these must be kept (document frequencies).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError
from cliplet.metrics.numbered import GroupedCaptions, Ints, NumberedCaptions

Floats = NDArray[np.float64]
Caption = Sequence[str]  # the words of one caption

MAX_ORDER = 4
BLOCK_IMAGES = 20_000  # images whose n-grams are in memory at once


@dataclass(frozen=True)
class DistinctGrams:
    """The different n-grams of one length n, by their numbers."""

    prefix: Ints  # [distinct] the (n-1)-gram it begins with; 0 for n = 1
    last: Ints  # [distinct] its last word

    @property
    def distinct(self) -> int:
        """Number of different n-grams."""
        return len(self.last)


@dataclass(frozen=True)
class Order(DistinctGrams):
    """Counts of the n-grams of one length n: one row per caption and distinct n-gram, sorted by both."""

    caption: Ints  # [rows]
    gram: Ints  # [rows] which n-gram, 0..distinct-1
    count: Ints  # [rows] how often the caption has it


@dataclass(frozen=True)
class NgramCounts:
    """The n-grams of some captions for n = 1..4."""

    words: list[str]  # [vocabulary]
    flat: Ints  # [words] their numbers, caption by caption
    lengths: Ints  # [captions] words per caption
    orders: tuple[Order, ...]
    split: list[int]  # captions of which a token with white space inside counts as several words


def encode(captions: Sequence[Caption]) -> tuple[Ints, Ints, list[str], list[int]]:
    """Captions as one run of word numbers, the length of each, the vocabulary, and which captions had a token split.

    A token with white space inside counts as several words, as it does for the reference's ``str.split``; white space
    around one does not count.
    """
    numbered = captions if isinstance(captions, NumberedCaptions) else NumberedCaptions.of(captions)
    flat, lengths, words = numbered.flat, numbered.lengths, numbered.words
    if " ".join(words).split() != words:
        return _part(flat, lengths, words)
    return flat, lengths, words, []


def _part(flat: Ints, lengths: Ints, words: list[str]) -> tuple[Ints, Ints, list[str], list[int]]:
    """As `encode`, with words parted at white space, numbered by where they come first."""
    found = " ".join(words).split()
    vocabulary = {part: i for i, part in enumerate(dict.fromkeys(found))}
    parts, changed = np.ones(len(words), np.int64), np.zeros(len(words), bool)
    for i, word in enumerate(words):
        if word not in vocabulary:
            parts[i], changed[i] = len(word.split()), True
    many = parts[flat]
    first = (np.cumsum(parts) - parts)[flat] - (np.cumsum(many) - many)
    caption = np.repeat(np.arange(len(lengths)), lengths)
    return (
        np.array([vocabulary[part] for part in found], np.int64)[
            np.repeat(first, many) + np.arange(int(many.sum()))
        ],
        np.bincount(np.repeat(caption, many), minlength=len(lengths)),
        list(vocabulary),
        distinct(caption[changed[flat]]).tolist(),
    )


def count_ngrams(captions: Sequence[Caption], max_order: int = MAX_ORDER) -> NgramCounts:
    """Count the n-grams of every caption, n = 1..max_order."""
    flat, lengths, words, split = encode(captions)
    orders = []
    for caption, gram, made_of in _numbered(flat, lengths, len(words), max_order):
        width = max(made_of.distinct, 1)
        keys = np.sort(caption * width + gram)
        starts = runs(keys)
        caption, gram = np.divmod(keys[starts], width)
        orders.append(Order(made_of.prefix, made_of.last, caption, gram, np.diff(starts, append=len(keys))))
    return NgramCounts(words, flat, lengths, tuple(orders), split)


def _numbered(
    flat: Ints, lengths: Ints, words: int, max_order: int
) -> Iterator[tuple[Ints, Ints, DistinctGrams]]:
    """For n = 1..max_order all n-grams, caption by caption: whose each is, its number, and what the numbers mean."""
    caption = np.repeat(np.arange(len(lengths)), lengths)  # [words] whose word it is
    here = np.arange(len(flat))
    left = np.repeat(np.cumsum(lengths), lengths) - here  # [words] of its caption, from it on
    gram = flat
    yield caption, gram, DistinctGrams(np.zeros(words, np.int64), np.arange(words))
    for n in range(2, max_order + 1):
        keep = left >= n  # n-grams that still fit into their caption
        gram, here, left = gram[keep], here[keep], left[keep]
        different, gram = number(gram * words + flat[here + n - 1])
        yield caption[here], gram, DistinctGrams(*np.divmod(different, max(words, 1)))


def runs(sorted_keys: Ints) -> Ints:
    """Where each run of equal values begins."""
    if not len(sorted_keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])))


def distinct(keys: Ints) -> Ints:
    """The different keys, sorted (what `numpy.unique` gives, which takes longer in some versions)."""
    keys = np.sort(keys)
    return keys[runs(keys)]


def sort(keys: Ints) -> tuple[Ints, Ints]:
    """Sorted keys and where each stood; equal keys keep their order. Keys are not negative."""
    bits = len(keys).bit_length()
    if len(keys) and int(keys.max()) >> (63 - bits):
        order = np.argsort(keys, kind="stable")
        return keys[order], order
    packed = np.sort(keys << bits | np.arange(len(keys)))  # several times faster than argsort
    return packed >> bits, packed & ((1 << bits) - 1)


def number(keys: Ints) -> tuple[Ints, Ints]:
    """The different keys, sorted, and for each key its place among them."""
    ordered, order = sort(keys)
    starts = runs(ordered)
    first = np.zeros(len(keys), np.int64)
    first[starts[1:]] = 1
    place = np.empty(len(keys), np.int64)
    place[order] = np.cumsum(first)
    return ordered[starts], place


def find(sorted_keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each wanted key stands among sorted distinct ones, and whether it is there at all."""
    if not len(sorted_keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.searchsorted(sorted_keys, wanted)
    at[at == len(sorted_keys)] = 0
    return at, sorted_keys[at] == wanted


@dataclass(frozen=True)
class ReferenceOrder:
    """The reference n-grams of one length, arranged to be looked up by (image, n-gram)."""

    keys: Ints  # [keys] image * width + gram, sorted, distinct
    starts: Ints  # [keys + 1] its rows in the arrays below
    reference: Ints  # [rows] which reference caption
    gram: Ints  # [rows] which n-gram
    count: Ints  # [rows] how often the caption has it
    width: int  # number of n-grams that keys can tell apart

    @classmethod
    def build(cls, image: Ints, gram: Ints, reference: Ints, count: Ints, width: int) -> "ReferenceOrder":
        """Arrange rows (image, n-gram, reference caption, count)."""
        keys = image * width + gram
        keys, order = sort(keys)
        starts = runs(keys)
        ends = np.append(starts, len(keys))
        return cls(keys[starts], ends, reference[order], gram[order], count[order], width)


@dataclass(frozen=True)
class Block:
    """Candidates of some images and their references, counted together; caption i is the i-th image's candidate."""

    words: list[str]
    flat: Ints  # [words] numbers of all words, first the candidates'
    candidate_lengths: Ints  # [images]
    reference_lengths: Ints  # [references]
    image_of_reference: Ints  # [references]
    references_of_image: Ints  # [images] how many
    split: list[int]  # images of which a caption's token with white space inside counts as several words
    all_orders: tuple[DistinctGrams, ...]  # of candidates and references; gram numbers are shared
    candidates: tuple[Order, ...]
    references: tuple[ReferenceOrder, ...]

    @property
    def images(self) -> int:
        """Number of images in the block."""
        return len(self.candidate_lengths)


def blocks(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> Iterator[Block]:
    """Count candidates and references image by image, a bounded number of images at a time."""
    for first in range(0, len(candidates), BLOCK_IMAGES):
        stop = first + BLOCK_IMAGES
        yield _block(candidates[first:stop], references[first:stop])


def _block(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> Block:
    images = len(candidates)
    if isinstance(candidates, NumberedCaptions) and isinstance(references, GroupedCaptions):
        flat, lengths, words, split = encode(candidates.followed_by(references.captions))
        per_image = references.sizes
    else:
        flat, lengths, words, split = encode([*candidates, *chain.from_iterable(references)])
        per_image = np.fromiter(map(len, references), np.int64, images)
    first = np.cumsum(per_image) - per_image  # [images] the first reference
    image_of_reference = np.repeat(np.arange(images), per_image)
    image = np.append(np.arange(images), image_of_reference)  # [captions]
    place = np.append(
        np.zeros(images, np.int64), 1 + np.arange(len(image_of_reference)) - first[image_of_reference]
    )
    most = int(per_image.max()) + 1
    all_orders, candidate_orders, reference_orders = [], [], []
    for caption, gram, made_of in _numbered(flat, lengths, len(words), MAX_ORDER):
        width = max(made_of.distinct, 1)
        # one sort by image, n-gram and place in the image: its candidate, then its references
        keys = np.sort((image * (width * most) + place)[caption] + gram * most)
        starts = runs(keys)
        count = np.diff(starts, append=len(keys))
        keys, where = np.divmod(keys[starts], most)
        whose, gram = np.divmod(keys, width)
        mine = where == 0
        candidate_orders.append(Order(made_of.prefix, made_of.last, whose[mine], gram[mine], count[mine]))
        theirs = ~mine
        keys = keys[theirs]
        starts = runs(keys)
        reference_orders.append(
            ReferenceOrder(
                keys=keys[starts],
                starts=np.append(starts, len(keys)),
                reference=(first[whose] + where)[theirs] - 1,
                gram=gram[theirs],
                count=count[theirs],
                width=width,
            )
        )
        all_orders.append(made_of)
    return Block(
        words=words,
        flat=flat,
        split=[int(i) for i in image[split]],
        candidate_lengths=lengths[:images],
        reference_lengths=lengths[images:],
        image_of_reference=image_of_reference,
        references_of_image=per_image,
        all_orders=tuple(all_orders),
        candidates=tuple(candidate_orders),
        references=tuple(reference_orders),
    )


def check_captions(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> None:
    """Raise `InputError` unless there is one tokenised candidate and at least one reference for every image."""
    if len(candidates) != len(references):
        raise InputError(
            f"{len(candidates)} candidates but references for {len(references)} images: give one candidate an image"
        )
    if not len(candidates):
        raise InputError("there are no captions to score")
    sizes = references.sizes.tolist() if isinstance(references, GroupedCaptions) else [*map(len, references)]
    if 0 in sizes:
        index = sizes.index(0)
        raise InputError(f"image {index} has no reference caption; leave it out or give it one")
    if isinstance(candidates, NumberedCaptions) and isinstance(references, GroupedCaptions):
        return
    if str in set(map(type, chain(candidates, chain.from_iterable(references)))):
        raise InputError(
            "captions must be lists of words; tokenise them first (cliplet.metrics.tokenizer.ptb.tokenize_many)"
        )


class NgramIndex:
    """A growing numbering of n-grams: each keeps its number for good, in one numbering per length n = 1..4."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        # for n = 2..4: keys prefix << 32 | last word, sorted, and the number of each
        self._keys: list[Ints] = [np.zeros(0, np.int64) for _ in range(MAX_ORDER - 1)]
        self._numbers: list[Ints] = [np.zeros(0, np.int64) for _ in range(MAX_ORDER - 1)]

    def sizes(self) -> tuple[int, ...]:
        """How many n-grams of each length are known."""
        return len(self.words), *map(len, self._keys)

    def lookup(self, counts: NgramCounts | Block, *, add: bool = False) -> list[Ints]:
        """The number of each distinct n-gram of some captions, by length; -1 for one that is not known.

        With ``add``, those that are not known get the next numbers.
        """
        orders = counts.all_orders if isinstance(counts, Block) else counts.orders
        if add:
            for word in counts.words:
                self.words.setdefault(word, len(self.words))
        get = self.words.get
        word_numbers = np.array([get(word, -1) for word in counts.words], np.int64)
        numbers = [word_numbers]
        for level, order in enumerate(orders[1:]):
            prefix, last = numbers[-1][order.prefix], word_numbers[order.last]
            keys = np.where((prefix < 0) | (last < 0), -1, prefix << 32 | last)  # [distinct]
            if add:
                self._add(level, keys)
            at, known = find(self._keys[level], keys)
            result = np.full(len(keys), -1, np.int64)
            result[known] = self._numbers[level][at[known]]
            numbers.append(result)
        return numbers

    def _add(self, level: int, keys: Ints) -> None:
        old = self._keys[level]
        _, known = find(old, keys)
        new = keys[~known]
        merged = np.concatenate((old, new))
        order = np.argsort(merged, kind="stable")
        numbers = np.concatenate((self._numbers[level], np.arange(len(old), len(merged))))
        self._keys[level], self._numbers[level] = merged[order], numbers[order]

    def export(self) -> list[Ints]:
        """For n = 2..4, the key (prefix << 32 | last word) of every n-gram in the order of their numbers."""
        result = []
        for keys, numbers in zip(self._keys, self._numbers, strict=True):
            by_number = np.empty_like(keys)
            by_number[numbers] = keys
            result.append(by_number)
        return result

    @classmethod
    def restore(cls, words: Sequence[str], keys: Sequence[Ints]) -> "NgramIndex":
        """The index whose words and `export` these are."""
        index = cls()
        index.words = {word: number for number, word in enumerate(words)}
        for level, by_number in enumerate(keys):
            order = np.argsort(by_number, kind="stable")
            index._keys[level], index._numbers[level] = by_number[order], order
        return index

    def copy(self) -> "NgramIndex":
        """An index that grows on its own."""
        index = NgramIndex()
        index.words = dict(self.words)
        index._keys, index._numbers = list(self._keys), list(self._numbers)
        return index
