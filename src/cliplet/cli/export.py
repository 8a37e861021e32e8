"""``cliplet export``: any two-tower model as a folder that runs on ONNX Runtime alone."""

import textwrap
from pathlib import Path
from typing import Any

import click

from cliplet.errors import MissingExtraError


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--int8", "precision", flag_value="int8", default=True, help="Store weights in 8 bits (default)."
)
@click.option("--fp16", "precision", flag_value="fp16", help="Store weights in 16 bits.")
@click.option("--fp32", "precision", flag_value="fp32", help="Store weights as they are.")
@click.option(
    "--photos", type=click.Path(path_type=Path, exists=True), help="Folder or tar of photos to compare on."
)
@click.option(
    "--calibrate", type=click.Path(path_type=Path, exists=True),
    help="Folder or tar of training photos: the image tower's convolutions then compute in 8 bits, faster. For a "
    "transformer (CLIP, SigLIP): the products of both towers, any few hundred photos.",
)  # fmt: skip
@click.option(
    "--calibrate-captions", type=click.Path(path_type=Path, exists=True),
    help="File of training captions (some thousand): the text tower's products then compute in 8 bits, faster. "
    "Without it a CLIP or SigLIP with --calibrate takes plain English ones.",
)  # fmt: skip
@click.option(
    "--parts", type=click.Choice(["1", "2", "3"]), default="1", show_default=True,
    help="Products of 8 bits that stand for one of a transformer with --calibrate; 2 and 3 are nearer to fp32, and "
    "slower.",
)  # fmt: skip
@click.option(
    "--captions", type=click.Path(path_type=Path, exists=True), help="File of captions to compare on."
)
@click.option(
    "--limit",
    default=256,
    show_default=True,
    help="Largest number of photos and captions to compare on, and of photos (of captions eight times it) to calibrate "
    "on.",
)
@click.option("--name", help="Name of the new model; default: that of MODEL.")
def export(
    model: str,
    out: Path,
    precision: Any,
    photos: Path | None,
    calibrate: Path | None,
    calibrate_captions: Path | None,
    parts: str,
    captions: Path | None,
    limit: int,
    name: str | None,
) -> None:
    """Write MODEL as the model folder OUT, with a report of what changed (parity.json, parity.md).

    MODEL is a folder that `cliplet distill` wrote, open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME, or a local folder in
    the hub's layout. Weights may be stored in 8 or 16 bits; products are computed in 32 bits, but see --calibrate.
    """
    from cliplet.cli.console import progress_bar

    try:
        from cliplet.encoders.card import ModelCard
        from cliplet.export import export as write_folder
        from cliplet.export.inputs import compared_captions, compared_photos, load_source
    except ImportError as error:
        raise MissingExtraError(f"cliplet export ({error})", "train") from error

    with progress_bar("8-bit products") as shown:
        report = write_folder(
            load_source(model),
            out,
            precision,
            photos=None if photos is None else compared_photos(photos, limit),
            captions=None if captions is None else compared_captions(captions, limit),
            name=name,
            calibration=None if calibrate is None else compared_photos(calibrate, limit),
            calibration_captions=None
            if calibrate_captions is None
            else compared_captions(calibrate_captions, 8 * limit),
            parts=int(parts),  # type: ignore[arg-type]
            progress=None if shown is None else lambda tower, done, of: shown(done, of),
        )
    click.echo(report.markdown().split("\n", 2)[2])
    click.echo(textwrap.fill(f"Precision: {ModelCard.load(out).precision}", 80, subsequent_indent="    "))
    if precision == "int8" and report.integer_products == "none" and not (calibrate or calibrate_captions):
        click.echo("Its products are in fp32; with  --calibrate PHOTOS  they compute in 8 bits, faster.")
    click.echo(f"{out}: a model folder; try it with  cliplet score PHOTO CAPTION --model {out}")
