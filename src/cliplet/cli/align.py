"""``cliplet align``: fit a map between photos and texts, without training, and write the model folder."""

from pathlib import Path
from typing import Any

import click

from cliplet.cli import options
from cliplet.cli.console import one_line, progress_bar
from cliplet.errors import MissingExtraError

SHOWN = 5
"""Reasons that are printed."""


@click.command()
@click.argument("model")
@click.option("--captions", required=True, type=click.Path(path_type=Path, exists=True),
              help="File of captions, in any format that cliplet score reads; several a photo help.")  # fmt: skip
@click.option("--images", metavar="DIR|TAR",
              help="Folder or tar of the photos; default: where the captions file says they are.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--method", type=options.Names(options.alignments),
              help="Way to fit the map; default: procrustes for one encoder, cca for two.")  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(2), help="Largest number of photos to fit on, the first of the file."
)
@click.option("--name", help="Name of the new model.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True,
              help="Stored weights of encoders that are PyTorch only and exported here.")  # fmt: skip
@options.image_column
@options.caption_column
@options.as_json
@click.option("--strict", is_flag=True, help="Exit with status 1 when a photo or caption had to be left out.")
def align(
    model: str,
    captions: Path,
    images: str | None,
    out: Path,
    method: str | None,
    limit: int | None,
    name: str | None,
    precision: Any,
    image_column: str | None,
    caption_column: str | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Fit a map between the photos and the texts of MODEL in seconds, and write the model folder OUT.

    \b
    cliplet align hf:owner/clip --captions pairs.json --images photos/ --out new/
    cliplet align lite0+minilm-l6 --captions pairs.json --out dual/
    cliplet align timm:resnet18+st:sentences/ --captions pairs.csv --out dual/

    MODEL is one encoder of photos and texts, or IMAGES+TEXTS: a model of timm and a sentence encoder that never met.
    What helps is printed: how often held-out captions find their photo, before and after.
    """
    from cliplet.data.captions import Columns
    from cliplet.data.pairs import read_photo_captions
    from cliplet.encoders.aligned import align as fit

    try:
        from cliplet.export.aligned import check_target, export_aligned
    except ImportError as error:
        raise MissingExtraError(f"cliplet align ({error})", "train") from error

    check_target(out)
    pairs = read_photo_captions(captions, images, Columns(image_column, caption_column), limit)
    with progress_bar("embedding") as progress:
        aligned = fit(
            model, pairs.photos, pairs.captions, method, name=name,
            progress=None if progress is None else lambda what, done, all_: progress(done, all_),
        )  # fmt: skip
    found = export_aligned(aligned, out, precision)
    report = aligned.report
    assert report is not None
    failures = pairs.failures | {pairs.names[i]: reason for i, reason in report.failures.items()}
    if as_json:
        _print_json(aligned.card.name, str(out), report, failures, found)
    else:
        for line in report.lines():
            click.echo(line)
        click.echo(f"{out}: a model folder ({aligned.card.embedding_dim} dimensions); try it with  "
                   f"cliplet score PHOTO CAPTION --model {out}")  # fmt: skip
    if failures and not as_json:
        click.echo(f"{len(failures):,} photos were left out, or captions of them:", err=True)
        for photo, reason in list(failures.items())[:SHOWN]:
            click.echo(f"  {one_line(photo)}: {one_line(reason)}", err=True)
    if failures and strict:
        raise click.exceptions.Exit(1)


def _print_json(name: str, out: str, report: Any, failures: dict[str, str], found: dict[str, float]) -> None:
    from dataclasses import asdict

    from cliplet.cli.console import print_json

    facts = asdict(report) | {
        "failures": failures,
        "model": name,
        "out": out,
        "folder_largest_difference": found,
    }
    print_json(facts)
