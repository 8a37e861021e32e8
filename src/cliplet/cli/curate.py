"""``cliplet curate``: remove bad pairs and copies from image-text data."""

import sys
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options, stream
from cliplet.cli.console import one_line, print_json

if TYPE_CHECKING:
    from cliplet.curate.dry import Estimate
    from cliplet.curate.result import Curated
    from cliplet.curate.rules import Rules

SHOWN_NOTES = 12


def _rules_names() -> dict[str, str]:
    from cliplet.curate.rules import RULES

    return {"names": ", ".join(list(RULES)[1:])}


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", metavar="DIR", help="Folder for all outputs; needed but for --dry-run.")
@click.option(
    "--images", metavar="DIR|TAR", help="Folder or tar of the photos of captions files, or a pattern."
)
@click.option("--min-match", type=click.FloatRange(0, 1), metavar="P",
              help="Least match; default: 0.2 where no threshold is given and the model has a match.")  # fmt: skip
@click.option("--min-score", type=float, metavar="X", help="Least score, on the scale of --preset.")
@click.option("--min-cosine", type=float, metavar="X", help="Least cosine.")
@click.option("--top-share", type=click.FloatRange(0, 1, min_open=True), metavar="P",
              help="Share of all scored pairs to keep, those of the highest cosine.")  # fmt: skip
@click.option("--min-words", type=click.IntRange(0), default=3, show_default=True, metavar="N",
              help="Least number of words of a caption.")  # fmt: skip
@click.option("--max-repeats", type=click.IntRange(0), default=20, show_default=True, metavar="N",
              help="Most photos that one caption may stand beside; 0 for any number.")  # fmt: skip
@click.option("--language", metavar="CODE",
              help="Language of the captions, such as en: others are removed; default: not looked at.")  # fmt: skip
@click.option(
    "--min-side", type=click.IntRange(0), default=0, metavar="N", help="Least short side, in pixels."
)
@click.option("--max-aspect", type=click.FloatRange(0), default=0, metavar="X",
              help="Most that the long side may be of the short one; 0 for any.")  # fmt: skip
@click.option("--duplicates", type=click.Choice(["photos", "pairs", "keep"]), default="photos", show_default=True,
              help="Copies to remove: all of a photo, those with the same caption too, or none.")  # fmt: skip
@click.option("--near-duplicates/--no-near-duplicates", default=True, show_default=True,
              help="Take near copies (size, compression, crop) for copies.")  # fmt: skip
@click.option("--near-cosine", type=click.FloatRange(0, 1), metavar="X",
              help="Least cosine of near copies; default: {near_cosine}.", cls=options.TableOption,
              fill=lambda: _defaults())  # fmt: skip
@click.option("--near-bits", type=click.IntRange(0, 256), metavar="N",
              help="Most bits of 256 in which the hashes of near copies differ; default: {near_bits}.",
              cls=options.TableOption, fill=lambda: _defaults())  # fmt: skip
@click.option("--skip", multiple=True, metavar="RULE", cls=options.TableOption, fill=_rules_names,
              help="Rule that shall remove nothing; may be repeated: {names}.")  # fmt: skip
@click.option("--write", "form", type=click.Choice(["list", "csv", "parquet", "shards", "none"]), default="list",
              show_default=True, help="What is kept: kept.jsonl, kept.csv, or files in kept/.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what there is and how long it would take; write nothing.")
@options.image_column
@options.caption_column
@options.separator
@options.model
@options.device
@options.precision
@options.preset
@click.option("--match", metavar="FILE",
              help="File of cliplet calibrate --out; default: the match that the model has.")  # fmt: skip
@stream.curate_options
@options.as_json
@click.option("--strict", is_flag=True, help="Exit with status 1 when a pair could not be read.")
def curate(
    sources: tuple[str, ...],
    out: str | None,
    images: str | None,
    form: str,
    dry_run: bool,
    image_column: str | None,
    caption_column: str | None,
    separator: str | None,
    model: str | None,
    device: str | None,
    precision: str | None,
    preset: str,
    match: str | None,
    as_json: bool,
    strict: bool,
    streaming: stream.Streaming,
    **given: Any,
) -> None:
    """Remove mismatched pairs, copies and empty captions from SOURCES.

    \b
    cliplet curate 'shards/{00000..00999}.tar' --out clean --dry-run
    cliplet curate 'shards/{00000..00999}.tar' --out clean --write shards
    cliplet curate captions.csv --images photos/ --out clean --top-share 0.3

    Each removed pair stands in removed.jsonl with its reasons, report.html shows the worst, the borderline and the
    kept. Given again it goes on where it stopped; with other rules it decides anew without measuring again.
    """
    if out is None and not dry_run:
        raise click.UsageError("name the folder of the outputs with --out DIR, or give --dry-run")
    if model == "none":
        raise click.UsageError("--model none: curation scores pairs, which needs a model")
    from cliplet.curate.rules import Rules
    from cliplet.stream.part import need_pyarrow

    need_pyarrow()
    from cliplet.curate.run import curate as run_curation
    from cliplet.curate.work import CurateWork
    from cliplet.curate.write import check_form
    from cliplet.data.captions import Columns
    from cliplet.stream.plan import PART_ROWS
    from cliplet.stream.sources import find_sources

    rules = Rules(**{name: value for name, value in given.items() if value is not None})
    columns = Columns(image_column, caption_column, separator)
    engine, workers, threads = streaming.shared_out()
    work = CurateWork(
        model, preset, match, images, columns, threads=threads, device=device, precision=precision
    )
    found = find_sources(sources)
    check_form(form, found)
    part_rows = streaming.part_rows or PART_ROWS
    if dry_run:
        from cliplet.curate.dry import estimate
        from cliplet.curate.run import settings_of, with_threshold

        _, card, has_match = settings_of(work)
        rules = with_threshold(rules, has_match, card)
        _show_estimate(estimate(found, rules, work, part_rows), rules, max(1, workers), as_json)
        return
    assert out is not None
    done = run_curation(
        found, out, rules, work, form=form, engine=engine, workers=workers, part_rows=part_rows,
        retry_failed=streaming.retry_failed, quiet=as_json, progress=None if as_json else _tell,
    )  # fmt: skip
    _show(done, as_json)
    if done.failed or (strict and done.counts.rules["unreadable"]):
        sys.exit(1)


def _defaults() -> dict[str, str]:
    from cliplet.curate.rules import Rules

    return {"near_cosine": f"{Rules.near_cosine:g}", "near_bits": f"{Rules.near_bits}"}


def _tell(what: str, done: int, total: int) -> None:
    """A line that is written over, on a terminal alone."""
    if sys.stderr.isatty():
        end = "\r\x1b[K" if done >= total else ""
        print(f"\r\x1b[K{what}: {done} of {total}{end}", end="", file=sys.stderr, flush=True)


def _show_estimate(found: "Estimate", rules: "Rules", workers: int, as_json: bool) -> None:
    from cliplet.curate.rules import RULES

    seconds = found.seconds(workers)
    if as_json:
        print_json({
            "sources": found.sources, "bytes": found.bytes, "parts": found.parts, "pairs": found.pairs,
            "exact": found.exact, "sampled": found.sampled, "pairs_a_second": round(found.rate, 1),
            "seconds": round(seconds, 1), "sample_kept": found.kept, "sample_removed": dict(found.removed),
        })  # fmt: skip
        return
    about = "" if found.exact else "about "
    click.echo(
        f"{found.sources} files, {_size(found.bytes)} to read, {about}{found.pairs:,} pairs, {found.parts} parts"
    )
    click.echo(
        f"measured {found.sampled} pairs: {found.rate:,.0f} a second; all of them take about {_time(seconds)}"
        + (f" with {workers} workers" if workers > 1 else "")
    )
    click.echo(f"of these {found.sampled}, {found.kept} would be kept by the rules of single pairs:")
    for rule, n in found.removed.most_common():
        click.echo(f"  {n:>6}  {rule}: {RULES[rule]}")
    if rules.duplicates != "keep":
        click.echo("copies, repeated captions and shares are found in the whole alone")
    click.echo("nothing was written")


def _size(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show(done: "Curated", as_json: bool) -> None:
    if as_json:
        from cliplet.curate.run import summary

        print_json(summary(done, {}))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cliplet.curate.report import HEAD, threshold_rows
    from cliplet.curate.rules import RULES

    counts, console = done.counts, Console(highlight=False)
    share = counts.kept / counts.pairs if counts.pairs else 0
    console.print(f"{counts.kept:,} of {counts.pairs:,} pairs kept ({share:.1%})", style="bold")
    grid = Table(title="removed", title_justify="left")
    grid.add_column("rule")
    for name in ("pairs", "by it alone"):
        grid.add_column(name, justify="right")
    for rule, n in counts.rules.most_common():
        grid.add_row(escape(f"{rule}: {RULES[rule]}"), f"{n:,}", f"{counts.only[rule]:,}")
    if counts.rules:
        console.print(grid)
    table = Table(title=f"which threshold? of {counts.scored:,} scored pairs", title_justify="left")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in threshold_rows(counts):
        table.add_row(*row)
    console.print(table)
    for note in done.notes[:SHOWN_NOTES]:
        console.print(escape(one_line(f"note: {note}")), soft_wrap=True)
    if len(done.notes) > SHOWN_NOTES:
        console.print(f"and {len(done.notes) - SHOWN_NOTES} more notes in summary.json")
    took = ", ".join(f"{name} {_time(seconds)}" for name, seconds in done.seconds.items())
    console.print(escape(f"took: {took}"))
    names = ["report.html", "summary.json", *done.written.files]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    console.print(escape(f"written in {done.folder}: {', '.join(names[:6])}{more}"), soft_wrap=True)
