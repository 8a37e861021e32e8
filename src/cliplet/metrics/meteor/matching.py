"""Where the words and phrases of a candidate can be matched with those of a reference (METEOR 1.5).

All pairs of a batch are looked at together. A match couples a span of the reference with a span of the candidate;
its stage is 0 exact, 1 stem, 2 synonym or 3 paraphrase. The order of the matches that begin at the same reference
word is the order in which METEOR finds them, since it decides between equally good alignments.
"""

from dataclasses import dataclass

import numpy as np

from cliplet.metrics.meteor.hashing import append_word, power
from cliplet.metrics.meteor.lexicon import EXACT, STEM, SYNONYM, Lexicon
from cliplet.metrics.meteor.tables import MeteorTables, span_indices

PARAPHRASE_STAGE = 3
LONGEST_PHRASE = 7


@dataclass(frozen=True)
class Batch:
    """Captions as word numbers, and which of them are compared."""

    words: np.ndarray
    """int64: all captions' words, one caption after the other."""
    starts: np.ndarray
    """int64 [captions + 1]: where each caption begins."""
    candidate: np.ndarray
    """int64 [pairs]: the caption that is judged."""
    reference: np.ndarray
    """int64 [pairs]: the caption that it is compared with."""

    @property
    def lengths(self) -> np.ndarray:
        """Words of each caption."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Matches:
    """Matches in order of pair, reference word and METEOR's own order; int64 arrays of one length."""

    pair: np.ndarray
    start: np.ndarray
    """First word in the reference."""
    length: np.ndarray
    """Words in the reference."""
    candidate_start: np.ndarray
    candidate_length: np.ndarray
    stage: np.ndarray


def find_matches(batch: Batch, lexicon: Lexicon, tables: MeteorTables | None) -> Matches:
    """All matches of all pairs. A candidate that equals its reference word for word has exact matches alone."""
    words, identical = _word_matches(batch, lexicon)
    parts = [words]
    if tables is not None:
        parts += _phrase_matches(batch, lexicon, tables, np.flatnonzero(~identical))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    pair, start, *_, order = columns
    first = np.lexsort((order, start, pair))
    return Matches(*(column[first] for column in columns[:-1]))


def _found_order(group: int, *finer: np.ndarray) -> np.ndarray:
    """One number by which matches sort as METEOR finds them: by group, then by each finer order (below 2**16)."""
    order = np.full(finer[0].shape, group, dtype=np.int64)
    for part in finer:
        order = order << 16 | part
    return order


def _word_matches(batch: Batch, lexicon: Lexicon) -> tuple[list[np.ndarray], np.ndarray]:
    """([pair, start, length, candidate start, candidate length, stage, order], is each pair identical?)."""
    vocabulary, words = np.unique(batch.words, return_inverse=True)
    relations = lexicon.relations(vocabulary)
    n_reference, n_candidate = batch.lengths[batch.reference], batch.lengths[batch.candidate]
    # a row is a reference word of a pair, a cell such a word beside a candidate word
    row_pair = np.repeat(np.arange(len(n_reference)), n_reference)
    row_word = span_indices(batch.starts[batch.reference], n_reference)
    row_cells = n_candidate[row_pair]
    cell_row = np.repeat(np.arange(len(row_pair)), row_cells)
    cell_word = span_indices(batch.starts[batch.candidate][row_pair], row_cells)
    bits = relations.ravel()[(words[row_word] * len(vocabulary))[cell_row] + words[cell_word]]

    hit = np.flatnonzero(bits)
    bits, row = bits[hit], cell_row[hit]
    pair = row_pair[row]
    start = row_word[row] - batch.starts[batch.reference[pair]]
    candidate_start = cell_word[hit] - batch.starts[batch.candidate[pair]]
    on_diagonal = pair[(start == candidate_start) & (bits & EXACT != 0)]
    identical = (n_reference == n_candidate) & (
        np.bincount(on_diagonal, minlength=len(n_reference)) == n_reference
    )
    parts = []
    for stage, bit in enumerate((EXACT, STEM, SYNONYM)):
        at = np.flatnonzero((bits & bit != 0) & ((bit == EXACT) | ~identical[pair]))
        one = np.ones(len(at), dtype=np.int64)
        zero = np.zeros_like(one)
        order = _found_order(stage, candidate_start[at], zero, zero)
        parts.append([pair[at], start[at], one, candidate_start[at], one, one * stage, order])
    return [np.concatenate(column) for column in zip(*parts, strict=True)], identical


@dataclass(frozen=True)
class _Phrases:
    """Where phrases of the paraphrase table occur in a batch's captions, by caption, start and length."""

    caption: np.ndarray
    start: np.ndarray
    length: np.ndarray
    phrase: np.ndarray
    """Number of the phrase in ``rows``."""
    rows: np.ndarray
    """int64, sorted: the table's row of each phrase of the batch."""


def _find_phrases(batch: Batch, lexicon: Lexicon, tables: MeteorTables) -> _Phrases:
    hashes = lexicon.hashes[batch.words]
    shifts = power(lexicon.sizes)[batch.words]
    caption = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
    left = batch.starts[caption + 1] - np.arange(len(caption))  # words from here to the caption's end
    at, phrase = np.arange(len(caption)), hashes
    found = []
    for length in range(1, LONGEST_PHRASE + 1):
        if length > 1:
            inside = left[at] >= length
            at = at[inside]
            last = at + length - 1
            phrase = append_word(phrase[inside], hashes[last], shifts[last])
        maybe = np.flatnonzero(tables.may_be_phrase(phrase))
        found.append((at[maybe], np.full(len(maybe), length), phrase[maybe]))
    at, lengths, phrase = (np.concatenate(part) for part in zip(*found, strict=True))
    distinct, number = np.unique(phrase, return_inverse=True)
    rows = tables.phrase.find(distinct)
    known = np.flatnonzero(rows[number] >= 0)
    known = known[np.lexsort((lengths[known], at[known]))]
    at = at[known]
    rank = np.cumsum(rows >= 0) - 1  # the rows of a sorted table rise with the hashes
    return _Phrases(
        caption=caption[at],
        start=at - batch.starts[caption[at]],
        length=lengths[known],
        phrase=rank[number[known]],
        rows=rows[rows >= 0],
    )


def _phrase_matches(
    batch: Batch, lexicon: Lexicon, tables: MeteorTables, pairs: np.ndarray
) -> list[list[np.ndarray]]:
    """Paraphrases of the references' phrases, then of the candidates': one that the table has in both directions
    is found twice."""
    phrases = _find_phrases(batch, lexicon, tables)
    known = _paraphrases_among(phrases.rows, tables)
    reference, candidate = batch.reference[pairs], batch.candidate[pairs]
    parts = []
    for group, source, target in ((3, reference, candidate), (4, candidate, reference)):
        k, a, b, rank = _paraphrased(phrases, known, source, target, len(batch.lengths))
        r, c = (a, b) if group == 3 else (b, a)
        if group == 3:
            order = _found_order(group, phrases.length[a], rank, phrases.start[b])
        else:
            order = _found_order(group, phrases.start[a], phrases.length[a], rank)
        stage = np.full(len(k), PARAPHRASE_STAGE)
        spans = (phrases.start[r], phrases.length[r], phrases.start[c], phrases.length[c])
        parts.append([pairs[k], *spans, stage, order])
    return parts


def _paraphrases_among(rows: np.ndarray, tables: MeteorTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts [n + 1], paraphrase, rank): of each phrase of the batch those paraphrases that occur in it too."""
    begin = tables.phrase.starts[rows].astype(np.int64)
    counts = tables.phrase.starts[rows + 1] - begin
    paraphrase = tables.phrase.values[span_indices(begin, counts)]
    number = np.minimum(np.searchsorted(rows, paraphrase), max(0, len(rows) - 1))
    here = np.flatnonzero(rows[number] == paraphrase)
    owner = np.repeat(np.arange(len(rows)), counts)[here]
    rank = span_indices(np.zeros_like(counts), counts)[here]
    return np.searchsorted(owner, np.arange(len(rows) + 1)), number[here], rank


def _paraphrased(
    phrases: _Phrases,
    known: tuple[np.ndarray, np.ndarray, np.ndarray],
    source: np.ndarray,
    target: np.ndarray,
    captions: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(pair, occurrence in the source caption, occurrence in the target caption, rank) of every paraphrase of a
    source's phrase that occurs in its target."""
    starts, paraphrase, rank = known
    n_phrases = len(phrases.rows)
    occurs = np.zeros((captions, n_phrases), dtype=bool)
    occurs[phrases.caption, phrases.phrase] = True
    # the occurrences in each source
    first = np.searchsorted(phrases.caption, np.arange(captions + 1))
    counts = first[source + 1] - first[source]
    pair = np.repeat(np.arange(len(source)), counts)
    a = span_indices(first[source], counts)
    # their paraphrases
    phrase = phrases.phrase[a]
    counts = starts[phrase + 1] - starts[phrase]
    entry = span_indices(starts[phrase], counts)
    pair, a = np.repeat(pair, counts), np.repeat(a, counts)
    hit = np.flatnonzero(occurs.ravel()[target[pair] * n_phrases + paraphrase[entry]])
    pair, a, entry = pair[hit], a[hit], entry[hit]
    # and where in the target those are
    place = phrases.caption * n_phrases + phrases.phrase
    by_place = np.argsort(place, kind="stable")
    place = place[by_place]
    wanted = target[pair] * n_phrases + paraphrase[entry]
    begin = np.searchsorted(place, wanted, side="left")
    counts = np.searchsorted(place, wanted, side="right") - begin
    b = by_place[span_indices(begin, counts)]
    return np.repeat(pair, counts), np.repeat(a, counts), b, np.repeat(rank[entry], counts)
