"""How well do scores agree with people? The protocols of the literature, every choice a field that can be changed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from cliplet.errors import InputError
from cliplet.evaluation.judgements import Preferences, Rated, Ratings
from cliplet.statistics.kendall import Floats
from cliplet.statistics.resampling import (
    STATISTICS,
    Interval,
    PairedTest,
    Statistic,
    TieRule,
    bootstrap_mean,
    bootstrap_samples,
    correlation,
    holm,
    paired_correlation_test,
    paired_mean_test,
    pairwise_wins,
    percentile_interval,
)


@dataclass(frozen=True)
class HumanProtocol:
    """Every choice of an evaluation against human judgements."""

    statistic: Statistic | Literal["accuracy"] = "tau-c"
    """tau-b, tau-c, pearson or spearman for ratings; accuracy for preferences."""
    drop_own: bool = False
    """Leave out rows whose candidate is one of the image's own captions (by number or word for word)."""
    drop_without_references: bool = False
    """Leave out rows for which no reference is left, so that metrics with and without references see the same."""
    raters: Literal["each", "mean", "median"] = "each"
    """One data point a rating (each), or one a row with the raters' mean or median."""
    hide: Literal["candidate", "judged", "none"] = "candidate"
    """References kept from the metrics: those equal to the candidate; all captions judged anywhere for this image
    (as CLIPScore's code does for Flickr8k-CF); or none."""
    references: int = 0
    """At most this many references, the first ones; 0 for all."""
    drawn_references: int = 0
    """Draw this many references at random instead (Pascal-50S: 5 of 48); 0 for no drawing."""
    reference_draws: int = 1
    """How many seeded draws of references to average over."""
    ties: TieRule = "half"
    """Preferences: what an equal score of both captions counts (half, loss, or drop the pair)."""
    resamples: int = 1000
    """Bootstrap resamples, and permutations; images are resampled, not rows."""
    seed: int = 0
    """Random seed of the resamples, the permutations and the references drawn."""

    def __post_init__(self) -> None:
        allowed = {
            "statistic": (*STATISTICS, "accuracy"),
            "raters": ("each", "mean", "median"),
            "hide": ("candidate", "judged", "none"),
            "ties": ("half", "loss", "drop"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name} cannot be {getattr(self, name)!r}; use {', '.join(values)}")
        for name in ("references", "drawn_references", "resamples", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} cannot be negative")
        if self.reference_draws < 1:
            raise InputError("reference_draws must be at least 1")


@dataclass(frozen=True)
class ScoreRequest:
    """Captions to score: parallel lists, one entry a caption."""

    images: list[str]
    """Image names."""
    captions: list[str]
    """Candidate captions."""
    references: list[tuple[str, ...]]
    """References that a metric may see; may be empty."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | np.ndarray) -> "ScoreRequest":
        """Some of the rows."""
        return ScoreRequest(
            [self.images[i] for i in rows],
            [self.captions[i] for i in rows],
            [self.references[i] for i in rows],
        )


Scores = dict[str, Floats]
"""Metric name to one score a caption; NaN where it has none."""
Scorer = Callable[[ScoreRequest], Scores]


@dataclass
class MetricResult:
    """One metric on one benchmark."""

    metric: str
    """Its name."""
    statistic: str
    """What was computed (tau-c, accuracy HC, ...)."""
    interval: Interval
    """The value in its own unit ([-1, 1] or [0, 1]) with its interval."""
    difference: PairedTest | None = None
    """The difference to the baseline metric (None for the baseline itself)."""
    baseline: str = ""
    """The metric it is compared with: the one asked for, else the one with the highest value."""
    adjusted_p: float = float("nan")
    """Holm-corrected p-value of that difference among all metrics."""


@dataclass
class HumanResult:
    """All metrics on one benchmark, and what is needed to draw them."""

    benchmark: str
    """Its name."""
    protocol: HumanProtocol
    """The choices made."""
    metrics: list[MetricResult]
    """One or more entries a metric, in the order the scores were given."""
    notes: Counter[str]
    """Rows left out, and why."""
    request: ScoreRequest
    """The captions that were scored."""
    scores: Scores
    """Their scores."""
    ratings: Floats = field(default_factory=lambda: np.empty(0))
    """Mean rating of each scored caption (ratings only)."""
    varied: frozenset[str] = frozenset()
    """Choices of the protocol that the literature varies on this benchmark; a statistic's name says them."""


def select_rows(data: Ratings, protocol: HumanProtocol) -> tuple[list[Rated], Counter[str]]:
    """The rows that the protocol keeps, with the references that metrics may see."""
    notes: Counter[str] = Counter(data.notes)
    judged: dict[str, set[str]] = {}
    for row in data.rows:
        judged.setdefault(row.image, set()).add(_words(row.caption))
    kept = []
    for row in data.rows:
        if protocol.drop_own and row.own:
            notes["rows dropped: the candidate is one of the image's own captions"] += 1
            continue
        hidden = {"candidate": {_words(row.caption)}, "judged": judged[row.image], "none": set()}[
            protocol.hide
        ]
        references = tuple(r for r in row.references if _words(r) not in hidden)
        if protocol.references:
            references = references[: protocol.references]
        if protocol.drop_without_references and not references:
            notes["rows dropped: no reference is left"] += 1
            continue
        kept.append(replace(row, references=references))
    return kept, notes


def _words(caption: str) -> str:
    return " ".join(caption.split())


def _rating_points(rows: Sequence[Rated], protocol: HumanProtocol) -> tuple[np.ndarray, Floats]:
    """(row of each data point, its rating)."""
    if protocol.raters == "each":
        counts = [len(r.ratings) for r in rows]
        return np.repeat(np.arange(len(rows)), counts), np.array(
            [x for r in rows for x in r.ratings], dtype=float
        )
    middle = np.mean if protocol.raters == "mean" else np.median
    return np.arange(len(rows)), np.array([middle(r.ratings) for r in rows], dtype=float)


def _usable(scores: Scores, n: int, notes: Counter[str]) -> tuple[Scores, np.ndarray]:
    """Metrics that scored anything, and the rows that all of them scored, so that all are compared on the same."""
    kept: Scores = {}
    for name, values in scores.items():
        if len(values) != n:
            raise InputError(f"metric {name}: {len(values)} scores for {n} captions")
        if np.isnan(values).all():
            notes[f"metric {name} left out: it has no score for any row"] += 1
        else:
            kept[name] = np.asarray(values, dtype=np.float64)
    if not kept:
        raise InputError("no metric has a score for any row: are the images and references there?")
    good = ~np.any([np.isnan(v) for v in kept.values()], axis=0)
    if not good.any():
        raise InputError("no row has a score from every metric; ask for fewer metrics")
    if not good.all():
        notes["rows left out: a metric has no score there"] += int((~good).sum())
    return kept, good


def evaluate_ratings(
    benchmark: str,
    data: Ratings,
    scorer: Scorer | Mapping[str, Floats],
    protocol: HumanProtocol,
    baseline: str | None = None,
) -> HumanResult:
    """Correlation of every metric with ratings.

    ``scorer`` is a function from the captions to score to named columns of scores, or these columns. Every metric is
    compared with ``baseline``, by default with the one that agrees best.
    """
    if protocol.statistic == "accuracy":
        raise InputError(f"{benchmark} holds ratings: use tau-b, tau-c, pearson or spearman, not accuracy")
    statistic: Statistic = protocol.statistic
    rows, notes = select_rows(data, protocol)
    if not rows:
        raise InputError(f"{benchmark}: no rows are left ({'; '.join(notes)})")
    request = ScoreRequest([r.image for r in rows], [r.caption for r in rows], [r.references for r in rows])
    given = scorer(request) if callable(scorer) else dict(scorer)
    scores, good = _usable(given, len(rows), notes)
    keep = np.flatnonzero(good)
    request = request.take(keep)
    scores = {name: values[keep] for name, values in scores.items()}
    rows = [rows[i] for i in keep]
    points, ratings = _rating_points(rows, protocol)
    groups = np.unique(np.array(request.images), return_inverse=True)[1].ravel()[points]
    metrics, samples = [], {}
    for name, values in scores.items():
        x = values[points]
        value = correlation(statistic, x, ratings)
        low = high = float("nan")
        if protocol.resamples:
            samples[name] = bootstrap_samples(
                statistic, x, ratings, groups, protocol.resamples, protocol.seed
            )
            low, high = percentile_interval(samples[name])
        metrics.append(MetricResult(name, statistic, Interval(value, low, high, len(points))))
    result = HumanResult(
        benchmark, protocol, metrics, notes, request, scores, np.array([np.mean(r.ratings) for r in rows])
    )
    if protocol.resamples and len(metrics) > 1:
        best = _baseline(metrics, baseline)
        for m in metrics:
            if m is not best:
                m.baseline = best.metric
                m.difference = paired_correlation_test(
                    statistic,
                    scores[m.metric][points],
                    scores[best.metric][points],
                    ratings,
                    groups,
                    protocol.resamples,
                    seed=protocol.seed,
                    samples=(samples[m.metric], samples[best.metric]),
                )
        _correct(metrics)
    return result


def _baseline(metrics: Sequence[MetricResult], name: str | None) -> MetricResult:
    """The metric of this name, else the one with the highest value."""
    best = max(metrics, key=lambda m: -np.inf if np.isnan(m.interval.value) else m.interval.value)
    if name is None:
        return best
    for m in metrics:
        if m.metric == name:
            return m
    raise InputError(f"no metric {name!r} to compare with; measured: {', '.join(m.metric for m in metrics)}")


def _correct(metrics: Sequence[MetricResult]) -> None:
    tested = [m for m in metrics if m.difference is not None]
    adjusted = holm([m.difference.p_value for m in tested if m.difference is not None])
    for m, p in zip(tested, adjusted, strict=True):
        m.adjusted_p = float(p)


# ---------------------------------------------------------------- preferences between two captions
def _drawn(references: tuple[str, ...], rng: np.random.Generator, protocol: HumanProtocol) -> tuple[str, ...]:
    if protocol.drawn_references and len(references) > protocol.drawn_references:
        chosen = rng.choice(len(references), protocol.drawn_references, replace=False)
        return tuple(references[i] for i in chosen)
    return references[: protocol.references] if protocol.references else references


def preference_request(data: Preferences, protocol: HumanProtocol) -> ScoreRequest:
    """The captions to score: for each draw of references all first captions, then all second ones."""
    images: list[str] = []
    captions: list[str] = []
    references: list[tuple[str, ...]] = []
    for draw in range(protocol.reference_draws):
        rng = np.random.default_rng([protocol.seed, draw])
        drawn = [_drawn(row.references, rng, protocol) for row in data.rows]
        for side in ("first", "second"):
            images += [row.image for row in data.rows]
            captions += [getattr(row, side) for row in data.rows]
            references += drawn
    return ScoreRequest(images, captions, references)


def preference_wins(data: Preferences, scores: Floats, protocol: HumanProtocol) -> Floats:
    """[pairs] how often the metric prefers what people prefer, averaged over draws of references.

    Where people are split evenly either answer counts half (the mean of splitting such ties at random).
    """
    n = len(data.rows)
    votes = np.array([row.votes for row in data.rows], dtype=np.float64)
    columns = np.asarray(scores, dtype=np.float64).reshape(protocol.reference_draws, 2, n)
    wins = []
    for first, second in columns:
        prefers_first = pairwise_wins(first, second, protocol.ties)
        prefers_second = pairwise_wins(second, first, protocol.ties)
        undecided = np.where(np.isnan(prefers_first), np.nan, 0.5)
        wins.append(
            np.where(
                votes[:, 0] > votes[:, 1],
                prefers_first,
                np.where(votes[:, 1] > votes[:, 0], prefers_second, undecided),
            )
        )
    return np.mean(wins, axis=0)


def evaluate_preferences(
    benchmark: str,
    data: Preferences,
    scorer: Scorer | Mapping[str, Floats],
    protocol: HumanProtocol,
    baseline: str | None = None,
) -> HumanResult:
    """Pairwise accuracy of every metric, by category and over all (Pascal-50S's mean is over its classes)."""
    if protocol.statistic != "accuracy":
        raise InputError(f"{benchmark} holds preferences between two captions: its statistic is accuracy")
    if not data.rows:
        raise InputError(f"{benchmark}: no pairs")
    request = preference_request(data, protocol)
    notes: Counter[str] = Counter(data.notes)
    given = scorer(request) if callable(scorer) else dict(scorer)
    all_scores, _ = _usable(given, len(request), notes)
    wins = {name: preference_wins(data, values, protocol) for name, values in all_scores.items()}
    good = ~np.any([np.isnan(w) for w in wins.values()], axis=0) if protocol.ties != "drop" else slice(None)
    images = np.unique(np.array([row.image for row in data.rows]), return_inverse=True)[1].ravel()
    categories = np.array([row.category for row in data.rows])
    named = sorted(set(categories)) if 1 < len(set(categories)) <= 20 else []
    metrics: list[MetricResult] = []
    for name, values in wins.items():
        for category in named:
            chosen = (categories == category) & (np.isfinite(values))
            interval = bootstrap_mean(values[chosen], images[chosen], protocol.resamples, seed=protocol.seed)
            metrics.append(MetricResult(name, f"accuracy {category}", interval))
        overall = bootstrap_mean(values[good], images[good], protocol.resamples, seed=protocol.seed)
        metrics.append(MetricResult(name, "accuracy", overall))
    totals = [m for m in metrics if m.statistic == "accuracy"]
    best = _baseline(totals, baseline)
    for m in totals:
        if m is not best and protocol.resamples:
            m.baseline = best.metric
            m.difference = paired_mean_test(
                wins[m.metric][good],
                wins[best.metric][good],
                images[good],
                protocol.resamples,
                seed=protocol.seed,
            )
    _correct(totals)
    return HumanResult(benchmark, protocol, metrics, notes, request, all_scores)
