"""Scoring a captioner's output file: from files on disk to a table of rows, a summary and provenance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import CaptionEntry, ImageKey, image_name, read_captions, read_references
from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoIndex, PhotoPaths, PhotoTar, open_photos
from cliplet.data.text import caption_problem, scrub
from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.clipscore import MODEL_SCORES
from cliplet.metrics.registry import (
    MetricNames,
    ReferenceMetric,
    ReferenceScores,
    find_metrics,
    reference_scores,
    row_fields,
)
from cliplet.scoring.scorer import Scorer, ScoreResult
from cliplet.statistics.corpus import CorpusStatistic, corpus_interval
from cliplet.statistics.resampling import Interval

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoreTable:
    """A scored captions file."""

    rows: list[dict[str, Any]]
    """One a caption, in the file's order: image, caption, scores (None for none), truncated, reason, where."""
    photos: list[ImageInput | None]
    """Each row's photo, None where it was not found."""
    photo_names: list[str | None]
    """Each row's photo by its name in the folder or tar."""
    columns: dict[str, NDArray[np.float64]]
    """Score name to one value a row, NaN where there is none."""
    statistics: dict[str, CorpusStatistic]
    """Score name to what its corpus value is computed from, one row a caption."""
    intervals: dict[str, Interval]
    """Corpus value of each score, with its 95 % bootstrap interval over images."""
    provenance: dict[str, Any]
    """What produced the scores, and from which files."""
    images_without_caption: list[str]
    """Photos that no caption names."""
    notes: list[str]
    """What a reader of the numbers must know."""
    diversity: Mapping[str, float | int] = field(default_factory=dict)
    """Measures of the captions as a set, by name; empty unless asked for."""

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows without a score."""
        return [row for row in self.rows if row["reason"] is not None]

    def summary(self) -> dict[str, Any]:
        """Counts and corpus values."""
        return {
            "captions": len(self.rows),
            "scored": len(self.rows) - len(self.failures),
            "failed": len(self.failures),
            "truncated": self.provenance["truncated"],
            "images_without_caption": len(self.images_without_caption),
            "metrics": {
                name: {"mean": _plain(i.value), "low": _plain(i.low), "high": _plain(i.high), "n": i.n}
                for name, i in self.intervals.items()
            },
            "diversity": dict(self.diversity),
            "notes": self.notes,
        }


def score_file(
    captions: str | Path,
    images: str | Path | None,
    scorer: Scorer,
    references: str | Path | None = None,
    metrics: MetricNames = None,
    document_frequencies: DocumentFrequencies | None = None,
    progress: Progress | None = None,
) -> ScoreTable:
    """Score every caption of a file.

    Args:
        captions: what :func:`cliplet.data.captions.read_captions` reads.
        images: folder or tar of the photos; None: the captions file's own tar, or paths as the file has them,
            relative to the file or to the working folder.
        scorer: model and preset.
        references: a file of reference captions; with it the metrics that need references are computed too.
        metrics: which of those, as :func:`cliplet.metrics.registry.find_metrics` takes them; default: all but SPICE.
        document_frequencies: for CIDEr-D; default: from the references of the images scored.
        progress: called with (rows done, rows in all).

    Returns:
        A ScoreTable with one row a caption; bad rows carry their reason.

    Raises:
        InputError: a file cannot be used as a whole.
    """
    chosen = _chosen_metrics(metrics, references)
    entries = read_captions(captions)
    refs = None if references is None else read_references(references)
    index = _photo_index(Path(captions), images)
    names, photos, reasons = _find_photos(entries, index)
    row_refs = None
    if refs is not None:
        row_refs = [_references_of(entry, name, refs) for entry, name in zip(entries, names, strict=True)]
    scored = _score_found(scorer, entries, photos, reasons, row_refs, progress)
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in scored.columns().items()}
    compared = _compare_with_references(entries, row_refs or [], chosen, document_frequencies)
    statistics = {
        name: CorpusStatistic.mean(values) for name, values in columns.items()
    } | compared.statistics
    columns |= compared.per_caption
    used = {name for name in names if name is not None}
    return ScoreTable(
        rows=_rows(entries, columns, MODEL_SCORES | row_fields(chosen), scored, reasons),
        photos=photos,
        photo_names=names,
        columns=columns,
        statistics=statistics,
        intervals=_intervals(statistics, entries, scored),
        provenance=scored.provenance
        | {
            "captions": str(captions),
            "images": str(index.root),
            "references": None if references is None else str(references),
        },
        images_without_caption=[] if images is None else [name for name in index.names() if name not in used],
        notes=_notes(scored, references) + compared.notes,
    )


def _chosen_metrics(names: MetricNames, references: str | Path | None) -> list[ReferenceMetric]:
    """The metrics to compute, known to be able to run."""
    if references is not None:
        return find_metrics(names)
    if chosen := find_metrics(names or ()):
        given = ", ".join(metric.name for metric in chosen)
        raise InputError(f"{given} compare captions with references: give them with --refs")
    return []


def _photo_index(captions: Path, images: str | Path | None) -> PhotoIndex:
    if images is not None:
        return open_photos(images)
    if captions.suffix.lower() == ".tar":
        return PhotoTar(captions)
    return PhotoPaths(captions.resolve().parent)


def _find_photos(
    entries: Sequence[CaptionEntry], index: PhotoIndex
) -> tuple[list[str | None], list[ImageInput | None], list[str | None]]:
    """Each row's photo name and photo, or the reason why it has none."""
    found: dict[ImageKey, tuple[str | None, ImageInput | None, str | None]] = {}
    for entry in entries:
        if entry.image not in found:
            try:
                found[entry.image] = (*index.find(entry.image), None)
            except InputError as error:
                found[entry.image] = (None, None, str(error))
    if all(photo is None for _, photo, _ in found.values()):
        first = next(iter(found.values()))[2]
        raise InputError(
            f"none of the {len(found)} images was found: {first}. Give their folder or tar with --images"
        )
    names, photos, reasons = zip(*(found[entry.image] for entry in entries), strict=True)
    return list(names), list(photos), list(reasons)


def _references_of(entry: CaptionEntry, name: str | None, refs: Mapping[ImageKey, list[Any]]) -> list[Any]:
    """References by the captions file's name for the image, the photo's name, its file name or its stem."""
    keys = [str(entry.image)] if name is None else [str(entry.image), name, Path(name).name, Path(name).stem]
    for key in keys:
        for spelling in (key, image_name(key)):
            if spelling in refs:
                return refs[spelling]
    return []


def _score_found(
    scorer: Scorer,
    entries: Sequence[CaptionEntry],
    photos: list[ImageInput | None],
    reasons: list[str | None],
    references: list[list[Any]] | None,
    progress: Progress | None,
) -> ScoreResult:
    """Scores of all rows; a row without a photo is scored as one with a bad caption is: not at all."""
    captions = [
        entry.caption if reason is None else None for entry, reason in zip(entries, reasons, strict=True)
    ]
    return scorer.score([photo or b"" for photo in photos], captions, references, progress)  # type: ignore[arg-type]


def _compare_with_references(
    entries: Sequence[CaptionEntry],
    references: list[list[Any]],
    metrics: Sequence[ReferenceMetric],
    document_frequencies: DocumentFrequencies | None,
) -> ReferenceScores:
    """Metrics that need no photo, for every row with a caption (an empty one too) and references."""
    usable = [[r for r in refs if caption_problem(r) is None] for refs in references]
    rows = [i for i, refs in enumerate(usable) if refs and isinstance(entries[i].caption, str)]
    if not rows or not metrics:
        return ReferenceScores()
    scores = reference_scores(
        [scrub(entries[i].caption) for i in rows],
        [usable[i] for i in rows],
        [image_name(entries[i].image) for i in rows],
        metrics,
        document_frequencies,
    )
    for name, values in scores.per_caption.items():
        scores.per_caption[name] = np.full(len(entries), np.nan)
        scores.per_caption[name][rows] = values
        scores.statistics[name] = scores.statistics[name].placed(rows, len(entries))
    same = sum(entries[i].caption in usable[i] for i in rows)
    if same:
        scores.notes.append(f"{same} captions stand word for word among their own references")
    return scores


def _rows(
    entries: Sequence[CaptionEntry],
    columns: Mapping[str, NDArray[np.float64]],
    fields: Mapping[str, str],
    scored: ScoreResult,
    reasons: list[str | None],
) -> list[dict[str, Any]]:
    rows = []
    for i, entry in enumerate(entries):
        row: dict[str, Any] = {"image": entry.image, "caption": entry.caption}
        row |= {fields[name]: _plain(float(values[i])) for name, values in columns.items()}
        row |= {
            "truncated": bool(scored.truncated[i]),
            "reason": reasons[i] or scored.failures[i],
            "where": entry.where,
        }
        rows.append(row)
    return rows


def _intervals(
    statistics: Mapping[str, CorpusStatistic], entries: Sequence[CaptionEntry], scored: ScoreResult
) -> dict[str, Interval]:
    _, images = np.unique([image_name(entry.image) for entry in entries], return_inverse=True)
    intervals = {name: corpus_interval(statistic, images) for name, statistic in statistics.items()}
    first = scored.preset.column  # its corpus value is the preset's: torchmetrics clamps the mean
    return intervals | {first: replace(intervals[first], value=scored.mean)}


def _notes(scored: ScoreResult, references: str | Path | None) -> list[str]:
    notes = []
    if scored.provenance["truncated"]:
        length = scored.provenance["preprocessing"]["context_length"]
        notes.append(
            f"{scored.provenance['truncated']} captions were longer than {length} tokens and were cut"
        )
    if scored.provenance.get("without_references"):
        notes.append(
            f"{scored.provenance['without_references']} scored captions have no references in {references}"
        )
    return notes


def _plain(value: float) -> float | None:
    """A number for JSON: None for NaN, six decimals."""
    return None if math.isnan(value) else round(value, 6)
