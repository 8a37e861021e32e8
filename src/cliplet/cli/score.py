"""``cliplet score``: one image with captions, or a captioner's output file."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options, stream
from cliplet.cli.console import one_line, print_json, progress_bar
from cliplet.cli.scores import print_table
from cliplet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cliplet.data.captions import Columns
    from cliplet.metrics.cider import DocumentFrequencies
    from cliplet.scoring.explain import Explanation
    from cliplet.scoring.file import ScoreTable
    from cliplet.scoring.scorer import Scorer

EXPLAINING = 20.0
"""Seconds after which no further row is explained."""


@click.command()
@click.argument("target")
@click.argument("captions", nargs=-1)
@click.option(
    "--images",
    metavar="DIR|TAR",
    help="Folder or tar of the photos of a captions file, or a pattern.",
)
@options.refs
@options.image_column
@options.caption_column
@options.separator
@options.metrics
@options.tokenizer
@options.df
@options.model
@options.computing
@options.preset
@click.option("--match", metavar="FILE",
              help="File of cliplet calibrate --out; default: the match that the model has.")  # fmt: skip
@options.out("rows.jsonl, rows.csv, summary.json and report.html")
@click.option("--diversity", is_flag=True,
              help="Also measure length, vocabulary, repetition and self-retrieval of the captions.")  # fmt: skip
@click.option("--train-captions", metavar="FILE",
              help="File of training captions: as --diversity, with the share of captions not in it.")  # fmt: skip
@click.option("--safe-csv", is_flag=True,
              help="Put an apostrophe before cells of rows.csv that a spreadsheet takes for formulas.")  # fmt: skip
@click.option("--explain", "explained", type=click.IntRange(0, 12), default=12, show_default=True, metavar="N",
              help="Number of lowest captions that report.html explains; 0 for none.")  # fmt: skip
@options.as_json
@click.option("--strict", is_flag=True,
              help="Exit with status 1 when a row could not be scored, or lacks references.")  # fmt: skip
@options.cache
@options.cache_dir
@stream.options
def score(
    target: str,
    captions: tuple[str, ...],
    images: str | None,
    refs: str | None,
    image_column: str | None,
    caption_column: str | None,
    separator: str | None,
    metrics: str | None,
    tokenizer: str,
    df: str | None,
    model: str | None,
    device: str | None,
    precision: str | None,
    preset: str,
    match: str | None,
    out: str | None,
    diversity: bool,
    train_captions: str | None,
    safe_csv: bool,
    explained: int,
    as_json: bool,
    strict: bool,
    cache: bool,
    cache_dir: str | None,
    streaming: stream.Streaming,
) -> None:
    """Score captions against their images.

    \b
    cliplet score dog.jpg "a dog on the beach" "a cat"     one photo
    cliplet score captions.json --images photos/           a captioner's output
    cliplet score 'shards/{000..003}.tar'                  several files or shards
    cliplet score captions.json --refs refs.json --metrics bleu,cider    no photos

    A captions file is JSON {image: caption}, COCO results, Karpathy's JSON, JSON Lines, CSV, TSV, Parquet, Arrow, a
    token file, a WebDataset tar, or a folder of photo.jpg with photo.txt.

    Metrics on references need no photos: where --metrics names them, --images is not given and the images have no
    photo, no model is loaded. --model none leaves it out always.
    """
    if streaming.wanted([target, *captions], [images, refs]):
        if safe_csv:
            raise click.UsageError("--safe-csv is for rows.csv, which a stream of parts does not write")
        from cliplet.data.captions import Columns
        from cliplet.stream.wanted import Wanted

        wanted = Wanted(refs, options.metric_names(metrics), df, tokenizer, diversity, train_captions)
        stream.score_parts(
            streaming, [target, *captions], out, model, preset, match, images,
            Columns(image_column, caption_column, separator), wanted, cache_dir or cache, as_json, strict,
            device, precision,
        )  # fmt: skip
        return
    sources = _sources(target, captions)
    if sources is None:
        if model == "none":
            raise click.UsageError("--model none is for a captions file with references, not for one image")
        _check_single(target, captions, images, refs, out, df)
        alone = build_scorer(model, preset, cache_dir or cache, match, device, precision)
        _score_one(alone, target, captions, as_json, strict)
        return
    from cliplet.data.captions import Columns
    from cliplet.files import writable_folder

    folder = None if out is None else writable_folder(out)
    chosen, columns = options.metric_names(metrics), Columns(image_column, caption_column, separator)
    leave_out = without_model(model, sources, images, chosen, columns)
    scorer = None if leave_out else build_scorer(model, preset, cache_dir or cache, match, device, precision)
    table = compute_table(scorer, sources, images, refs, chosen, load_frequencies(df), columns, tokenizer)
    if diversity or train_captions:
        from cliplet.scoring.diversity import caption_diversity

        table = replace(table, diversity=caption_diversity(table, scorer, train_captions))
    why = {} if folder is None or scorer is None else explain_lowest(table, scorer, explained)
    show_table(table, folder, as_json, safe_csv, why)
    if strict and (table.failures or table.without_references):
        sys.exit(1)


def _sources(target: str, more: tuple[str, ...]) -> "list[Path] | None":
    """The captions files that the arguments name; None for one photo with captions."""
    from cliplet.data.names import is_photo_path
    from cliplet.data.sources import expand

    if more and (is_photo_path(target) or not all(map(_names_files, more))):
        return None
    sources = [source for text in (target, *more) for source in expand(text)]
    for photo in (str(source) for source in sources if is_photo_path(str(source)) and not source.is_dir()):
        raise click.UsageError(
            f'{photo} is a photo: give it a caption too, as in: cliplet score {photo} "a dog"'
        )
    return sources


def _names_files(text: str) -> bool:
    """Whether an argument is a file or folder, or a pattern that meets some, rather than a caption."""
    from cliplet.data.sources import expand

    try:
        return all(os.path.exists(path) for path in expand(text))
    except InputError:
        return False


def _check_single(
    target: str,
    captions: tuple[str, ...],
    images: str | None,
    refs: str | None,
    out: str | None,
    df: str | None,
) -> None:
    from cliplet.data.names import is_photo_path

    for text in captions:
        if Path(text).suffix and (is_photo_path(text) or os.path.isfile(text)):
            raise click.UsageError(
                f"{text} is a file, not a caption: score one photo with captions in quotes, or a folder in which each "
                "photo.jpg has its photo.txt, or a captions file with --images"
            )
    for option, value in (("--images", images), ("--refs", refs), ("--out", out), ("--df", df)):
        if value is not None:
            raise click.UsageError(f"{option} is for a captions file, not for one image with captions")
    if not os.path.exists(target):
        raise click.UsageError(f"{target}: there is no such file")


def load_frequencies(path: str | None) -> "DocumentFrequencies | None":
    """The file of ``--df``."""
    if path is None:
        return None
    from cliplet.metrics.cider import DocumentFrequencies

    return DocumentFrequencies.load(path)


def build_scorer(
    model: str | None,
    preset: str,
    cache: str | bool,
    match: str | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> "Scorer":
    """The scorer that the options ask for."""
    from cliplet.scoring.scorer import Scorer

    return Scorer(model, preset, cache=cache, match=match, device=device, precision=precision)


def without_model(
    model: str | None,
    files: "Sequence[str | Path]",
    images: str | None,
    metrics: list[str] | None,
    columns: "Columns | None" = None,
) -> bool:
    """Whether only metrics on references are wanted: ``--model none``, or ``--metrics`` for files without photos."""
    if model is not None or images is not None or not metrics:
        return model == "none"
    from cliplet.scoring.file import has_photos

    return not any(has_photos(file, columns) for file in files)


def _score_one(scorer: "Scorer", image: str, captions: tuple[str, ...], as_json: bool, strict: bool) -> None:
    result = scorer.score(image, captions)
    if all(reason is not None for reason in result.failures):
        raise InputError(str(result.failures[0]))
    order = sorted(
        range(len(captions)), key=lambda i: -result.cosine[i] if result.failures[i] is None else 9e9
    )
    if as_json:
        rows = [
            {
                "image": image,
                "caption": captions[i],
                "score": _number(result.score[i]),
                **({} if result.match is None else {"match": _number(result.match[i])}),
                **({} if result.a_clip_score is None else {"a_clip_score": _number(result.a_clip_score[i])}),
                "cosine": _number(result.cosine[i]),
                "truncated": bool(result.truncated[i]),
                "reason": result.failures[i],
            }
            for i in order
        ]
        summary = {
            "captions": len(rows),
            "failed": sum(map(bool, result.failures)),
            "best": rows[0]["caption"],
            "notes": result.notes,
        }
        print_json({"summary": summary, "rows": rows, "provenance": result.provenance})
    else:
        columns = {result.preset.column: result.score}
        if result.a_clip_score is not None:
            columns["aCLIPScore"] = result.a_clip_score
        if result.match is not None:
            columns = {"match": result.match} | columns
        widths = [max(9, len(name)) for name in columns]
        click.echo("  ".join(f"{name:>9}" for name in columns) + "  caption")
        for i in order:
            shown = ["-" if result.failures[i] else f"{values[i]:.3f}" for values in columns.values()]
            said = [result.failures[i], result.without_content.get(i)]
            said.append("cut to the model's context" if result.truncated[i] else None)
            why = "".join(f"  [{reason}]" for reason in said if reason)
            cells = "  ".join(f"{value:>{width}}" for value, width in zip(shown, widths, strict=True))
            click.echo(cells + f"  {one_line(captions[i])}{why}")
        for note in result.notes:
            click.echo(f"note: {note}")
    if strict and any(result.failures):
        sys.exit(1)


def compute_table(
    scorer: "Scorer | None",
    captions: "str | Sequence[Path]",
    images: str | None,
    refs: str | None = None,
    metrics: list[str] | None = None,
    frequencies: "DocumentFrequencies | None" = None,
    columns: "Columns | None" = None,
    tokenizer: str = "ptb",
) -> "ScoreTable":
    """Score a captions file, or several, with a progress bar."""
    from cliplet.scoring.file import score_file

    with progress_bar("scoring") as progress:
        return score_file(captions, images, scorer, refs, metrics, frequencies, progress, columns, tokenizer)


def explain_lowest(table: "ScoreTable", scorer: "Scorer", most: int) -> "dict[int, Explanation]":
    """Explanations of the words of the lowest rows that have a photo, by row; a row that has none keeps its score."""
    if not most:
        return {}
    from cliplet.errors import ClipletError
    from cliplet.reports.score import lowest_rows
    from cliplet.scoring.explain import Explainer

    explainer = Explainer(scorer=scorer)
    found: dict[int, Explanation] = {}
    start = time.monotonic()
    for i in lowest_rows(table, most):
        photo = table.photos[i]
        if time.monotonic() - start > EXPLAINING:
            table.notes.append(
                f"only the {len(found)} lowest captions are explained: that took {EXPLAINING:.0f} s"
            )
            break
        if photo is not None:
            try:
                found[i] = explainer.explain(photo, table.rows[i]["caption"], regions=False)
            except ClipletError as error:
                table.notes.append(f"{table.rows[i]['where']} could not be explained: {error}")
    return found


def show_table(
    table: "ScoreTable",
    folder: Path | None,
    as_json: bool = False,
    safe_csv: bool = False,
    explained: "Mapping[int, Explanation] | None" = None,
) -> None:
    """Write the report if there is a folder for it, and print the table or one JSON object."""
    if folder is not None:
        from cliplet.reports.score import write_score_report

        write_score_report(table, folder, safe_csv, explained)
    if as_json:
        print_json({"summary": table.summary(), "rows": table.rows, "provenance": table.provenance})
    else:
        print_table(table, folder)


def _number(value: Any) -> float | None:
    return None if value != value else round(float(value), 6)
