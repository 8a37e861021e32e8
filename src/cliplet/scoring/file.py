"""Scoring a captioner's output file: from files on disk to a table of rows, a summary and provenance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry, Columns, read_references, read_sources
from cliplet.data.images import ImageInput
from cliplet.data.names import NameIndex, image_name
from cliplet.data.text import caption_problem, scrub
from cliplet.errors import InputError
from cliplet.metrics.base import ReferenceMetric, ReferenceScores
from cliplet.metrics.clipscore import MODEL_SCORES
from cliplet.scoring.rows import find_photos, model_columns, none_found, plain, table_rows
from cliplet.scoring.scorer import Scorer, ScoreResult
from cliplet.statistics.corpus import CorpusStatistic, corpus_intervals, interval_notes
from cliplet.statistics.resampling import Interval
from cliplet.versions import versions

if TYPE_CHECKING:
    from cliplet.metrics.cider import DocumentFrequencies
    from cliplet.metrics.registry import MetricNames

Progress = Callable[[int, int], None]
_NO_REFERENCES = "no references were found for the image"


@dataclass(frozen=True)
class ScoreTable:
    """A scored captions file."""

    rows: list[dict[str, Any]]
    """One a caption, in the file's order: image, caption, scores (None for none), truncated, reason, where, and the
    file's other columns."""
    photos: list[ImageInput | None]
    """Each row's photo, None where it was not found."""
    photo_names: list[str | None]
    """Each row's photo by its name in the folder or tar; without photos the name of its references."""
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
    fields: Mapping[str, str] = field(default_factory=dict)
    """Score name to its field in rows."""
    without_references: int = 0
    """Rows for which no reference was found where references were given."""
    diversity: Mapping[str, float | int] = field(default_factory=dict)
    """Measures of the captions as a set, by name; empty unless asked for."""
    sources: Sequence[Path] = ()
    """The captions files, one or more."""
    sampled: Mapping[str, int] = field(default_factory=dict)
    """Where the rows are a sample: ``captions``, ``failed`` and ``truncated`` of all rows; else empty."""

    @property
    def title(self) -> str:
        """The captions file's name, and how many more there are."""
        first, *more = self.sources
        return first.resolve().name + (f" and {len(more)} more" if more else "")

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows without a score."""
        return [row for row in self.rows if row["reason"] is not None]

    @property
    def captions(self) -> int:
        """Captions in all."""
        return self.sampled.get("captions", len(self.rows))

    @property
    def failed(self) -> int:
        """Captions in all without a score."""
        return self.sampled.get("failed", len(self.failures))

    @property
    def with_model(self) -> bool:
        """Whether a model scored photos and captions; else only metrics on references did."""
        return self.provenance["model"] is not None

    def image_of(self, row: int) -> str:
        """The image of a row, one name for all its spellings."""
        return self.photo_names[row] or image_name(self.rows[row]["image"])

    def summary(self) -> dict[str, Any]:
        """Counts and corpus values."""
        return {
            "captions": self.captions,
            "scored": self.captions - self.failed,
            "failed": self.failed,
            "truncated": self.provenance["truncated"],
            "images_without_caption": len(self.images_without_caption),
            "references": self.provenance["references"],
            "without_references": self.without_references,
            **{name: self.provenance[name] for name in ("tokenizer",) if name in self.provenance},
            "metrics": {
                name: {"mean": plain(i.value), "low": plain(i.low), "high": plain(i.high), "n": i.n}
                for name, i in self.intervals.items()
            },
            "diversity": {name: plain(value) for name, value in self.diversity.items()},
            "notes": self.notes,
        }


def score_file(
    captions: str | Path | Sequence[str | Path],
    images: str | Path | None,
    scorer: Scorer | None,
    references: str | Path | None = None,
    metrics: "MetricNames" = None,
    document_frequencies: "DocumentFrequencies | None" = None,
    progress: Progress | None = None,
    table: Columns | None = None,
    tokenizer: str = "ptb",
) -> ScoreTable:
    """Score every caption of a file.

    Args:
        captions: what :func:`cliplet.data.captions.read_captions` reads, or several of them.
        images: folder or tar of the photos; None: those that came with the captions (a shard, a folder), or paths as
            the files have them, each relative to its own file or to the working folder.
        scorer: model and preset; None: no model and no photos, only metrics on references.
        references: a file of reference captions; None: those in the captions file, if it has any. With references the
            metrics that need them are computed too.
        metrics: which of those, as :func:`cliplet.metrics.registry.find_metrics` takes them; default: all but
            SPICE and SPIDEr.
        document_frequencies: for CIDEr-D; default: from the references of the images scored.
        progress: called with (rows done, rows in all).
        table: the captions file's columns and separator, where the usual names do not say them.
        tokenizer: of the metrics on references, as :func:`cliplet.metrics.registry.reference_scores` takes it.

    Returns:
        A ScoreTable with one row a caption; bad rows carry their reason.

    Raises:
        InputError: a file cannot be used as a whole, none of its images has a photo, or a reference, or there is
            neither a scorer nor a metric.
    """
    notes: list[str] = []
    sources = [Path(one) for one in ([captions] if isinstance(captions, (str, Path)) else captions)]
    given = ", ".join(map(str, sources))
    entries: Sequence[CaptionEntry] = read_sources(sources, table, notes)
    own = references is None and any(entry.references for entry in entries)
    references = given if own else references
    chosen = _chosen_metrics(metrics, references)
    if scorer is None:
        if references is None or not chosen:
            raise InputError(
                "without a model there are only metrics on references: give references and metrics"
            )
        index, names, photos, reasons = None, *_without_photos(entries)
    else:
        entries, index = photos_of(entries, sources, images)
        if images is not None and index.damage is not None:
            notes.append(f"{images}: {index.damage}")
        if images is not None and any(entry.photo is not None for entry in entries):
            notes.append(f"the photos that came with the captions are scored, not those in {images}")
        names, photos, reasons = find_photos(entries, index)
        if not any(names):
            keys = [entry.image for entry in entries if entry.image != ""]
            raise none_found([str(found) for found in index.find_all(keys).values()])
    row_refs = None
    if references is not None:
        row_refs, found_as = _references_of(entries, names, Path(references), own, notes)
        if scorer is None:
            names = found_as
            reasons = [
                why or (None if refs else _NO_REFERENCES) for why, refs in zip(reasons, row_refs, strict=True)
            ]
    groups = _groups(entries, names)
    scored = None if scorer is None else _score_found(scorer, entries, photos, reasons, row_refs, progress)
    columns = model_columns(scored)
    compared = _compare_with_references(
        entries, groups, row_refs or [], chosen, document_frequencies, tokenizer
    )
    statistics = {
        name: CorpusStatistic.mean(values) for name, values in columns.items()
    } | compared.statistics
    columns |= compared.per_caption
    used = {name for name in names if name is not None}
    intervals = _intervals(statistics, groups, scored)
    fields = MODEL_SCORES | _fields(chosen)
    return ScoreTable(
        rows=table_rows(entries, columns, fields, scored, reasons),
        photos=photos,
        photo_names=names,
        columns=columns,
        statistics=statistics,
        intervals=intervals,
        provenance=_provenance(scored, reasons)
        | {
            "captions": given,
            "images": None if index is None else str(index.root),
            "references": None if references is None else str(references),
        }
        | ({} if tokenizer == "ptb" else {"tokenizer": tokenizer}),
        images_without_caption=[name for name in index.names() if name not in used]
        if index is not None
        else [],
        notes=[
            *notes,
            *_repeated(entries, groups),
            *_model_notes(scored),
            *compared.notes,
            *interval_notes(intervals.values()),
        ],
        fields={name: fields[name] for name in columns},
        without_references=sum(
            not refs and entry.reason is None for refs, entry in zip(row_refs or (), entries, strict=False)
        ),
        sources=sources,
    )


def _chosen_metrics(names: "MetricNames", references: str | Path | None) -> list[ReferenceMetric]:
    """The metrics to compute, known to be able to run."""
    if references is None and not names:
        return []  # the table of metrics takes long to import
    from cliplet.metrics.registry import find_metrics

    if references is not None:
        return find_metrics(names)
    if chosen := find_metrics(names or ()):
        given = ", ".join(metric.name for metric in chosen)
        raise InputError(f"{given} compare captions with references: give them with --refs")
    return []


def _fields(metrics: Sequence[ReferenceMetric]) -> dict[str, str]:
    """Each column's field in rows."""
    return {column: name for m in metrics for column, name in zip(m.columns, m.fields, strict=True)}


def has_photos(captions: str | Path | Sequence[str | Path], table: Columns | None = None) -> bool:
    """Whether any image of a captions file, or of several, has a photo that came with it or is at the path it names.

    Raises:
        InputError: a file cannot be read.
    """
    sources = [Path(one) for one in ([captions] if isinstance(captions, (str, Path)) else captions)]
    entries: Sequence[CaptionEntry] = read_sources(sources, table)
    if any(entry.photo is not None for entry in entries):
        return True
    entries, index = photos_of(entries, sources, None)
    found = index.find_all(entry.image for entry in entries if entry.image != "")
    return not all(isinstance(photo, InputError) for photo in found.values())


def _without_photos(
    entries: Sequence[CaptionEntry],
) -> tuple[list[str | None], list[ImageInput | None], list[str | None]]:
    """As :func:`find_photos` where nobody looks for photos: a row fails for its caption alone."""
    reasons = [entry.reason or caption_problem(entry.caption) for entry in entries]
    return [None] * len(entries), [None] * len(entries), reasons


def _groups(entries: Sequence[CaptionEntry], names: Sequence[str | None]) -> list[str]:
    """The image of each row, one name for all its spellings."""
    label: dict[str, str] = {}
    spelled = [image_name(entry.image) for entry in entries]
    return [
        label.setdefault(name or spelling, spelling) for name, spelling in zip(names, spelled, strict=True)
    ]


def _references_of(
    entries: Sequence[CaptionEntry], names: Sequence[str | None], path: Path, own: bool, notes: list[str]
) -> tuple[list[list[Any]], list[str | None]]:
    """Each row's usable references and the name under which a file has them.

    They are its own, or those of a file by the row's image, else by its photo's name.
    """
    hits: list[str | InputError | None] = [None] * len(entries)
    if own:
        notes.append(f"the references are those that {path} itself has")
        rows = [[r for r in entry.references or () if caption_problem(r) is None] for entry in entries]
    else:
        refs = read_references(path, notes)
        index = NameIndex(refs, f"images of {path}")
        keys = [entry.image for entry in entries]
        found, by_photo = index.find_all(keys), index.find_all(name for name in names if name is not None)
        hits = [
            hit if isinstance(hit := found[key], str) else by_photo.get(name or "", hit)
            for key, name in zip(keys, names, strict=True)
        ]
        rows = [refs[hit] if isinstance(hit, str) else [] for hit in hits]
        notes += [str(hit) for hit in dict.fromkeys(hits) if isinstance(hit, InputError)][:3]
        if any(entry.references for entry in entries):
            notes.append("the captions file's own references are not used")
    missing = [entry for entry, refs in zip(entries, rows, strict=True) if not refs and entry.reason is None]
    if not any(rows):
        raise InputError(
            f"none of the {len(rows)} captions has a reference in {path}: the captions' images are called like "
            f"{missing[0].image!r}" + ("" if own else f", those of the references like {next(iter(refs))!r}")
        )
    if missing:
        notes.append(
            f"{len(missing)} of {len(rows)} captions have no references in {path}, such as {missing[0].image}"
        )
    return rows, [hit if isinstance(hit, str) else None for hit in hits]


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


def _provenance(scored: ScoreResult | None, reasons: Sequence[str | None]) -> dict[str, Any]:
    """What scored the rows; without a model ``model`` is None."""
    if scored is not None:
        return scored.provenance
    failed = sum(reason is not None for reason in reasons)
    return {"model": None, "versions": versions(), "rows": len(reasons), "failed": failed, "truncated": 0}


def _compare_with_references(
    entries: Sequence[CaptionEntry],
    groups: Sequence[str],
    references: list[list[Any]],
    metrics: Sequence[ReferenceMetric],
    document_frequencies: "DocumentFrequencies | None",
    tokenizer: str,
) -> ReferenceScores:
    """Metrics that need no photo, for every row with references; a caption that is no text counts as an empty one."""
    rows = [i for i, refs in enumerate(references) if refs]
    if not rows or not metrics:
        return ReferenceScores()
    from cliplet.metrics.registry import reference_scores

    scores = reference_scores(
        [scrub(c) if isinstance(c := entries[i].caption, str) else "" for i in rows],
        [references[i] for i in rows],
        [groups[i] for i in rows],
        metrics,
        document_frequencies,
        tokenizer=tokenizer,
    )
    for name, values in scores.per_caption.items():
        scores.per_caption[name] = np.full(len(entries), np.nan)
        scores.per_caption[name][rows] = values
        scores.statistics[name] = scores.statistics[name].placed(rows, len(entries))
    same = sum(entries[i].caption in references[i] for i in rows)
    if same:
        scores.notes.append(f"{same} captions stand word for word among their own references")
    return scores


def _intervals(
    statistics: Mapping[str, CorpusStatistic], groups: Sequence[str], scored: ScoreResult | None
) -> dict[str, Interval]:
    _, images = np.unique(groups, return_inverse=True)
    intervals = corpus_intervals(statistics, images)
    if scored is None:
        return intervals
    first = scored.preset.column  # its corpus value is the preset's: torchmetrics clamps the mean
    return intervals | {first: replace(intervals[first], value=scored.mean)}


def _repeated(entries: Sequence[CaptionEntry], groups: Sequence[str]) -> list[str]:
    pairs = [
        (group, e.caption) for group, e in zip(groups, entries, strict=True) if isinstance(e.caption, str)
    ]
    more = len(pairs) - len(set(pairs))
    return [f"{more} rows repeat an image with the same caption; each counts"] if more else []


def _model_notes(scored: ScoreResult | None) -> list[str]:
    """What a reader must know of the model's scores."""
    if scored is None:
        return ["no model was used: these are metrics on references alone"]
    if not scored.provenance["truncated"]:
        return scored.notes
    length = scored.provenance["preprocessing"]["context_length"]
    cut = f"{scored.provenance['truncated']} captions were longer than {length} tokens and were cut"
    return [cut, *scored.notes]
