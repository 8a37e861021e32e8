"""Every metric that compares a caption with reference captions, by name, from one tokenisation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError
from cliplet.metrics.bleu import bleu_of_sums
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.meteor import Meteor, check_meteor
from cliplet.metrics.ngram_scores import NgramScores, ngram_scores
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.statistics.corpus import CorpusStatistic

Floats = NDArray[np.float64]

CHOICES = ("bleu", "rouge", "cider", "meteor", "spice")
"""What can be chosen; ``spice`` needs Java and is never chosen by default."""
DEFAULT = CHOICES[:4]


@dataclass(frozen=True)
class ReferenceScores:
    """Scores of n captions by several metrics."""

    per_caption: dict[str, Floats] = field(default_factory=dict)
    """Metric name to float64 ``[n]``."""
    statistics: dict[str, CorpusStatistic] = field(default_factory=dict)
    """Metric name to what its corpus value is computed from, as the reference implementations aggregate it."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know."""


def check_reference_metrics(metrics: Iterable[str]) -> list[str]:
    """What the chosen metrics need and this machine lacks, before any other work; unknown names raise InputError."""
    chosen = list(metrics)
    unknown = [name for name in chosen if name not in CHOICES]
    if unknown:
        raise InputError(f"no metric {', '.join(map(repr, unknown))}: choose from {', '.join(CHOICES)}")
    if "spice" not in chosen:
        return []
    from cliplet.metrics.spice import check_spice

    return check_spice()


def reference_scores(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    images: Sequence[str],
    metrics: Iterable[str] = DEFAULT,
    document_frequencies: DocumentFrequencies | None = None,
) -> ReferenceScores:
    """Score captions against references.

    Args:
        captions: n captions; an empty one scores as the reference implementations score it.
        references: for each, at least one reference.
        images: for each, its image's name. CIDEr's document frequencies count each image once.
        metrics: from ``CHOICES``.
        document_frequencies: for CIDEr-D; default: from these references.

    Raises:
        InputError: an unknown metric, or SPICE without what it needs.
    """
    chosen = set(metrics)
    missing = check_reference_metrics(chosen)
    if missing:
        raise InputError("SPICE cannot run here: " + "; ".join(missing))
    result = ReferenceScores()
    if not captions or not chosen:
        return result
    candidate_words = tokenize_many(captions)
    reference_words = _tokenize_groups(references)
    if chosen & {"bleu", "rouge", "cider"}:
        frequencies = document_frequencies or _frequencies_by_image(reference_words, images)
        _add_ngram_scores(result, ngram_scores(candidate_words, reference_words, frequencies), chosen)
    if "meteor" in chosen:
        scorer = Meteor(exact_stem=bool(check_meteor()))
        scored = scorer(candidate_words, reference_words)
        result.per_caption[scorer.name], result.statistics[scorer.name] = scored.per_caption, scored.statistic
        result.notes.extend(f"{scorer.name} instead of METEOR: missing {what}" for what in check_meteor())
    if "spice" in chosen:
        from cliplet.metrics.spice import spice

        per_caption = spice(captions, references).per_caption
        result.per_caption["SPICE"], result.statistics["SPICE"] = (
            per_caption,
            CorpusStatistic.mean(per_caption),
        )
    return result


def _tokenize_groups(references: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    words = iter(tokenize_many([caption for group in references for caption in group]))
    return [[next(words) for _ in group] for group in references]


def _frequencies_by_image(
    references: Sequence[Sequence[Sequence[str]]], images: Sequence[str]
) -> DocumentFrequencies | None:
    """Document frequencies over distinct images; None when each image has one caption (the corpus itself serves)."""
    first = {image: i for i, image in reversed(list(enumerate(images)))}
    if len(first) == len(images):
        return None
    return DocumentFrequencies.from_references([references[i] for i in sorted(first.values())])


def _add_ngram_scores(result: ReferenceScores, scores: NgramScores, chosen: set[str]) -> None:
    if "bleu" in chosen:
        addends = scores.bleu.statistics.addends()
        for n in range(4):
            result.per_caption[f"BLEU-{n + 1}"] = scores.bleu.per_caption[n]
            result.statistics[f"BLEU-{n + 1}"] = CorpusStatistic(addends, partial(_bleu_n, n))
    means = {
        "rouge": ("ROUGE-L", scores.rouge_l.per_caption),
        "cider": ("CIDEr-D", scores.cider_d.per_caption),
    }
    for metric, (name, values) in means.items():
        if metric in chosen:
            result.per_caption[name], result.statistics[name] = values, CorpusStatistic.mean(values)
    if "cider" in chosen and scores.cider_d.caveat:
        result.notes.append(scores.cider_d.caveat)


def _bleu_n(n: int, sums: Floats) -> Floats:
    return bleu_of_sums(sums)[..., n]
