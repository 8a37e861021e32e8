"""``cliplet compare``: which captioner is better."""

from typing import TYPE_CHECKING

import click

from cliplet.cli import options
from cliplet.cli.console import print_json, progress_bar
from cliplet.cli.score import build_scorer, load_frequencies, without_model

if TYPE_CHECKING:
    from cliplet.scoring.compare import Comparison


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--images", metavar="DIR|TAR", help="Folder or tar with the photos.")
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
@options.out("comparison.json, per_image.csv and report.html")
@options.as_json
@click.option("--cache-dir", metavar="DIR", help="Folder that keeps embeddings between runs.")
@options.resamples(2000, least=1)
@click.option(
    "--seed", default=0, show_default=True, help="Random seed of the resamples and the permutations."
)
def compare(
    files: tuple[str, ...],
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
    out: str | None,
    as_json: bool,
    cache_dir: str | None,
    resamples: int,
    seed: int,
) -> None:
    """Compare two or more captioners on the same images.

    \b
    cliplet compare a.json b.json --images photos/ --refs refs.json --out report/

    Every metric of each captioner with its bootstrap interval, the differences with paired intervals and
    permutation p-values corrected for the number of metrics (Holm), wins and losses image by image. Without
    photos, or with --model none, metrics on references alone, as in `cliplet score`. Columns and a separator that
    are named hold for all the files.
    """
    import tempfile

    from cliplet.data.captions import Columns
    from cliplet.files import writable_folder
    from cliplet.reports.compare import write_comparison
    from cliplet.scoring.compare import compare_files

    if len(files) < 2:
        raise click.UsageError("give two or more captions files")
    folder = None if out is None else writable_folder(out)
    with tempfile.TemporaryDirectory() as passing, progress_bar("scoring") as progress:
        chosen, frequencies = options.metric_names(metrics), load_frequencies(df)
        columns = Columns(image_column, caption_column, separator)
        leave_out = without_model(model, files, images, chosen, columns)
        cache = cache_dir or passing  # photos are encoded once for all files
        scorer = None if leave_out else build_scorer(model, preset, cache, None, device, precision)
        comparison = compare_files(
            files, images, scorer, refs, chosen, frequencies, resamples, seed, progress, tokenizer, columns
        )
    if folder is not None:
        write_comparison(comparison, folder)
    if as_json:
        provenance = {n: t.provenance for n, t in zip(comparison.names, comparison.tables, strict=True)}
        print_json({"summary": comparison.summary(), "provenance": provenance})
        return
    _print(comparison, None if folder is None else str(folder / "report.html"))


def _print(comparison: "Comparison", report: str | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cliplet.reports.compare import better

    console = Console(highlight=False)
    console.print(f"{len(comparison.images)} images that all captioners have", style="bold")
    values = Table(box=SIMPLE_HEAD, pad_edge=False)
    values.add_column("metric")
    for name in comparison.names:
        values.add_column(escape(name), justify="right")
    for metric, intervals in comparison.intervals.items():
        values.add_row(escape(metric), *(f"{i.value:.4f}" for i in intervals))
    for measure in comparison.tables[0].diversity:
        values.add_row(
            measure, *(f"{t.diversity[measure]:.4g}" for t in comparison.tables if measure in t.diversity)
        )
    console.print(values)
    tests = Table(box=SIMPLE_HEAD, pad_edge=False)
    pairs = len(comparison.names) > 2
    first = "difference" if pairs else f"{comparison.names[0]} - {comparison.names[1]}"
    for heading in ("metric", first, "95 % interval", "p", "win/loss/tie", "higher"):
        tests.add_column(escape(heading), justify="left" if heading in ("metric", "higher") else "right")
    for d in comparison.differences:
        metric = f"{d.metric}: {d.first} - {d.second}" if pairs else d.metric
        interval = f"{d.test.low:+.3f} {d.test.high:+.3f}" if d.test.low == d.test.low else "-"
        counts = f"{d.wins}/{d.losses}/{d.ties}"
        winner = better(d) or "-"
        tests.add_row(escape(metric), f"{d.test.difference:+.4f}", interval, f"{d.p_adjusted:.3f}", counts,
                      escape(winner))  # fmt: skip
    console.print(tests)
    console.print("p: permutation test, corrected for all rows (Holm); higher: at the 5 % level")
    console.print("the intervals are not corrected: one may exclude 0 where no captioner is called higher")
    for name, count in comparison.left_out.items():
        if count:
            console.print(
                escape(f"left out: {count} images of {name} that another file has no scored caption for")
            )
    for name, table in zip(comparison.names, comparison.tables, strict=True):
        if table.failures:
            console.print(escape(f"failed: {len(table.failures)} of {len(table.rows)} captions of {name}"))
    for note in comparison.notes:
        console.print(escape(f"note: {note}"))
    if report:
        console.print(escape(f"written: {report}"), soft_wrap=True)
