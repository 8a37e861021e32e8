"""METEOR 1.5 (Denkowski and Lavie 2014, "Meteor Universal") for English, without a Java process.

Reference implementation: the jar that pycocoevalcap ships, called as pycocoevalcap calls it (``-l en -norm``). Scores
agree with it to 1e-9 on all data tried; docs/metrics/meteor.md has the figures and the command that prints them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.meteor.alignment import Alignments, align
from cliplet.metrics.meteor.lexicon import Lexicon, build_lexicon
from cliplet.metrics.meteor.matching import Batch, find_matches
from cliplet.metrics.meteor.normalizer import normalize
from cliplet.metrics.meteor.tables import cache_folder, find_sources, load_tables
from cliplet.metrics.ngrams import Caption, Floats, check_captions
from cliplet.statistics.corpus import CorpusStatistic

ALPHA = 0.85  # weight of recall in the harmonic mean
BETA = 0.2  # exponent of the fragmentation penalty
GAMMA = 0.6  # largest fragmentation penalty
DELTA = 0.75  # weight of content words against function words
STAGE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase

# what is looked at together, which bounds the memory: so many references, and pairs of words to compare
_PAIRS_AT_A_TIME = 2048
_WORD_PAIRS_AT_A_TIME = 1 << 20

# function words for METEOR-exact-stem, which has no tables: articles, prepositions, auxiliaries, conjunctions,
# pronouns and punctuation
_PLAIN_FUNCTION_WORDS = """
a an the and or but if of in on at to by for from with as into over under up down out off about than then so
is are was were be been being am has have had do does did will would can could may might must shall should
i you he she it we they me him her us them my your his its our their this that these those there here who
which what when where how not no 's 't n't , . ! ? ; : ' " ( ) [ ] - --
"""


@dataclass(frozen=True)
class MeteorScore:
    """METEOR, in [0, 1]."""

    corpus: float
    """The score of the counts summed over the captions, which is not the mean of the captions' scores."""
    per_caption: Floats
    """[captions] the score with the best reference."""
    statistic: CorpusStatistic
    """The corpus score as a function of sums over captions, for resampling."""
    name: str
    """``METEOR``, or ``METEOR-exact-stem`` for the score without METEOR's tables."""


@dataclass(frozen=True)
class _Stats:
    """What METEOR computes a score from; float64 arrays over captions, or their sums over a corpus."""

    candidate_words: np.ndarray
    """[n, stages, 2]: matched words of the candidate, content and function."""
    reference_words: np.ndarray
    """[n, stages, 2]."""
    candidate_length: np.ndarray
    """[n, 2]: words of the candidate, content and function."""
    reference_length: np.ndarray
    """[n, 2]."""
    chunks: np.ndarray
    """[n]."""

    def is_perfect(self) -> np.ndarray:
        """Every word matched, in one chunk."""
        whole = self.chunks == 1
        for words, length in (
            (self.candidate_words, self.candidate_length),
            (self.reference_words, self.reference_length),
        ):
            whole &= words.sum(axis=(1, 2)) == length.sum(axis=1)
        return whole

    def score(self) -> np.ndarray:
        """The score of each row, float64 [n]."""
        weights = np.array([DELTA, 1 - DELTA])
        stages = np.array(STAGE_WEIGHTS)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = (
                np.einsum("nsw,s,w->n", words, stages, weights) / (length @ weights)
                for words, length in (
                    (self.candidate_words, self.candidate_length),
                    (self.reference_words, self.reference_length),
                )
            )
            mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
            matched = (self.candidate_words.sum(axis=(1, 2)) + self.reference_words.sum(axis=(1, 2))) / 2
            fragmentation = np.where(self.is_perfect(), 0, self.chunks / matched)
            score = mean * (1 - GAMMA * fragmentation**BETA)
        return np.where(np.isnan(score), 0, np.maximum(score, 0))

    def rows(self, index: np.ndarray) -> "_Stats":
        return _Stats(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def statistic(self) -> CorpusStatistic:
        """The corpus score as a function of sums; a perfect caption adds no chunk."""
        chunks = np.where(self.is_perfect(), 0, self.chunks)
        parts = (
            self.candidate_words,
            self.reference_words,
            self.candidate_length,
            self.reference_length,
            chunks,
        )
        return CorpusStatistic(np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1), _score_of_sums)

    @classmethod
    def join(cls, parts: "Sequence[_Stats]") -> "_Stats":
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))


def _score_of_sums(sums: Floats) -> Floats:
    """METEOR from sums [..., k] of the counts of ``_Stats``, in its order."""
    stages = len(STAGE_WEIGHTS)
    flat = sums.reshape(-1, sums.shape[-1])  # [m, k]
    candidate, reference, lengths, chunks = np.split(flat, [2 * stages, 4 * stages, 4 * stages + 4], axis=1)
    totals = _Stats(
        candidate.reshape(-1, stages, 2),
        reference.reshape(-1, stages, 2),
        lengths[:, :2],
        lengths[:, 2:],
        chunks[:, 0],
    )
    return totals.score().reshape(sums.shape[:-1])


class Meteor:
    """METEOR with its tables loaded, for any number of calls from any number of threads.

    Args:
        exact_stem: leave out synonyms and paraphrases, so that no tables are needed. The result is another score,
            with its own short list of function words too, and the ``name`` says so: ``METEOR-exact-stem``. It is
            the same score whether or not the tables are installed.

    Raises:
        MissingExtraError: METEOR's tables are not installed, and not renounced.

    Example:
        >>> scorer = Meteor(exact_stem=True)
        >>> result = scorer(["a dog runs".split()], [["the dog is running".split()]])
        >>> scorer.name, round(result.corpus, 4)
        ('METEOR-exact-stem', 0.2446)
    """

    def __init__(self, exact_stem: bool = False) -> None:
        self.name = "METEOR-exact-stem" if exact_stem else "METEOR"
        self.tables = None if exact_stem else load_tables()
        self._function_words = (
            frozenset(_PLAIN_FUNCTION_WORDS.split()) if self.tables is None else self.tables.function_words
        )
        self._abbreviations = {} if self.tables is None else self.tables.abbreviations

    def __call__(self, candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> MeteorScore:
        """Score captions.

        Args:
            candidates: n captions as PTB tokens (``cliplet.metrics.tokenizer.ptb.tokenize``).
            references: for each of them its references, one or more, as PTB tokens.

        Raises:
            InputError: the numbers of candidates and lists of references differ, or a candidate has no reference.
        """
        check_captions(candidates, references)
        chosen, scores = [], []
        for start, stop in _batches(candidates, references):
            stats, score = self._score_batch(candidates[start:stop], references[start:stop])
            chosen.append(stats)
            scores.append(score)
        statistic = _Stats.join(chosen).statistic()
        return MeteorScore(statistic.corpus(), np.concatenate(scores), statistic, self.name)

    def _score_batch(
        self, candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]
    ) -> tuple[_Stats, np.ndarray]:
        """The counts with the best reference and the score, of each candidate."""
        captions = [normalize(_without_bars(candidate), self._abbreviations) for candidate in candidates]
        image = []
        for k, group in enumerate(references):
            for reference in chain.from_iterable(map(_split_at_bars, group)):
                captions.append(normalize(reference, self._abbreviations))
                image.append(k)
        lexicon = build_lexicon(captions, self._function_words, self.tables)
        batch = _as_batch(captions, np.array(image), lexicon)
        is_function = lexicon.is_function[batch.words]
        matches = find_matches(batch, lexicon, self.tables)
        stats = _stats_of(batch, align(batch, matches, is_function), is_function)
        score = stats.score()
        # the first of the best references
        order = np.lexsort((-score, batch.candidate))
        best = order[np.searchsorted(batch.candidate[order], np.arange(len(candidates)))]
        return stats.rows(best), score[best]


def meteor(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    scorer: Meteor | None = None,
) -> MeteorScore:
    """METEOR 1.5 of captions given as PTB tokens; see ``Meteor`` for arguments, result and errors.

    Range 0 to 1. Known deviations from the reference implementation: none on the data of docs/metrics/meteor.md.

    Raises:
        MissingExtraError: METEOR's tables are not installed and no ``scorer`` is given.
    """
    return (scorer or Meteor())(candidates, references)


def check_meteor() -> list[str]:
    """What METEOR needs and this machine lacks, each with what to do; empty when it can run."""
    if find_sources():
        return []
    return ["METEOR's tables, which come with pycocoevalcap: pip install 'cliplet[meteor]'"]


def look() -> tuple[str, list[str]]:
    """What METEOR has here, and what it lacks."""
    sources = find_sources()
    if sources is None:
        return "", check_meteor()
    cache = cache_folder(*sources)
    state = "ready in" if cache.is_dir() else "will be made at the first use, in"
    return f"version 1.5, tables {state} {cache}", []


def columns(corpus: Corpus) -> ReferenceScores:
    """METEOR for the table of metrics; METEOR-exact-stem, with a note, where its tables are missing."""
    missing = check_meteor()
    scorer = Meteor(exact_stem=bool(missing))
    found = ReferenceScores(notes=[f"{scorer.name} instead of METEOR: missing {what}" for what in missing])
    scored = scorer(corpus.words, corpus.reference_words)
    found.add(scorer.name, scored.per_caption, scored.statistic)
    return found


def _batches(
    candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> Iterator[tuple[int, int]]:
    """Ranges of captions that are scored together."""
    start = pairs = word_pairs = 0
    for stop, (candidate, group) in enumerate(zip(candidates, references, strict=True), 1):
        pairs += len(group)
        word_pairs += len(candidate) * sum(map(len, group))
        full = pairs >= _PAIRS_AT_A_TIME or word_pairs >= _WORD_PAIRS_AT_A_TIME
        if full or stop == len(references):
            yield start, stop
            start, pairs, word_pairs = stop, 0, 0


def _without_bars(tokens: Sequence[str]) -> Sequence[str]:
    """pycocoevalcap takes ``|||`` out of a candidate, since its messages to METEOR are joined with that."""
    return (
        [token.replace("|||", "") for token in tokens] if any("|||" in token for token in tokens) else tokens
    )


def _split_at_bars(tokens: Sequence[str]) -> Iterable[Sequence[str]]:
    """... but not out of a reference, which therefore counts as several."""
    if any("|||" in token for token in tokens):
        return [part.split(" ") for part in " ".join(tokens).split("|||")]
    return [tokens]


def _as_batch(captions: list[list[str]], image: np.ndarray, lexicon: Lexicon) -> Batch:
    """Captions, first the candidates, then the references of image 0, 1, ..."""
    numbers = lexicon.numbers
    lengths = np.fromiter(map(len, captions), dtype=np.int64, count=len(captions))
    words = np.fromiter((numbers[w] for c in captions for w in c), dtype=np.int64, count=int(lengths.sum()))
    first = len(captions) - len(image)
    return Batch(
        words=words,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        candidate=image,
        reference=np.arange(first, len(captions)),
    )


def _stats_of(batch: Batch, alignments: Alignments, is_function: np.ndarray) -> _Stats:
    before = np.concatenate([[0], np.cumsum(is_function)])
    function = before[batch.starts[1:]] - before[batch.starts[:-1]]
    lengths = np.stack([batch.lengths - function, function], axis=1).astype(np.float64)
    return _Stats(
        candidate_words=alignments.candidate.astype(np.float64),
        reference_words=alignments.reference.astype(np.float64),
        candidate_length=lengths[batch.candidate],
        reference_length=lengths[batch.reference],
        chunks=alignments.chunks.astype(np.float64),
    )
