"""What a finished stream of scores leaves beside its parts: `summary.json` and `report.html`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoIndex
from cliplet.encoders.card import ModelCard
from cliplet.errors import ClipletError, InputError
from cliplet.files import write_atomically
from cliplet.metrics.clipscore import find_preset
from cliplet.reports.score import score_page
from cliplet.scoring.file import ScoreTable
from cliplet.statistics.corpus import interval_notes
from cliplet.stream.extras import read_sums
from cliplet.stream.part import part_file
from cliplet.stream.reader import PartReader
from cliplet.stream.run import Finished
from cliplet.stream.scores import SCORES, ScoreWork
from cliplet.stream.source import without_query
from cliplet.stream.summary import EXTREMES, Summary
from cliplet.stream.wanted import Settled
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


def reported(
    done: Finished, work: ScoreWork, card: ModelCard | None, where: Mapping[str, str], settled: Settled
) -> StreamScores:
    """Go through the parts once, and write the summary and the report.

    ``where``: device, provider and precision, for the provenance; ``settled``: what was computed beside the scores.

    Raises:
        InputError: the parts hold no rows, and none was given up.
    """
    fields = work.measured()
    summary = Summary(
        tuple(dict.fromkeys([*SCORES, *fields.values()])),
        {fields[name]: place for name, place in settled.sums.items()},
    )
    for part in done.plan:
        file = part_file(done.folder, part, done.form)
        if file.exists():
            summary.add(part.number, file, read_sums(work.extras.sums_of(part)) if work.extras else None)
    if not summary.rows and not done.failed:
        first = ", ".join(source.name for source in done.plan.sources[:3])
        raise InputError(f"{first} holds no captions")
    table = _table(done, summary, work, card, where, settled)
    _write(done, summary, table)
    return StreamScores(done, summary, table)


def _table(
    done: Finished,
    summary: Summary,
    work: ScoreWork,
    card: ModelCard | None,
    where: Mapping[str, str],
    settled: Settled,
) -> ScoreTable:
    preset, fields = find_preset(work.preset), work.measured()
    found = summary.intervals()
    intervals = {name: found[field] for name, field in fields.items() if field in found}
    first = intervals.get(preset.column)
    if first is not None and preset.name == "torchmetrics":
        intervals[preset.column] = replace(first, value=max(first.value, 0.0))
    shown = summary.shown()
    rows = [_report_row(row, preset.field) for _, _, row in shown]
    failed = [_report_row(row, preset.field) for row in summary.failed_rows()]
    rows += [row for row in failed if row not in rows]
    photos = _photos(done, shown, work, settled.photos) + [None] * (len(rows) - len(shown))
    lost = (
        [f"{len(done.failed)} parts were given up: {next(iter(done.failed.values()))}"] if done.failed else []
    )
    length = card.text.context_length if card is not None else 0
    cut = f"{summary.truncated} captions were longer than {length} tokens and were cut"
    return ScoreTable(
        rows=rows,
        photos=photos,
        photo_names=[None] * len(rows),
        columns={},
        statistics={},
        intervals=intervals,
        provenance=_provenance(work, card, summary)
        | {
            **where,
            "images": work.images and without_query(work.images),
            "references": settled.named or work.extras.references or None,
        }
        | ({} if work.extras.tokenizer == "ptb" else {"tokenizer": work.extras.tokenizer}),
        images_without_caption=[],
        notes=[
            *lost,
            *([cut] if summary.truncated else []),
            *summary.notes(),
            *_said(summary, work, settled),
            *interval_notes(intervals.values()),
        ],
        fields={name: preset.field if fields[name] == "score" else fields[name] for name in intervals},
        without_references=summary.without_references,
        diversity=summary.captions.measures(work.extras.training) if summary.captions else {},
        sources=[Path(source.name) for source in done.plan.sources],
        sampled={"captions": summary.rows, "failed": summary.failed, "truncated": summary.truncated},
    )


def _said(summary: Summary, work: ScoreWork, settled: Settled) -> list[str]:
    """Notes on what was computed beside the model's scores: what is exact, and what estimated."""
    said = ["no model was used: these are metrics on references alone"] * work.alone
    said += settled.said() if work.extras else []
    if summary.without_references:
        said.append(f"{summary.without_references} of {summary.rows} captions have no references")
    if summary.word_for_word:
        said.append(f"{summary.word_for_word} captions stand word for word among their own references")
    if work.extras.columns:
        said.append(
            "metrics on references are exact: means over all rows, and BLEU and METEOR from sums over all rows"
        )
    return said + (summary.captions.notes() if summary.captions else [])


def _report_row(row: dict[str, Any], field: str) -> dict[str, Any]:
    """A part's row as reports have it: the score under its own name."""
    renamed = {field if name == "score" else name: value for name, value in row.items()}
    return renamed if field != "cosine" else {**row, "cosine": row["score"]}


def _provenance(work: ScoreWork, card: ModelCard | None, summary: Summary) -> dict[str, Any]:
    preset = find_preset(work.preset)
    counts = {"rows": summary.rows, "failed": summary.failed, "truncated": summary.truncated}
    if card is None:
        return {"model": None, "versions": versions(), **counts}
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
        "versions": versions(),
        **counts,
    }


def _photos(
    done: Finished, shown: list[tuple[int, int, dict[str, Any]]], work: ScoreWork, index: PhotoIndex | None
) -> list[ImageInput | None]:
    """The photos of the lowest and highest of the shown rows, whose parts are read again; None for the others."""
    photos: list[ImageInput | None] = [None] * len(shown)
    if work.alone or (work.images is not None and index is None):
        return photos
    order = sorted((i for i, (_, _, row) in enumerate(shown) if row["score"] is not None),
                   key=lambda i: shown[i][2]["score"])  # fmt: skip
    wanted = {i for i in (*order[:EXTREMES], *order[-EXTREMES:])}
    by_part: dict[int, dict[int, int]] = {}
    for i in wanted:
        by_part.setdefault(shown[i][0], {})[shown[i][1]] = i
    reader = PartReader(work.columns, work.several, work.images, index)
    for number, rows in sorted(by_part.items()):
        part = done.plan.part(number)
        if part.source.remote:
            continue  # not fetched again for a picture
        at = 0
        for entries, found, _, _ in reader.blocks(part, lambda _: None):
            for row, i in rows.items():
                if at <= row < at + len(entries):
                    photos[i] = _here(found[row - at])
            at += len(entries)
            if at > max(rows):
                break
    return photos


def _here(photo: ImageInput | None) -> ImageInput | None:
    """The photo; one of a store by its content, None where that cannot be had now."""
    from cliplet.stream.remote_photos import RemotePhoto

    try:
        return photo.fetch() if isinstance(photo, RemotePhoto) else photo
    except ClipletError:
        return None


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
