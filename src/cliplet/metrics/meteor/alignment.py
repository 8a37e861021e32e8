"""Which of the possible matches make up the alignment: METEOR 1.5's beam search, for many pairs at once.

The search walks over the reference's words. At each, an alignment so far may take any match that begins there and
whose words are free, or none. Only the best 40 go on: most words covered, then fewest chunks, then smallest distance
between matched positions, then first come. Kept on purpose, since they decide which alignment wins:

- in this comparison a match of the stages stem, synonym and paraphrase counts for half its words, rounded down, so
  that a single such word counts nothing;
- the distance of a match is added to the alignment that did without it (and so to those that are tried after it).

Matches whose words no other match touches are fixed beforehand.
"""

from dataclasses import dataclass, fields

import numpy as np

from cliplet.metrics.meteor.matching import Batch, Matches
from cliplet.metrics.meteor.tables import span_indices

BEAM = 40
STAGES = 4
LONGEST_TOGETHER = 64
"""Words of the longest captions that are searched together: one bit each in a 64-bit number."""


@dataclass(frozen=True)
class Alignments:
    """What the score is computed from, for each pair."""

    candidate: np.ndarray
    """int64 [pairs, stages, 2]: matched words of the candidate: content words, function words."""
    reference: np.ndarray
    """int64 [pairs, stages, 2]: likewise of the reference."""
    chunks: np.ndarray
    """int64 [pairs]: runs of matches that are adjacent and in the same order on both sides."""


def align(
    batch: Batch, matches: Matches, is_function: np.ndarray, together: int = LONGEST_TOGETHER
) -> Alignments:
    """The alignment of each pair.

    ``is_function`` says of each word of the batch whether it is a function word. Pairs with a caption of more than
    ``together`` words are searched one at a time, with the same result.
    """
    pairs = len(batch.candidate)
    moves = _Moves.of(batch, matches)
    # words by side, stage and weight of each match: [matches, 2 sides, 4 stages, 2 weights]
    words = _count_words(batch, matches, is_function)
    counts = np.zeros((pairs, *words.shape[1:]), dtype=np.int64)
    chunks = np.zeros(pairs, dtype=np.int64)
    longest = np.maximum(batch.lengths[batch.candidate], batch.lengths[batch.reference])
    short = np.flatnonzero(longest <= together)
    counts[short], chunks[short] = _search_together(moves, words, short)
    for pair in np.flatnonzero(longest > together):
        chosen, chunks[pair] = _search_alone(moves, int(pair))
        counts[pair] = words[chosen].sum(axis=0)
    return Alignments(candidate=counts[:, 0], reference=counts[:, 1], chunks=chunks)


@dataclass(frozen=True)
class _Moves:
    """The matches by the word of the reference at which they begin. A row is one reference word of one pair."""

    row: np.ndarray
    """int64 [pairs + 1]: the first row of each pair."""
    first: np.ndarray
    """int64 [rows + 1]: the first match of each row."""
    is_fixed: np.ndarray
    """bool [rows]: the row's only match is taken in any case."""
    matches: Matches
    gain: np.ndarray
    """int64 [matches]: words covered on both sides, as the search counts them."""
    distance: np.ndarray
    """int64 [matches]: between the positions on the two sides."""

    @classmethod
    def of(cls, batch: Batch, matches: Matches) -> "_Moves":
        row = np.concatenate([[0], np.cumsum(batch.lengths[batch.reference])])
        column = np.concatenate([[0], np.cumsum(batch.lengths[batch.candidate])])
        at = row[matches.pair] + matches.start
        spans = (
            (at, matches.length, int(row[-1])),
            (column[matches.pair] + matches.candidate_start, matches.candidate_length, int(column[-1])),
        )
        alone = np.ones(len(at), dtype=bool)
        for begin, length, total in spans:
            covered = np.bincount(span_indices(begin, length), minlength=total)
            shared = np.concatenate([[0], np.cumsum(covered != 1)])
            alone &= shared[begin + length] == shared[begin]
        is_fixed = np.zeros(int(row[-1]), dtype=bool)
        is_fixed[at[alone]] = True
        halved = np.where(matches.stage == 0, 1, 2)
        return cls(
            row=row,
            first=np.searchsorted(at, np.arange(len(is_fixed) + 1)),
            is_fixed=is_fixed,
            matches=matches,
            gain=matches.length // halved + matches.candidate_length // halved,
            distance=np.abs(matches.start - matches.candidate_start),
        )


def _count_words(batch: Batch, matches: Matches, is_function: np.ndarray) -> np.ndarray:
    """int64 [matches, 2 sides, stages, 2]: content and function words of each match, under its stage."""
    counts = np.zeros((len(matches.pair), 2, STAGES, 2), dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(is_function)])
    each = np.arange(len(matches.pair))
    sides = (
        (batch.candidate, matches.candidate_start, matches.candidate_length),
        (batch.reference, matches.start, matches.length),
    )
    for side, (captions, start, length) in enumerate(sides):
        begin = batch.starts[captions[matches.pair]] + start
        function = before[begin + length] - before[begin]
        counts[each, side, matches.stage, 0] = length - function
        counts[each, side, matches.stage, 1] = function
    return counts


@dataclass
class _Beam:
    """Alignments so far, by pair and from the best to the worst; arrays of one length."""

    pair: np.ndarray
    gain: np.ndarray
    chunks: np.ndarray
    distance: np.ndarray
    candidate_end: np.ndarray
    """The candidate's word behind the last match; -1 when the last reference word was left out."""
    free: np.ndarray
    """The reference's first word that is not dealt with."""
    used: np.ndarray
    """uint64: the candidate's matched words, one bit each."""
    words: np.ndarray
    """uint64 [n, 2]: matched words of either side, eight bits for each stage and weight."""

    @classmethod
    def new(cls, pairs: np.ndarray) -> "_Beam":
        def zeros() -> np.ndarray:
            return np.zeros(len(pairs), dtype=np.int64)

        return cls(
            pair=pairs,
            gain=zeros(),
            chunks=zeros(),
            distance=zeros(),
            candidate_end=zeros() - 1,
            free=zeros(),
            used=np.zeros(len(pairs), dtype=np.uint64),
            words=np.zeros((len(pairs), 2), dtype=np.uint64),
        )

    def take(self, index: np.ndarray) -> "_Beam":
        return _Beam(*(getattr(self, field.name)[index] for field in fields(self)))

    def best_first(self) -> "_Beam":
        """Sorted within each pair, the best 40 of each."""
        if len(self.pair) > 1 and (self.pair[1:] == self.pair[:-1]).any():
            # one number to sort by: neither side has more than 64 words
            order = (self.pair * 256 - self.gain) * 128 + self.chunks
            order = np.argsort(order * (int(self.distance.max()) + 1) + self.distance, kind="stable")
            pair = self.pair[order]
            begins = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
            rank = np.arange(len(pair)) - np.repeat(begins, np.diff(begins, append=len(pair)))
            return self.take(order[rank < BEAM])
        return self


_WORD_SHIFTS = (np.arange(STAGES * 2) * 8).astype(np.uint64)


def _search_together(moves: _Moves, words: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(matched words [pairs, 2, stages, 2], chunks [pairs]) of the best alignments."""
    matches = moves.matches
    one = np.uint64(1)
    masks = ((one << matches.candidate_length.astype(np.uint64)) - one) << matches.candidate_start.astype(
        np.uint64
    )
    packed = (words.reshape(-1, 2, STAGES * 2).astype(np.uint64) << _WORD_SHIFTS).sum(axis=2, dtype=np.uint64)
    lengths = np.diff(moves.row)
    done = []
    beam = _Beam.new(pairs)
    for word in range(int(lengths[pairs].max(initial=-1)) + 1):
        beam = beam.best_first()
        ends = lengths[beam.pair] == word
        if ends.any():
            done.append(_finish(beam.take(np.flatnonzero(ends))))
            beam = beam.take(np.flatnonzero(~ends))
        beam = _step(beam, word, moves, masks, packed)
    found = (
        _Beam(*(np.concatenate([getattr(part, f.name) for part in done]) for f in fields(_Beam)))
        if done
        else beam
    )
    found = found.take(np.argsort(found.pair))
    counts = (found.words[:, :, None] >> _WORD_SHIFTS & np.uint64(255)).astype(np.int64)
    return counts.reshape(len(pairs), 2, STAGES, 2), found.chunks


def _finish(beam: _Beam) -> _Beam:
    """The best alignment of each pair, when all words are dealt with."""
    beam.chunks += beam.candidate_end >= 0
    beam = beam.best_first()
    return beam.take(np.flatnonzero(np.concatenate([[True], beam.pair[1:] != beam.pair[:-1]])))


def _step(beam: _Beam, word: int, moves: _Moves, masks: np.ndarray, packed: np.ndarray) -> _Beam:
    """Deal with one word of the reference: every alignment is followed by those that take a match, then itself."""
    n = len(beam.pair)
    row = moves.row[beam.pair] + word
    is_open = beam.free <= word  # else inside of a match that began before
    fixed = is_open & moves.is_fixed[row]
    is_open &= ~fixed
    tries = np.where(is_open, moves.first[row + 1] - moves.first[row], 0)
    parent = np.repeat(np.arange(n), tries)
    match = span_indices(moves.first[row], tries)
    possible = np.flatnonzero(beam.used[parent] & masks[match] == 0)
    parent, match = parent[possible], match[possible]

    # the distance of a match counts for what is tried after it
    children = np.bincount(parent, minlength=n)
    end = np.cumsum(children)
    distance = np.concatenate([[0], np.cumsum(moves.distance[match])])
    before = distance[end - children]

    # the order of the new beam
    source = np.empty(n + len(parent), dtype=np.int64)
    taken = np.full(len(source), -1)
    added = np.zeros(len(source), dtype=np.int64)
    at = np.arange(len(parent)) + parent
    source[at], taken[at], added[at] = parent, match, distance[:-1] - before[parent]
    at = end + np.arange(n)
    source[at], added[at] = np.arange(n), distance[end] - before
    at = at[fixed]
    taken[at] = match = moves.first[row[fixed]]
    added[at] = moves.distance[match]

    beam = beam.take(source)
    beam.distance += added
    at = np.flatnonzero(taken >= 0)
    _take_matches(beam, at, taken[at], moves, masks, packed)
    at = np.flatnonzero(is_open[source] & (taken < 0))
    beam.chunks[at] += beam.candidate_end[at] >= 0
    beam.candidate_end[at] = -1
    beam.free[at] = word + 1
    return beam


def _take_matches(
    beam: _Beam, at: np.ndarray, match: np.ndarray, moves: _Moves, masks: np.ndarray, packed: np.ndarray
) -> None:
    """Add a match to each of some alignments."""
    matches = moves.matches
    start = matches.candidate_start[match]
    end = beam.candidate_end[at]
    beam.chunks[at] += (end >= 0) & (end != start)
    beam.candidate_end[at] = start + matches.candidate_length[match]
    beam.free[at] = matches.start[match] + matches.length[match]
    beam.gain[at] += moves.gain[match]
    beam.used[at] |= masks[match]
    beam.words[at] += packed[match]


def _search_alone(moves: _Moves, pair: int) -> tuple[list[int], int]:
    """The same search for one pair of any length: (the matches of the best alignment, chunks)."""
    matches = moves.matches
    start, length = matches.candidate_start.tolist(), matches.candidate_length.tolist()
    # an alignment: (-gain, chunks, distance), candidate end, free, used, matches as a linked list
    beam: list[tuple] = [((0, 0, 0), -1, 0, 0, None)]
    rows = range(int(moves.row[pair]), int(moves.row[pair + 1]))
    for word, row in enumerate(rows):
        new: list[tuple] = []
        choices = range(int(moves.first[row]), int(moves.first[row + 1]))
        for state in sorted(beam, key=lambda s: s[0])[:BEAM]:
            (loss, chunks, distance), end, free, used, chosen = state
            if free > word:
                new.append(state)
                continue
            for k in choices:
                mask = ((1 << length[k]) - 1) << start[k]
                if used & mask:
                    continue
                if moves.is_fixed[row]:
                    distance += int(moves.distance[k])
                key = (loss - int(moves.gain[k]), chunks + (0 <= end != start[k]), distance)
                free = word + int(matches.length[k])
                new.append((key, start[k] + length[k], free, used | mask, (k, chosen)))
                if not moves.is_fixed[row]:
                    distance += int(moves.distance[k])
            if not moves.is_fixed[row]:
                new.append(((loss, chunks + (end >= 0), distance), -1, word + 1, used, chosen))
        beam = new
    beam = sorted(beam, key=lambda s: s[0])[:BEAM]
    closed = [((s[0][0], s[0][1] + (s[1] >= 0), s[0][2]), s[4]) for s in beam]
    key, chosen = min(closed, key=lambda s: s[0])
    found = []
    while chosen is not None:
        k, chosen = chosen
        found.append(k)
    return found, key[1]
