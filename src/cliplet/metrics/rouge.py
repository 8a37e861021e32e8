"""ROUGE-L of captions: the longest common subsequence of candidate and reference (Lin, ACL workshop 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.ngrams import Caption, Floats, check_captions

BETA = 1.2  # recall counts beta squared = 1.44 times as much as precision


@dataclass(frozen=True)
class RougeScore:
    """ROUGE-L, in [0, 1]."""

    corpus: float
    """Mean over the captions."""
    per_caption: Floats
    """[captions]"""


def rouge_l(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> RougeScore:
    """ROUGE-L of tokenised candidates, each against the references of its image.

    ``candidates[i]`` is a list of words, ``references[i]`` a list of such lists (at least one). Precision and recall
    are each the best over the references, so they may come from different ones.

    Reference implementation: pycocoevalcap 1.2 ``Rouge()``. Its quirk is kept: a caption without words counts as one
    empty word, so two empty captions match perfectly. No known deviations.
    Raises `InputError` if the numbers of candidates and images differ or an image has no reference.
    """
    check_captions(candidates, references)
    per_caption = _scores(candidates, references)
    return RougeScore(float(per_caption.mean()), per_caption)


def columns(corpus: Corpus) -> ReferenceScores:
    """ROUGE-L for the table of metrics."""
    found = ReferenceScores()
    found.add("ROUGE-L", _scores(corpus.words, corpus.reference_words))
    return found


def _scores(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> Floats:
    return np.array([_score(caption, group) for caption, group in zip(candidates, references, strict=True)])


_NO_WORDS = ("",)


def _score(candidate: Caption, references: Sequence[Caption]) -> float:
    candidate = candidate or _NO_WORDS
    places: dict[str, int] = {}  # word -> bits of the places where the candidate has it
    bit = 1
    for word in candidate:
        places[word] = places.get(word, 0) | bit
        bit <<= 1
    places_of, everywhere = places.get, bit - 1
    best_match, best_recall = 0, 0.0
    for reference in references:
        # Bit-parallel LCS (Hyyro 2004): a zero bit in `row` is a step of the common subsequence.
        row = everywhere
        for bits in map(places_of, reference or _NO_WORDS):
            if bits:
                hit = row & bits
                row = (row + hit) | (row - hit)
        match = len(candidate) - (row & everywhere).bit_count()
        best_match = max(best_match, match)
        best_recall = max(best_recall, match / (len(reference) or 1))
    precision = best_match / len(candidate)
    if precision == 0 or best_recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * best_recall / (best_recall + BETA**2 * precision)
