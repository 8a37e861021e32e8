"""The table of scores that commands print."""

from pathlib import Path
from typing import TYPE_CHECKING

from cliplet.cli.console import one_line

if TYPE_CHECKING:
    from cliplet.scoring.file import ScoreTable
    from cliplet.statistics.resampling import Interval

SHOWN_FAILURES = 10


def print_table(table: "ScoreTable", folder: Path | None) -> None:
    """Print corpus values, failures, notes, and where the files are."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    grid = Table(title=escape(one_line(f"{table.title}: {table.captions} captions")), title_justify="left")
    grid.add_column("score")
    for name in ("mean", "95 % interval", "captions"):
        grid.add_column(name, justify="right")
    for name, interval in table.intervals.items():
        grid.add_row(escape(name), f"{interval.value:.4f}", _range(interval), str(interval.n))
    console.print(grid)
    for name, measure in table.diversity.items():
        console.print(escape(f"{name}: {measure:.4g}"))
    facts = table.provenance
    if table.with_model:
        w = f", w = {facts['w']:g}" if facts["preset"] == "paper" else ""
        usual = facts.get("device", "cpu") == "cpu" and facts.get("precision") != "bf16"
        where = "" if usual else f", {facts['precision']} on {facts['device']} ({facts['provider']})"
        line = f"model {facts['model']} ({facts['fingerprint']}), preset {facts['preset']}{w}{where}"
        console.print(escape(one_line(line)), soft_wrap=True)
    failures = table.failures
    console.print(f"failed: {table.failed} of {table.captions}", style="bold red" if failures else "")
    for row in failures[:SHOWN_FAILURES]:
        told = [row["where"], one_line(str(row["image"])), row["reason"]]  # what a tar has lost has no image
        console.print(escape("  " + ": ".join(str(part) for part in told if part)), soft_wrap=True)
    if len(failures) > SHOWN_FAILURES:
        console.print(
            f"  and {table.failed - SHOWN_FAILURES} more{'' if folder else '; --out DIR lists them all'}"
        )
    if table.images_without_caption:
        first = ", ".join(table.images_without_caption[:3])
        console.print(escape(f"photos without a caption: {len(table.images_without_caption)} ({first} ...)"))
    for note in table.notes:
        console.print(escape(f"note: {note}"))
    if folder is not None:
        rows = "summary.json and parts" if table.sampled else "rows.jsonl, rows.csv, summary.json"
        console.print(escape(f"written: {folder / 'report.html'}, {rows}"), soft_wrap=True)


def _range(interval: "Interval") -> str:
    return "" if interval.low != interval.low else f"{interval.low:.4f} to {interval.high:.4f}"
