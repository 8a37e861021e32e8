"""BLEU-1..4 of captions: how much of a candidate's n-grams some reference has (Papineni et al., ACL 2002)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.metrics.ngrams import MAX_ORDER, Block, Caption, Floats, Ints, blocks, check_captions, find

# The reference code's smoothing: zero counts give a tiny score instead of an error.
_SMALL = 1e-9
_TINY = 1e-15


@dataclass(frozen=True)
class BleuScore:
    """BLEU-1 to BLEU-4, in [0, 1]."""

    corpus: tuple[float, float, float, float]
    """From the counts of all captions together; not the mean of the captions' scores."""
    per_caption: Floats
    """[4, captions]: row n - 1 is BLEU-n of every candidate alone."""


def bleu(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> BleuScore:
    """BLEU-1..4 of tokenised candidates, each against the references of its image.

    ``candidates[i]`` is a list of words, ``references[i]`` a list of such lists (at least one). The brevity penalty
    uses the reference length closest to the candidate's, the shorter one of two that are equally close.
    BLEU-4 of a single short caption is usually 0 (about 1e-8 here): read the corpus value.

    Reference implementation: pycocoevalcap 1.2 ``Bleu(4)``, smoothing constants kept; no known deviations.
    Raises `InputError` if the numbers of candidates and images differ or an image has no reference.
    """
    check_captions(candidates, references)
    statistics = [BleuStatistics.of(block) for block in blocks(candidates, references)]
    return BleuStatistics.score(statistics)


@dataclass(frozen=True)
class BleuStatistics:
    """What BLEU needs to know of some candidates."""

    correct: Ints  # [4, candidates] n-grams that a reference has, clipped
    length: Ints  # [candidates]
    reference_length: Ints  # [candidates] the closest one

    @classmethod
    def of(cls, block: Block) -> "BleuStatistics":
        """Count the matches of a block of images."""
        correct = np.zeros((MAX_ORDER, block.images), np.int64)
        for n, (candidate, reference) in enumerate(zip(block.candidates, block.references, strict=True)):
            at, found = find(reference.keys, candidate.caption * reference.width + candidate.gram)
            if len(reference.keys):
                most = np.maximum.reduceat(
                    reference.count, reference.starts[:-1]
                )  # [keys] over the references
                matched = np.minimum(candidate.count, most[at]) * found  # [rows]
                correct[n] = np.bincount(candidate.caption, weights=matched, minlength=block.images)
        return cls(correct, block.candidate_lengths, _closest(block))

    @staticmethod
    def score(parts: Sequence["BleuStatistics"]) -> BleuScore:
        """BLEU of all candidates of the parts."""
        correct = np.concatenate([part.correct for part in parts], axis=1)
        length = np.concatenate([part.length for part in parts])
        reference_length = np.concatenate([part.reference_length for part in parts])
        corpus = _bleu(
            correct.sum(axis=1), length.sum(), _guesses(length).sum(axis=1), reference_length.sum()
        )
        per_caption = _bleu(correct, length, _guesses(length), reference_length)
        one, two, three, four = (float(value) for value in corpus)
        return BleuScore((one, two, three, four), per_caption)


def _closest(block: Block) -> Ints:
    """For each candidate the reference length closest to its own; the shorter of two equally close ones."""
    distance = np.abs(block.reference_lengths - block.candidate_lengths[block.image_of_reference])
    order = np.lexsort((block.reference_lengths, distance, block.image_of_reference))
    first = np.cumsum(block.references_of_image) - block.references_of_image
    return block.reference_lengths[order[first]]


def _guesses(length: Ints) -> Ints:
    """[4, candidates]: how many n-grams captions of these lengths have."""
    return np.maximum(length - np.arange(MAX_ORDER)[:, None], 0)


def _bleu(correct: Ints, length: Ints, guesses: Ints, reference_length: Ints) -> Floats:
    precision = (correct + _TINY) / (guesses + _SMALL)  # [4] or [4, candidates]
    roots = np.array([1 / n for n in range(1, MAX_ORDER + 1)])
    score = np.cumprod(precision, axis=0) ** (roots if precision.ndim == 1 else roots[:, None])
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return score * np.exp(np.minimum(1 - 1 / ratio, 0))
