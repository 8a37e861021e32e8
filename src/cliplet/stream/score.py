"""`cliplet score` as a stream: plan, parts, summary and report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry, Columns, stream_captions
from cliplet.data.images import ImageInput
from cliplet.encoders.card import ModelCard
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.metrics.clipscore import MODEL_SCORES, find_preset
from cliplet.reports.score import score_page
from cliplet.scoring.file import ScoreTable
from cliplet.scoring.match import load_match
from cliplet.scoring.rows import find_photos, none_found
from cliplet.statistics.corpus import interval_notes
from cliplet.stream.part import need_pyarrow, part_file
from cliplet.stream.plan import PART_ROWS, make_plan, read_plan
from cliplet.stream.run import Finished, run
from cliplet.stream.scores import BLOCK, PEEKED, PartReader, ScoreWork, other_columns
from cliplet.stream.sources import Source, find_sources
from cliplet.stream.summary import EXTREMES, Summary
from cliplet.versions import versions


@dataclass(frozen=True)
class StreamScores:
    """A finished stream of scores."""

    run: Finished
    """Its parts."""
    summary: Summary
    """What was counted and sampled over them."""
    table: ScoreTable
    """The rows of the report: a sample, the extremes and examples of failures."""


def score_stream(
    arguments: Sequence[str],
    folder: str | Path,
    work: ScoreWork,
    *,
    form: str = "parquet",
    engine: str = "local",
    workers: int = 1,
    part_rows: int = PART_ROWS,
    retry_failed: bool = False,
    quiet: bool = False,
) -> StreamScores:
    """Score the captions of any number of files, part by part, into a folder; the same call goes on where it stopped.

    Args:
        arguments: files, patterns, folders of shards, data sets on disk, addresses of fsspec.
        folder: takes ``plan.json``, ``parts/``, ``summary.json`` and ``report.html``.
        work: model, preset, photos and columns.
        form: ``parquet`` or ``jsonl`` parts.
        engine: ``local`` or ``ray``.
        workers: as :func:`cliplet.stream.run.run`.
        part_rows: rows of a part, about.
        retry_failed: try parts again that were given up.
        quiet: no progress.

    Raises:
        InputError: a source is missing, no image of the first rows has a photo, or the folder holds another run.
        ModelError: no such model.
    """
    need_pyarrow()
    sources = find_sources(arguments)
    card = load(work.model).card
    if work.match is not None:
        load_match(work.match, card)
    settings, work = prepared(work, sources, card, part_rows, Path(folder))
    done = run(
        lambda: make_plan(sources, settings, part_rows, work.columns),
        sources,
        settings,
        work,
        folder,
        form=form,
        engine=engine,
        workers=workers,
        retry_failed=retry_failed,
        quiet=quiet,
    )
    summary = Summary()
    for part in done.plan:
        file = part_file(done.folder, part, form)
        if file.exists():
            summary.add(part.number, file)
    if not summary.rows and not done.failed:
        raise InputError(f"{', '.join(source.name for source in sources[:3])} holds no captions")
    table = _table(done, summary, work, card)
    _write(done, summary, table)
    return StreamScores(done, summary, table)


def prepared(
    work: ScoreWork, sources: Sequence[Source], card: ModelCard, part_rows: int, folder: Path
) -> tuple[dict[str, Any], ScoreWork]:
    """What a plan of scores depends on, and the work with its other columns.

    Raises:
        InputError: a new run whose first images have no photos.
    """
    entries = _first(sources[0], work.columns)
    work = replace(work, several=len(sources) > 1, others=other_columns(entries))
    if read_plan(folder) is None and entries:
        _check_photos(entries, sources[0], work.images)
    settings = {
        "model": card.name,
        "fingerprint": card.fingerprint,
        "preset": work.preset,
        "match": None if work.match is None else Path(work.match).read_text(encoding="utf-8"),
        "images": work.images,
        "image column": work.columns.image,
        "caption column": work.columns.caption,
        "separator": work.columns.separator,
        "part rows": part_rows,
        "block": BLOCK,
        "batch size": getattr(load(work.model), "batch_size", None),
        "other columns": [list(one) for one in work.others],
        "cliplet": versions()["cliplet"],
    }
    return settings, work


def _first(source: Source, columns: Columns) -> list[CaptionEntry]:
    """The first captions of a source; none of what is remote, which would be fetched for it."""
    return [] if source.remote else list(islice(stream_captions(source.path, columns), PEEKED))


def _check_photos(entries: list[CaptionEntry], source: Source, images: str | None) -> None:
    good = [entry for entry in entries if entry.reason is None]
    if not good:
        raise InputError(f"{source.name}, {entries[0].where}: {entries[0].reason}")
    found, index = photos_of(good, [Path(source.path)], images)
    names, _, reasons = find_photos(found, index)
    if not any(names):
        raise none_found([str(reason) for reason in reasons])


# ---------------------------------------------------------------- summary and report
def _table(done: Finished, summary: Summary, work: ScoreWork, card: ModelCard) -> ScoreTable:
    preset = find_preset(work.preset)
    named = {"score": preset.column, "match": "match", "cosine": "cosine"}
    if preset.field == "cosine":
        del named["cosine"]
    intervals = {named[name]: i for name, i in summary.intervals().items() if name in named}
    first = intervals.get(preset.column)
    if first is not None and preset.name == "torchmetrics":
        intervals[preset.column] = replace(first, value=max(first.value, 0.0))
    shown = summary.shown()
    rows = [_report_row(row, preset.field) for _, _, row in shown]
    failed = [_report_row(row, preset.field) for row in summary.failed_rows()]
    rows += [row for row in failed if row not in rows]
    photos = _photos(done, shown, work) + [None] * (len(rows) - len(shown))
    lost = (
        [f"{len(done.failed)} parts were given up: {next(iter(done.failed.values()))}"] if done.failed else []
    )
    return ScoreTable(
        rows=rows,
        photos=photos,
        photo_names=[None] * len(rows),
        columns={},
        statistics={},
        intervals=intervals,
        provenance=_provenance(work, card, summary) | {"images": work.images, "references": None},
        images_without_caption=[],
        notes=[*lost, *summary.notes(), *interval_notes(intervals.values())],
        fields={name: MODEL_SCORES[name] for name in intervals},
        sources=[Path(source.name) for source in done.plan.sources],
        sampled={"captions": summary.rows, "failed": summary.failed, "truncated": summary.truncated},
    )


def _report_row(row: dict[str, Any], field: str) -> dict[str, Any]:
    """A part's row as reports have it: the score under its own name."""
    renamed = {field if name == "score" else name: value for name, value in row.items()}
    return renamed if field != "cosine" else {**row, "cosine": row["score"]}


def _provenance(work: ScoreWork, card: ModelCard, summary: Summary) -> dict[str, Any]:
    preset = find_preset(work.preset)
    return {
        "model": card.name,
        "fingerprint": card.fingerprint,
        "preset": preset.name,
        "score": preset.column,
        "w": card.score.w if preset.factor is None else preset.factor,
        "prompt_prefix": card.text.prompt_prefix if preset.with_prefix else "",
        "preprocessing": {
            "image": f"{card.image.resize} {card.image.size} {card.image.interpolation}",
            "context_length": card.text.context_length,
        },
        "precision": card.precision,
        "versions": versions(),
        "rows": summary.rows,
        "failed": summary.failed,
        "truncated": summary.truncated,
    }


def _photos(
    done: Finished, shown: list[tuple[int, int, dict[str, Any]]], work: ScoreWork
) -> list[ImageInput | None]:
    """The photos of the lowest and highest of the shown rows, whose parts are read again; None for the others."""
    photos: list[ImageInput | None] = [None] * len(shown)
    order = sorted((i for i, (_, _, row) in enumerate(shown) if row["score"] is not None),
                   key=lambda i: shown[i][2]["score"])  # fmt: skip
    wanted = {i for i in (*order[:EXTREMES], *order[-EXTREMES:])}
    by_part: dict[int, dict[int, int]] = {}
    for i in wanted:
        by_part.setdefault(shown[i][0], {})[shown[i][1]] = i
    reader = PartReader(work.columns, work.several, work.images)
    for number, rows in sorted(by_part.items()):
        part = done.plan.part(number)
        if part.source.remote:
            continue  # not fetched again for a picture
        at = 0
        for entries, found, _, _ in reader.blocks(part, lambda _: None):
            for row, i in rows.items():
                if at <= row < at + len(entries):
                    photos[i] = found[row - at]
            at += len(entries)
            if at > max(rows):
                break
    return photos


def _write(done: Finished, summary: Summary, table: ScoreTable) -> None:
    images, exact = summary.images()
    content = {
        "summary": table.summary() | {
            "parts": len(done.plan),
            "parts_failed": len(done.failed),
            "images": images if exact else f"about {images}",
            "quantiles": summary.quantiles(),
            "failures": summary.failures(),
        },
        "provenance": table.provenance,
        "failed_parts": {done.plan.part(number).name: reason for number, reason in done.failed.items()},
    }  # fmt: skip
    write_atomically(done.folder / "summary.json", json.dumps(content, indent=2, ensure_ascii=True) + "\n")
    if table.intervals:
        write_atomically(done.folder / "report.html", score_page(table))
