"""The table of metrics that compare captions with references, and one way to compute any of them.

``score``, ``compare``, ``evaluate``, rewards, ``models doctor`` and ``--help`` read it. To add a metric takes its file,
with a function that computes its columns, and a row here. A user's own is named as ``module:attribute``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

from cliplet.data.plugins import known_or_own, table
from cliplet.errors import InputError
from cliplet.metrics import bleu, cider, meteor, rouge, spice, spider
from cliplet.metrics._document_frequencies import DocumentFrequencies
from cliplet.metrics.base import Corpus, ReferenceMetric, ReferenceScores, check_distinct
from cliplet.metrics.clipscore import MODEL_SCORES
from cliplet.metrics.ngrams import BLOCK_IMAGES, Caption, blocks, check_captions
from cliplet.metrics.numbered import GroupedCaptions
from cliplet.metrics.tokenizer.numbers import number_many
from cliplet.metrics.tokenizer.ptb import PUNCTUATION, check_tokenizer

__all__ = [
    "METRICS",
    "Corpus",
    "ReferenceMetric",
    "ReferenceScores",
    "find_metrics",
    "reference_scores",
    "row_fields",
    "word_scores",
]

METRICS: dict[str, ReferenceMetric] = table(
    (
        ReferenceMetric(
            "bleu", ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), ("bleu_1", "bleu_2", "bleu_3", "bleu_4"),
            bleu.columns, count=bleu.count, judged=("BLEU-1", "BLEU-4"),
        ),
        ReferenceMetric("rouge", ("ROUGE-L",), ("rouge_l",), rouge.columns, count=rouge.count),
        ReferenceMetric("cider", ("CIDEr-D",), ("cider_d",), cider.columns, count=cider.count),
        ReferenceMetric(
            "meteor", ("METEOR", "METEOR-exact-stem"), ("meteor", "meteor_exact_stem"),
            meteor.columns, needs=meteor.look, substitute=True,
        ),
        ReferenceMetric("spice", ("SPICE",), ("spice",), spice.columns, needs=spice.look, default=False),
        ReferenceMetric(
            "spider", ("SPIDEr",), ("spider",),
            spider.columns, count=cider.count, needs=spice.look, default=False,
        ),
    ),
    "metric",
)  # fmt: skip
"""Name to metric, in the order of results: each with its columns, their fields in rows, and what computes them."""
check_distinct(list(METRICS.values()), MODEL_SCORES)

MetricNames = Iterable[str | ReferenceMetric] | None
"""Metrics by name, as ``module:attribute``, or as they are; None: the default ones."""


def find_metrics(names: MetricNames = None) -> list[ReferenceMetric]:
    """The chosen metrics, each able to run here: those of the table in its order, then the user's own.

    Args:
        names: names of the table; ``module:attribute`` of a :class:`ReferenceMetric` or of a function from n captions
            and the references of each to n numbers; or ReferenceMetrics. None: the table's default.

    Raises:
        InputError: an unknown name, an attribute that is no metric, two of one name, or something that a metric needs
            and this machine lacks.
    """
    if names is None:
        names = [metric.name for metric in METRICS.values() if metric.default]
    found = [_find(name) for name in names]
    own = [metric for metric in found if METRICS.get(metric.name) is not metric]
    chosen = [metric for metric in METRICS.values() if metric in found] + own
    check_distinct([*METRICS.values(), *own], MODEL_SCORES)
    for metric in chosen:
        missing = metric.needs()[1] if metric.needs is not None and not metric.substitute else []
        if missing:
            raise InputError(f"{metric.columns[0]} cannot run here: {'; '.join(missing)}")
    return chosen


def _find(name: str | ReferenceMetric) -> ReferenceMetric:
    if isinstance(name, ReferenceMetric):
        return name
    found: Any = known_or_own(name.lower() if name.lower() in METRICS else name, METRICS, "metric")
    if isinstance(found, ReferenceMetric):
        return found
    if not callable(found):
        raise InputError(
            f"metric {name!r} is of type {type(found).__name__}: it must be a ReferenceMetric, or a function of "
            "captions and their references"
        )
    return ReferenceMetric.of_function(name, found)


def row_fields(metrics: Iterable[ReferenceMetric]) -> dict[str, str]:
    """Each column's field in rows."""
    return {column: name for m in metrics for column, name in zip(m.columns, m.fields, strict=True)}


def reference_scores(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    images: Sequence[str] | None,
    metrics: MetricNames = None,
    document_frequencies: DocumentFrequencies | None = None,
    joined: bool = True,
    tokenizer: str = "ptb",
) -> ReferenceScores:
    """Score captions against references by any metrics, from one tokenisation and one count of their n-grams.

    Args:
        captions: n captions; an empty one scores as the reference implementations score it.
        references: for each, at least one reference.
        images: for each, its image's name: CIDEr's document frequencies count each image once. None: every row counts
            as a document of its own, as in the field's correlations with human judgements.
        metrics: as :func:`find_metrics`.
        document_frequencies: for CIDEr-D; default: from these references.
        joined: tokenise captions as the lines of one file, as pycocoevalcap does, or each on its own.
        tokenizer: ``ptb``, the words that captioning metrics are defined on, or ``ptb-punctuation``, these with
            punctuation; a note then says so.

    Raises:
        InputError: an unknown metric or tokeniser, one that cannot run here, or a caption without references.
    """
    chosen = find_metrics(metrics)
    check_tokenizer(tokenizer)
    if not captions or not chosen:
        return ReferenceScores()
    words = number_many(captions, joined=joined, tokenizer=tokenizer)
    flat = number_many(chain.from_iterable(references), joined=joined, tokenizer=tokenizer)
    reference_words = GroupedCaptions(flat, map(len, references))
    frequencies = cache(partial(_frequencies, reference_words, images, document_frequencies))
    corpus = Corpus(
        captions, references, words, reference_words, frequencies, images is not None, tokenizer=tokenizer
    )
    found = _compute(corpus, chosen)
    found.notes.extend(_token_notes(found, tokenizer, document_frequencies))
    return found


def _token_notes(
    found: ReferenceScores, tokenizer: str, frequencies: DocumentFrequencies | None
) -> list[str]:
    """Which columns are of other tokens than usual, and document frequencies that are of other tokens."""
    notes = []
    usual, columns = tokenizer == "ptb", row_fields(METRICS.values())
    if not usual and (names := [name for name in found.per_caption if name in columns]):
        notes.append(
            f"{', '.join(names)}: punctuation counts as words ({tokenizer}), unlike in most published values"
        )
    if frequencies is not None and "CIDEr-D" in found.per_caption:
        without = PUNCTUATION.isdisjoint(frequencies.index.words)
        if usual != without:
            notes.append(
                f"the document frequencies were counted {'without' if without else 'with'} punctuation, the captions "
                f"{'without' if usual else 'with'} it: cliplet df --tokenizer {tokenizer} makes them anew"
            )
    return notes


def word_scores(
    words: Sequence[Caption],
    reference_words: Sequence[Sequence[Caption]],
    metrics: MetricNames = None,
    document_frequencies: DocumentFrequencies | None = None,
) -> ReferenceScores:
    """As :func:`reference_scores`, of captions given as lists of words, one an image."""
    frequencies = cache(partial(_frequencies, reference_words, None, document_frequencies))
    corpus = Corpus(words, reference_words, words, reference_words, frequencies)
    return _compute(corpus, find_metrics(metrics))


def _compute(corpus: Corpus, metrics: Sequence[ReferenceMetric]) -> ReferenceScores:
    """All metrics, those that count n-grams in one pass over blocks of images."""
    check_captions(corpus.words, corpus.reference_words)
    counters = {metric.name: metric.count for metric in metrics if metric.count is not None}
    parts: dict[str, list[Any]] = {name: [] for name in counters}
    if counters:
        for block in blocks(corpus.words, corpus.reference_words):
            for name, count in counters.items():
                parts[name].append(count(block, corpus))
    result = ReferenceScores()
    for metric in metrics:
        found = metric.compute(replace(corpus, parts=parts.get(metric.name, ())))
        metric.checked(found, len(corpus.words))
        result.per_caption.update(found.per_caption)
        result.statistics.update(found.statistics)
        result.notes.extend(found.notes)
    return result


def _frequencies(
    references: Sequence[Sequence[Caption]],
    images: Sequence[str] | None,
    given: DocumentFrequencies | None,
) -> DocumentFrequencies | None:
    """Those given, else over distinct images; None where each row is a document and all are counted together."""
    if given is not None:
        return given
    first = {image: i for i, image in reversed(list(enumerate(images or ())))}
    if len(first) < len(images or ()):
        return DocumentFrequencies.from_references([references[i] for i in sorted(first.values())])
    return DocumentFrequencies.from_references(references) if len(references) > BLOCK_IMAGES else None
