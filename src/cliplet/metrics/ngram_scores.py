"""BLEU, ROUGE-L and CIDEr-D of the same captions, counting their n-grams once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.metrics.bleu import BleuScore, BleuStatistics
from cliplet.metrics.cider import CiderScore, DocumentFrequencies, cider_of_block, cider_score
from cliplet.metrics.ngrams import BLOCK_IMAGES, Caption, blocks, check_captions
from cliplet.metrics.rouge import RougeScore, rouge_l_unchecked


@dataclass(frozen=True)
class NgramScores:
    """The scores of a set of candidates."""

    bleu: BleuScore
    rouge_l: RougeScore
    cider_d: CiderScore


def ngram_scores(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    document_frequencies: DocumentFrequencies | None = None,
) -> NgramScores:
    """BLEU-1..4, ROUGE-L and CIDEr-D of tokenised candidates, each against the references of its image.

    The same numbers as from `bleu`, `rouge_l` and `cider`, in less time. ``candidates[i]`` is a list of words,
    ``references[i]`` a list of such lists (at least one). Raises `InputError` as they do.
    """
    check_captions(candidates, references)
    if document_frequencies is None and len(candidates) > BLOCK_IMAGES:
        document_frequencies = DocumentFrequencies.from_references(references)
    statistics, cider_parts = [], []
    for block in blocks(candidates, references):
        statistics.append(BleuStatistics.of(block))
        cider_parts.append(cider_of_block(block, document_frequencies))
    return NgramScores(
        bleu=BleuStatistics.join(statistics).score(),
        rouge_l=rouge_l_unchecked(candidates, references),
        cider_d=cider_score(np.concatenate(cider_parts), len(candidates), document_frequencies),
    )
