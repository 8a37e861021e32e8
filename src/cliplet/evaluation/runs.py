"""Whole evaluations, from files to named numbers: what the commands call."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.names import is_photo_path
from cliplet.data.photos import PhotoStore
from cliplet.encoders.base import Encoder
from cliplet.errors import InputError
from cliplet.evaluation.benchmarks import find_benchmark, load_judgements
from cliplet.evaluation.human import (
    HumanProtocol,
    HumanResult,
    ScoreRequest,
    Scores,
    evaluate_preferences,
    evaluate_ratings,
)
from cliplet.evaluation.judgements import Ratings
from cliplet.evaluation.results import Evaluation, entry
from cliplet.evaluation.scores import file_scores, model_scores, reference_columns
from cliplet.metrics.registry import MetricNames, find_metrics
from cliplet.versions import versions

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class HumanDetail:
    """What the report draws of one human-judgement benchmark."""

    result: HumanResult
    """The numbers."""
    photos: PhotoStore | None
    """Where its photos are; None when no model was asked."""


def photo_sources(data: Path, images: Sequence[str | Path]) -> list[str | Path]:
    """Where photos are: the places named, else the tars and photo folders beside the data."""
    if images:
        return list(images)
    folder = data if data.is_dir() else data.parent
    tars: list[str | Path] = [p for p in sorted(folder.glob("*.tar")) if p.is_file()]
    has_photos = any(is_photo_path(p.name) for p in folder.rglob("*") if p.is_file())
    return tars + ([folder] if has_photos else [])


def protocol_with(protocol: HumanProtocol, changes: Mapping[str, Any]) -> HumanProtocol:
    """A protocol with some choices changed; unknown names raise InputError."""
    known = {f.name for f in dataclasses.fields(HumanProtocol)}
    for name in changes:
        if name not in known:
            raise InputError(f"unknown choice {name!r}; a protocol has {', '.join(sorted(known))}")
    return replace(protocol, **changes)


@dataclass
class ScoreSources:
    """All that gives scores: a model with its photos, metrics on references and tables of scores."""

    encoder: Encoder | None = None
    """A model for CLIPScore, RefCLIPScore and RefMixScore; None for none."""
    metrics: MetricNames = None
    """Metrics that compare with references, as :func:`cliplet.metrics.registry.find_metrics` takes them."""
    files: Sequence[tuple[Path, tuple[str, ...]]] = ()
    """(table, columns) of scores from elsewhere; no columns: every column of numbers."""
    preset: str = "paper"
    """Scale of the model's score."""
    progress: Progress | None = None
    """Called with rows scored and rows in all."""
    tokenizer: str = "ptb"
    """Of the metrics on references, as :func:`cliplet.metrics.registry.reference_scores` takes it."""

    def __post_init__(self) -> None:
        self.metrics = find_metrics(self.metrics)

    def scores(self, request: ScoreRequest, photos: PhotoStore | None, about: dict[str, Any]) -> Scores:
        """Every score of every caption; what happened goes into ``about``."""
        scores: Scores = {}
        if self.encoder is not None and photos is not None:
            found, about["model"] = model_scores(self.encoder, photos, request, self.preset, self.progress)
            scores |= found
        found, notes = reference_columns(request, self.metrics, self.tokenizer)
        if self.tokenizer != "ptb":
            about["tokenizer"] = self.tokenizer
        scores |= found
        for path, columns in self.files:
            scores |= file_scores(path, request, columns, notes)
        if notes:
            about["notes"] = notes
        if not scores:
            raise InputError("nothing to measure: choose a model, metrics (they need references), or scores")
        return scores


def evaluate_human(
    names: Sequence[str],
    data: Path,
    sources: ScoreSources,
    images: Sequence[str | Path] = (),
    references: Sequence[Path] = (),
    changes: Mapping[str, Any] | None = None,
    baseline: str | None = None,
) -> Evaluation:
    """Human-judgement benchmarks with a model, metrics on references and score files.

    Args:
        names: benchmarks, as :func:`cliplet.evaluation.benchmarks.find_benchmark` takes them.
        data: the judgement file, or a folder with the benchmark's files under their usual names.
        sources: where scores come from.
        images: folders and tars of photos; default those beside ``data``.
        references: caption files; default those beside ``data``.
        changes: choices of the protocol to change, by field name of :class:`HumanProtocol`.
        baseline: the metric that all others are compared with; default the best.
    """
    benchmarks = [find_benchmark(name) for name in names]
    out = Evaluation("Agreement with human judgements", [], {"versions": versions(), "benchmarks": {}})
    store: PhotoStore | None = None
    for benchmark in benchmarks:
        judgements, files = load_judgements(benchmark, data, references)
        extra = judgements.photos if isinstance(judgements, Ratings) else {}
        if sources.encoder is not None and (store is None or extra):
            store = PhotoStore(images if extra else photo_sources(data, images), extra)
        for variant in benchmark.variants:
            protocol = protocol_with(benchmark.protocol_for(judgements), {**variant, **(changes or {})})
            about: dict[str, Any] = {"files": [str(f) for f in files]}
            scorer = partial(sources.scores, photos=store, about=about)
            if isinstance(judgements, Ratings):
                result = evaluate_ratings(benchmark.name, judgements, scorer, protocol, baseline)
            else:
                result = evaluate_preferences(benchmark.name, judgements, scorer, protocol, baseline)
            result.varied = frozenset(variant)
            _add_human(out, result, len(judgements.rows), about)
            out.details.append(HumanDetail(result, store))
            if variant.keys() & (changes or {}).keys():
                break  # what the variants differ in was chosen by hand
    return out


def human_statistic(result: HumanResult, statistic: str) -> str:
    """A statistic's name in results; where the literature varies the references (FOIL) it says how many there were."""
    if "references" in result.varied:
        n = result.protocol.references
        return f"{statistic}, {n or 'all'} reference{'' if n == 1 else 's'}"
    return statistic


def _add_human(out: Evaluation, result: HumanResult, read: int, about: dict[str, Any]) -> None:
    for m in result.metrics:
        out.entries.append(
            entry(result.benchmark, m.metric, human_statistic(result, m.statistic), m.interval)
        )
        if m.difference is not None:
            test = m.difference
            out.comparisons.append(
                {
                    "benchmark": result.benchmark,
                    "metric": m.metric,
                    "against": m.baseline,
                    "statistic": human_statistic(result, m.statistic),
                    "difference": 100 * test.difference,
                    "low": 100 * test.low,
                    "high": 100 * test.high,
                    "p_value": test.p_value,
                    "p_holm": m.adjusted_p,
                }
            )
    out.notes += [f"{result.benchmark}: {count} {what}" for what, count in sorted(result.notes.items())]
    out.failed += sum(n for what, n in result.notes.items() if what.startswith("rows left out"))
    about |= {
        "protocol": dataclasses.asdict(result.protocol),
        "rows_read": read,
        "rows_scored": len(result.request),
        "images": len(set(result.request.images)),
        "rows_left_out": dict(result.notes),
    }
    key = result.benchmark
    while key in out.provenance["benchmarks"]:
        key += " (again)"
    out.provenance["benchmarks"][key] = about
    out.notes += [n for n in about.pop("notes", []) if n not in out.notes]
    mean_references = (
        float(np.mean([len(r) for r in result.request.references])) if len(result.request) else 0.0
    )
    about["mean_references"] = round(mean_references, 3)
