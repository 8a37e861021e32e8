"""BLEU-1..4 of captions: how much of a candidate's n-grams some reference has (Papineni et al., ACL 2002)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.ngrams import MAX_ORDER, Block, Caption, Floats, Ints, blocks, check_captions, find
from cliplet.statistics.corpus import CorpusStatistic

# The reference code's smoothing: zero counts give a tiny score instead of an error.
_SMALL = 1e-9
_TINY = 1e-15


@dataclass(frozen=True)
class BleuStatistics:
    """What BLEU needs to know of each candidate; the corpus value comes from its sums."""

    correct: Ints
    """[captions, 4]: n-grams that a reference has, clipped, for n = 1..4."""
    length: Ints
    """[captions]: words."""
    reference_length: Ints
    """[captions]: words of the reference closest in length, the shorter of two equally close ones."""

    @classmethod
    def of(cls, block: Block) -> "BleuStatistics":
        """Count the matches of a block of images."""
        correct = np.zeros((block.images, MAX_ORDER), np.int64)
        for n, (candidate, reference) in enumerate(zip(block.candidates, block.references, strict=True)):
            at, found = find(reference.keys, candidate.caption * reference.width + candidate.gram)
            if len(reference.keys):
                most = np.maximum.reduceat(
                    reference.count, reference.starts[:-1]
                )  # [keys] over the references
                matched = np.minimum(candidate.count, most[at]) * found  # [rows]
                correct[:, n] = np.bincount(candidate.caption, weights=matched, minlength=block.images)
        return cls(correct, block.candidate_lengths, _closest(block))

    @classmethod
    def join(cls, parts: Sequence["BleuStatistics"]) -> "BleuStatistics":
        """Those of all candidates of the parts."""
        return cls(
            np.concatenate([part.correct for part in parts]),
            np.concatenate([part.length for part in parts]),
            np.concatenate([part.reference_length for part in parts]),
        )

    def addends(self) -> Floats:
        """[captions, 10]: correct and possible n-grams (four each), length, reference length, for `bleu_of_sums`."""
        possible = np.maximum(self.length[:, None] - np.arange(MAX_ORDER), 0)
        columns = (self.correct, possible, self.length[:, None], self.reference_length[:, None])
        return np.concatenate(columns, axis=1).astype(np.float64)

    def score(self) -> "BleuScore":
        """BLEU of these candidates."""
        addends = self.addends()
        one, two, three, four = bleu_of_sums(addends.sum(axis=0)).tolist()
        return BleuScore((one, two, three, four), bleu_of_sums(addends).T, self)


@dataclass(frozen=True)
class BleuScore:
    """BLEU-1 to BLEU-4, in [0, 1]."""

    corpus: tuple[float, float, float, float]
    """From the counts of all captions together; not the mean of the captions' scores."""
    per_caption: Floats
    """[4, captions]: row n - 1 is BLEU-n of every candidate alone."""
    statistics: BleuStatistics
    """The counts, to recompute the corpus value on a part or a resample of the captions."""


def bleu(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> BleuScore:
    """BLEU-1..4 of tokenised candidates, each against the references of its image.

    ``candidates[i]`` is a list of words, ``references[i]`` a list of such lists (at least one). The brevity penalty
    uses the reference length closest to the candidate's, the shorter one of two that are equally close.
    BLEU-4 of a single short caption is usually 0 (about 1e-8 here): read the corpus value.

    Reference implementation: pycocoevalcap 1.2 ``Bleu(4)``, smoothing constants kept; no known deviations.
    Raises `InputError` if the numbers of candidates and images differ or an image has no reference.
    """
    check_captions(candidates, references)
    return BleuStatistics.join([BleuStatistics.of(block) for block in blocks(candidates, references)]).score()


def bleu_of_sums(sums: Floats) -> Floats:
    """BLEU-1..4 [..., 4] from sums [..., 10] of `BleuStatistics.addends` over some captions."""
    correct, possible = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    length, reference_length = sums[..., -2:-1], sums[..., -1:]
    precision = (correct + _TINY) / (possible + _SMALL)
    score = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, MAX_ORDER + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    result: Floats = score * np.exp(np.minimum(1 - 1 / ratio, 0))
    return result


def count(block: Block, corpus: Corpus) -> BleuStatistics:
    """What BLEU takes from a block of images."""
    return BleuStatistics.of(block)


def columns(corpus: Corpus) -> ReferenceScores:
    """BLEU-1 to BLEU-4 for the table of metrics."""
    found = ReferenceScores()
    score = BleuStatistics.join(corpus.parts).score()
    addends = score.statistics.addends()
    for n in range(MAX_ORDER):
        statistic = CorpusStatistic(addends, partial(_bleu_n, n))
        found.add(f"BLEU-{n + 1}", score.per_caption[n], statistic)
    return found


def _bleu_n(n: int, sums: Floats) -> Floats:
    return bleu_of_sums(sums)[..., n]


def _closest(block: Block) -> Ints:
    """For each candidate the reference length closest to its own; the shorter of two equally close ones."""
    distance = np.abs(block.reference_lengths - block.candidate_lengths[block.image_of_reference])
    order = np.lexsort((block.reference_lengths, distance, block.image_of_reference))
    first = np.cumsum(block.references_of_image) - block.references_of_image
    return block.reference_lengths[order[first]]
