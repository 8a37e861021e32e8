"""``cliplet search``: photos by words, or by a photo."""

import json
from typing import TYPE_CHECKING

import click

from cliplet.cli import options
from cliplet.cli.console import one_line
from cliplet.cli.index import storage_options

if TYPE_CHECKING:
    from cliplet.search.index import Hit

WIDTH = 80 - len(" 99  -0.123  ")
"""Of a path in a terminal of 80 columns."""


@click.command()
@click.argument("index")
@click.argument("text", required=False)
@click.option("--photo", metavar="FILE", help="Photo that they should be like; with TEXT, the mean of both.")
@click.option("--without", metavar="TEXT", help="What they should not show.")
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, help="Number of photos to show."
)
@click.option("--out", metavar="FILE.html", help="Contact sheet to write: one HTML file with the photos.")
@options.model
@options.computing
@options.storage
@options.as_json
def search(
    index: str,
    text: str | None,
    photo: str | None,
    without: str | None,
    top: int,
    out: str | None,
    model: str | None,
    device: str | None,
    precision: str | None,
    storage: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find photos of INDEX by TEXT, by a photo, or by both.

    \b
    cliplet search photos.lance "a red bicycle" --out sheet.html
    cliplet search photos.lance --photo like.jpg --without people
    """
    from cliplet.search.index import Index

    if text is None and photo is None:
        raise click.UsageError("give a text, or --photo")
    opened = Index.open(index, model, storage_options(storage), device=device, precision=precision)
    hits = opened.search(text, photo, without, top)
    if out is not None:
        _write(out, _title(text, photo, without), hits)
    if as_json:
        for hit in hits:
            click.echo(json.dumps({"path": hit.path, "score": round(hit.score, 6), "also": hit.also}))
        return
    for rank, hit in enumerate(hits, 1):
        more = f"  +{len(hit.also)} more" if hit.also else ""
        click.echo(f"{rank:>3}  {hit.score:6.3f}  {_short(hit.path, WIDTH - len(more))}{more}")
    if not hits:
        click.echo("the index holds no photos")
    if out is not None:
        click.echo(f"written: {out}")


def _title(text: str | None, photo: str | None, without: str | None) -> str:
    parts = [text, f"like {photo}" if photo else None, f"without {without}" if without else None]
    return "Search: " + ", ".join(part for part in parts if part)


def _short(path: str, width: int) -> str:
    """The path in one line, its middle left out where it is too long."""
    path = one_line(path)
    if len(path) <= width:
        return path
    tail = width * 2 // 3
    return f"{path[: width - tail - 3]}...{path[-tail:]}"


def _write(out: str, title: str, hits: "list[Hit]") -> None:
    from pathlib import Path

    from cliplet.data.images import ImageInput
    from cliplet.errors import InputError
    from cliplet.reports.sheet import write_sheet
    from cliplet.search.index import photo_of

    photos: list[ImageInput] = []
    for hit in hits:
        try:
            photos.append(photo_of(hit.path))
        except InputError:
            photos.append(Path(hit.path))  # gone: the sheet says so
    write_sheet(out, title, photos, [h.score for h in hits], [h.path for h in hits], [h.also for h in hits])
