"""What a metric that compares captions with references is: what it is given, what it gives, its row in the table."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cliplet.data.plugins import own_name
from cliplet.errors import InputError
from cliplet.metrics._document_frequencies import DocumentFrequencies
from cliplet.metrics.ngrams import Block, Caption, Floats
from cliplet.statistics.corpus import CorpusStatistic

_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_ROW = ("image", "caption", "truncated", "reason", "where")
"""Fields of a row of results that are no scores."""


@dataclass(frozen=True)
class Corpus:
    """n captions with the references of their images, tokenised once for all metrics."""

    captions: Sequence[str | Caption]
    """[n] texts; lists of words where only these are known."""
    references: Sequence[Sequence[str | Caption]]
    """[n] of each, one text or more."""
    words: Sequence[Caption]
    """[n] the captions' words, PTB tokens."""
    reference_words: Sequence[Sequence[Caption]]
    """[n] the references' words."""
    frequencies: Callable[[], DocumentFrequencies | None]
    """Document frequencies for weighing n-grams, counted at the first call; None: those of these references."""
    by_image: bool = True
    """Whether these count each image once; if not, each row is a document of its own."""
    parts: Sequence[Any] = ()
    """What the metric's own ``count`` gave for each block of images."""
    tokenizer: str = "ptb"
    """Which tokens the words are, of :data:`cliplet.metrics.tokenizer.names.TOKENIZERS`."""
    memory: dict[Callable[..., Any], Any] = field(default_factory=dict)
    """What :meth:`once` has computed."""

    def once(self, function: Callable[["Corpus"], Any]) -> Any:
        """What a function makes of this corpus, computed once for all metrics that ask for it."""
        if function not in self.memory:
            self.memory[function] = function(self)
        return self.memory[function]


@dataclass(frozen=True)
class ReferenceScores:
    """Scores of n captions by one metric or several."""

    per_caption: dict[str, Floats] = field(default_factory=dict)
    """Column to float64 ``[n]``; NaN where a caption has no score."""
    statistics: dict[str, CorpusStatistic] = field(default_factory=dict)
    """Column to what its corpus value is computed from, as the reference implementations aggregate it."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know."""

    def add(self, column: str, per_caption: ArrayLike, statistic: CorpusStatistic | None = None) -> None:
        """Add a column; without a statistic its corpus value is the mean. Raises InputError if these are no numbers."""
        try:
            values = np.asarray(per_caption, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"the scores {column!r} are no numbers ({error})") from None
        if values.ndim != 1:
            raise InputError(
                f"the scores {column!r} have the shape {values.shape}: give one number a caption"
            )
        self.per_caption[column] = values
        self.statistics[column] = statistic or CorpusStatistic.mean(values)


@dataclass(frozen=True)
class ReferenceMetric:
    """A metric that compares captions with references: its row in the table of cliplet.metrics.registry.

    Raises:
        InputError: something is missing or does not fit together.
    """

    name: str
    """As given on the command line."""
    columns: tuple[str, ...]
    """What its scores are called in tables and reports; one of them, or all, come out of ``compute``."""
    fields: tuple[str, ...]
    """For each column its field in rows (JSON, CSV): small letters, digits and underscores."""
    compute: Callable[[Corpus], ReferenceScores]
    """From captions to one or more of the columns."""
    count: Callable[[Block, Corpus], Any] | None = None
    """For metrics of n-grams: what it takes from each block of images, whose n-grams are counted once for all metrics;
    ``compute`` finds the results in ``corpus.parts``."""
    needs: Callable[[], tuple[str, list[str]]] | None = None
    """Looks for what it needs beyond the captions: what is here, and what is not, each with what to do."""
    substitute: bool = False
    """Whether it computes another column where something is missing; else it cannot run there."""
    default: bool = True
    """Whether it is computed when no metrics are named."""
    judged: tuple[str, ...] = ()
    """The columns that are compared with human judgements, as the literature does; all when left out."""

    def __post_init__(self) -> None:
        who = f"metric {self.name!r}"
        if not self.columns or isinstance(self.columns, str) or isinstance(self.fields, str):
            raise InputError(f"{who}: give its columns and its fields as tuples of one or more names")
        if len(self.fields) != len(self.columns):
            raise InputError(
                f"{who}: {len(self.columns)} columns but {len(self.fields)} fields: one is needed for each"
            )
        for name in self.fields:
            if not _FIELD.fullmatch(name):
                raise InputError(
                    f"{who}: a field may have small letters, digits and underscores, unlike {name!r}"
                )
        if unknown := set(self.judged) - set(self.columns):
            raise InputError(f"{who}: judged columns that it has not: {', '.join(sorted(unknown))}")
        if not callable(self.compute):
            raise InputError(f"{who}: compute must be a function of a Corpus")

    @classmethod
    def of_function(
        cls, name: str, function: Callable[[list[str], list[list[str]]], ArrayLike]
    ) -> "ReferenceMetric":
        """A metric from a function of n captions and the references of each to n numbers (NaN: no score).

        Its column is called like the function; the corpus value is the mean.
        """
        column = own_name(name)

        def compute(corpus: Corpus) -> ReferenceScores:
            found = ReferenceScores()
            found.add(
                column, function(_texts(corpus.captions), [_texts(group) for group in corpus.references])
            )
            return found

        return cls(name, (column,), (column.lower().strip("_"),), compute)

    def checked(self, found: ReferenceScores, n: int) -> ReferenceScores:
        """What ``compute`` gave for n captions; raises InputError unless these are n scores a column as declared."""
        who = f"metric {self.name!r} gave"
        if not found.per_caption or not set(found.per_caption) == set(found.statistics) <= set(self.columns):
            given = ", ".join(found.per_caption) or "none"
            raise InputError(f"{who} the columns {given}; it has declared {', '.join(self.columns)}")
        for values in found.per_caption.values():
            if values.shape != (n,):
                raise InputError(f"{who} an array of shape {values.shape} for {n} captions: give {n} numbers")
            if np.isinf(values).any():
                raise InputError(f"{who} an infinite score; give NaN where there is none")
        return found


def check_distinct(metrics: Sequence[ReferenceMetric], taken: dict[str, str]) -> None:
    """Raise InputError if two metrics, or a metric and what else stands in a row, share a name.

    Args:
        metrics: of one table or run.
        taken: column to field of the other scores.
    """
    owners: dict[tuple[str, str], str] = {("field", name): "the row itself" for name in _ROW}
    for column, name in taken.items():
        owners |= {("column", column): "a model's score", ("field", name): "a model's score"}
    for metric in metrics:
        names = [
            ("name", metric.name),
            *(("column", c) for c in metric.columns),
            *(("field", f) for f in metric.fields),
        ]
        for key in names:
            if key in owners:
                raise InputError(
                    f"metric {metric.name!r}: its {key[0]} {key[1]!r} is that of {owners[key]} already; "
                    "give it another (a ReferenceMetric names its columns and fields)"
                )
            owners[key] = f"the metric {metric.name!r}"


def _texts(captions: Sequence[str | Caption]) -> list[str]:
    return [caption if isinstance(caption, str) else " ".join(caption) for caption in captions]
