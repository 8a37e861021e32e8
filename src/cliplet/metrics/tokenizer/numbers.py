"""Tokenising many captions at once into numbers, without a string for every word.

Most captions are words of the letters a to z with common commas and perhaps a full stop. These are found in the bytes
of all captions together; the rest goes through the grammar, as in `cliplet.metrics.tokenizer.ptb`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cliplet.metrics.numbered import Ints, NumberedCaptions, in_order, numbering
from cliplet.metrics.tokenizer import ptb

_LONGEST = 16  # letters of a word that two integers hold
_TOGETHER = 1 << 13  # captions whose bytes are in memory at once; few enough to stay in the cache
_FEWEST = 64  # captions below which lists are quicker
_Bytes = NDArray[np.uint8]
_Flags = NDArray[np.bool_]


def number_many(captions: Iterable[str], *, joined: bool = True, tokenizer: str = "ptb") -> NumberedCaptions:
    """The words of many captions, as `tokenize_many` gives them, kept as numbers."""
    lines, tables = ptb.lines_of(captions), ptb.tables_of(tokenizer)
    if tokenizer != "ptb" or len(lines) < _FEWEST:
        return NumberedCaptions.of(ptb.tokenize_many(lines, joined=joined, tokenizer=tokenizer))
    known = numbering()
    parts = [_plain(lines[i : i + _TOGETHER], known) for i in range(0, len(lines), _TOGETHER)]
    flat, lengths, plain = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    odd = ptb.read_odd(lines, np.flatnonzero(~plain).tolist(), tables, joined)
    if odd:
        at = sorted(odd)
        plain[at] = False  # a tag may run on into a plain caption
        mine = np.repeat(plain, lengths)
        lengths[at] = [len(odd[i]) for i in at]
        every = np.empty(int(lengths.sum()), np.int64)
        here = np.repeat(plain, lengths)
        every[here] = flat[mine]
        every[~here] = [known[word] for i in at for word in odd[i]]
        flat = every
    flat, words = in_order(flat, list(known))
    return NumberedCaptions(flat, lengths, words)


def _plain(lines: Sequence[str], known: dict[str, int]) -> tuple[Ints, Ints, _Flags]:
    """Numbers of the lines' words, how many each line has, and which lines are plain: of the others nothing is right.

    ``known`` are the numbers of words, which grow.
    """
    text = "\n".join(lines).encode("utf-8", "surrogatepass").lower()
    # bytes around the text spare all looks before and after a place the question whether it is there
    raw = np.frombuffer(b"\n\n%b\n%b" % (text, bytes(_LONGEST)), np.uint8)
    inner = raw[2:-_LONGEST]
    letter = raw - np.uint8(97) < 26
    ends = np.flatnonzero(inner == 10) + 2
    plain = np.ones(len(lines), bool)
    plain[np.searchsorted(ends, _not_plain(raw, letter))] = False

    start = np.flatnonzero(letter[1:] & ~letter[:-1]) + 1
    size = np.flatnonzero(letter[:-1] & ~letter[1:]) + 1 - start
    lengths = np.diff(np.searchsorted(start, ends), prepend=0)
    line = np.repeat(np.arange(len(lines)), lengths)
    plain[line[size > _LONGEST]] = False
    plain &= lengths > 0

    keep, stops = plain[line], raw[start + size] == 46
    number = np.zeros(len(start), np.int64)
    start, size = start[keep], size[keep]
    own, words = _numbers(raw, start, size)
    number[keep] = np.array([known[word] for word in words], np.int64)[own]
    last = np.cumsum(lengths)[plain] - 1
    plain[np.flatnonzero(plain)[stops[last] & _among(number[last], known, ptb.BEFORE_STOP)]] = False
    plain[line[keep & _among(number, known, ptb.SPLIT_WORDS)]] = False
    return number, lengths, plain


def _not_plain(raw: _Bytes, letter: _Flags) -> Ints:
    """Where characters stand that no plain line has: not letters, spaces, common commas and a full stop at its end."""
    at = np.flatnonzero(~letter & (raw != 32) & (raw != 10))
    at = at[at < len(raw) - _LONGEST]
    mark, after = raw[at], raw[at + 1]
    comma = (mark == 44) & letter[at - 1] & letter[at - 2] & ((after == 32) | (after == 10))
    stop = (mark == 46) & ((after == 10) | (after == 32) & (raw[at + 2] == 10))
    return at[~(comma | stop)]


def _numbers(raw: _Bytes, start: Ints, size: Ints) -> tuple[Ints, list[str]]:
    """The number of each word, from where it begins and how many letters it has; the words by number."""
    eight = np.ndarray(len(raw) - 7, "<u8", raw, strides=(1,))  # the eight bytes from each on
    masks = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
    heads, number = np.unique(eight[start] & masks[np.minimum(size, 8)], return_inverse=True)
    long = np.flatnonzero(size > 8)
    tails, tail = np.unique(eight[start[long] + 8] & masks[size[long] - 8], return_inverse=True)
    longs, of_long = np.unique(number[long] * max(len(tails), 1) + tail, return_inverse=True)
    number[long] = len(heads) + of_long
    place = np.full(len(heads) + len(longs), -1)
    place[number] = np.arange(len(number))  # any place of each word
    used = place >= 0  # else only the beginning of a longer word
    first, end = start[place[used]], (start + size)[place[used]]
    text = raw.tobytes().decode("ascii", "replace")
    words = [text[a:b] for a, b in zip(first.tolist(), end.tolist(), strict=True)]
    return (np.cumsum(used) - 1)[number], words


def _among(number: Ints, known: dict[str, int], words: frozenset[str]) -> _Flags:
    flags = np.zeros(max(len(known), 1), bool)  # one even where there is no word: no one asks for it
    flags[[known[word] for word in words if word in known]] = True
    return flags[number]
