"""ROUGE-L of captions: the longest common subsequence of candidate and reference (Lin, ACL workshop 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.ngrams import Block, Caption, Floats, Ints, check_captions

BETA = 1.2  # recall counts beta squared = 1.44 times as much as precision
_PLACES = 64  # words of a candidate that fit into an integer
_TOGETHER = 64  # images whose words' places are in memory at once
_Bits = NDArray[np.uint64]


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
    per_caption = np.array(
        [_score(caption, group) for caption, group in zip(candidates, references, strict=True)]
    )
    return RougeScore(float(per_caption.mean()), per_caption)


def count(block: Block, corpus: Corpus) -> Floats:
    """ROUGE-L of a block of images, NaN where :func:`columns` must look at the words themselves."""
    lengths, many = block.candidate_lengths, block.reference_lengths
    first = np.cumsum(block.references_of_image) - block.references_of_image
    cut = int(lengths.sum())
    match = _common(_places(block, block.flat[:cut], block.flat[cut:]), many)  # [references]
    known = (lengths > 0) & (lengths <= _PLACES) & (np.minimum.reduceat(many, first) > 0)
    known[block.split] = False  # several words for the other metrics, one for ROUGE
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.maximum.reduceat(match, first) / lengths
        recall = np.maximum.reduceat(match / many, first)
        score = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    score[(precision == 0) | (recall == 0)] = 0.0
    return np.where(known, score, np.nan)


def columns(corpus: Corpus) -> ReferenceScores:
    """ROUGE-L for the table of metrics."""
    found = ReferenceScores()
    scores = np.concatenate(corpus.parts)
    for i in np.flatnonzero(np.isnan(scores)).tolist():
        scores[i] = _score(corpus.words[i], corpus.reference_words[i])
    found.add("ROUGE-L", scores)
    return found


def _places(block: Block, candidates: Ints, references: Ints) -> _Bits:
    """[words of all references]: bits of the places where the image's candidate has the word."""
    lengths, images, width = block.candidate_lengths, block.images, len(block.words)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(candidates)) - np.repeat(starts, lengths)
    bits = np.where(place < _PLACES, np.uint64(1) << (place % _PLACES).astype(np.uint64), np.uint64(0))
    image = np.repeat(np.arange(images), lengths)
    of_reference = np.repeat(block.image_of_reference, block.reference_lengths)
    table = np.zeros(_TOGETHER * width, np.uint64)  # [image, word]
    found = np.zeros(len(references), np.uint64)
    firsts = np.arange(0, images + _TOGETHER, _TOGETHER)
    bounds = [np.searchsorted(whose, firsts).tolist() for whose in (image, of_reference)]
    for i, start in enumerate(range(0, images, _TOGETHER)):
        own, asked = (slice(bound[i], bound[i + 1]) for bound in bounds)
        cells = (image[own] - start) * width + candidates[own]
        np.add.at(table, cells, bits[own])  # no two places of a candidate share a bit
        found[asked] = table[(of_reference[asked] - start) * width + references[asked]]
        table[cells] = 0
    return found


def _common(places: _Bits, lengths: Ints) -> Ints:
    """[references]: length of the longest common subsequence with the candidate, from the places of each word.

    Bit-parallel (Hyyro 2004) for all references at once: a zero bit in ``row`` is a step of the common subsequence.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    longer = np.searchsorted(
        -lengths[order], -np.arange(int(lengths.max(initial=0)))
    )  # [t] with more than t words
    row = np.full(len(lengths), ~np.uint64(0))
    for t, n in enumerate(longer):
        here = row[:n]
        hit = here & places[starts[:n] + t]
        row[:n] = (here + hit) | (here - hit)
    steps = np.unpackbits((~row).view(np.uint8)).reshape(len(lengths), -1).sum(axis=1, dtype=np.int64)
    found = np.empty(len(lengths), np.int64)
    found[order] = steps
    return found


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
        row = everywhere  # as in _common
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
