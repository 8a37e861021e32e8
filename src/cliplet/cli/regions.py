"""``cliplet regions``: what a detector or a grid sees on photos, and what a caption is cut into."""

import json
from pathlib import Path
from typing import Any

import click

from cliplet.cli import options
from cliplet.cli.console import one_line
from cliplet.errors import InputError


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--detector",
    default="grid",
    show_default=True,
    metavar="SOURCE",
    help="Detector: an .onnx of YOLOX or YOLOv8, grid or grid:1,2,3, a file of boxes (.json, .jsonl, .csv), "
    "ultralytics:WEIGHTS, or hf:OWNER/NAME.",
)
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Lowest score of a box."
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    default=0.45,
    show_default=True,
    help="Overlap above which the less sure of two boxes of one class is dropped.",
)
@click.option(
    "--draw", type=click.Path(path_type=Path), help="Draw the boxes: a file for one photo, else a folder."
)
@click.option(
    "--caption",
    help="Caption whose noun phrases are printed; with --run also what the teacher makes of both.",
)
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of a DCLIP run: follow one photo and its caption through its teacher and student.",
)
@click.option(
    "--seed", type=int, default=None, help="Seed whose model is followed; default: the run's first one."
)
@click.option("--variant", metavar="NAME", help="Variant of the run that is followed; default: its main one.")
@options.device
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line a photo and nothing else.")
def regions(
    photos: tuple[Path, ...], detector: str, score: float, iou: float, draw: Path | None, caption: str | None,
    run_folder: Path | None, seed: int | None, variant: str | None, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the regions of PHOTOS and the spans of a caption, as DCLIP's teacher gets them.

    \b
    cliplet regions dog.jpg --detector yolox_nano.onnx --draw boxes.jpg
    cliplet regions --caption "A brown dog jumps over a wooden fence"
    cliplet regions dog.jpg --caption "A brown dog" --run runs/dclip_flickr8k
    """
    if not photos and caption is None:
        raise click.UsageError("give photos, or --caption")
    if run_folder is not None:
        if device is not None:
            raise click.UsageError("--device is for the detector, not for --run")
        if len(photos) != 1 or caption is None:
            raise click.UsageError("--run follows one photo with one --caption")
        _follow(run_folder, photos[0], caption, draw, seed, variant, as_json)
        return
    if caption is not None and not as_json:
        _print_spans(caption)
    for photo in photos:
        found = _proposer(detector, score, iou, device)
        _one(photo, found, _drawing(draw, photo, len(photos)), as_json, caption)


def _one(
    photo: Path,
    proposer: Any,
    draw: Path | None,
    as_json: bool,
    caption: str | None,
) -> None:
    """Find, print and draw the regions of one photo."""
    from cliplet.data.images import load_rgb
    from cliplet.regions import draw_regions

    image = load_rgb(photo)
    found = proposer.propose(image, photo.name)
    if draw is not None:
        _save(draw_regions(image, found), draw)
    if as_json:
        rows = [
            {"box": [round(float(v), 1) for v in found.boxes[i]], "score": round(float(found.scores[i]), 4),
             "label": found.label(i)}
            for i in range(len(found))
        ]  # fmt: skip
        content: dict[str, Any] = {"image": str(photo), "regions": rows}
        if caption is not None:
            content["spans"] = _spans(caption)
        click.echo(json.dumps(content))
        return
    click.echo(f"{one_line(str(photo))}: {len(found)} regions on {image.width} x {image.height} pixels")
    for i in range(len(found)):
        box = " ".join(f"{v:6.0f}" for v in found.boxes[i])
        click.echo(f"  {i + 1:>3}  {box}  {found.scores[i]:.2f}  {found.label(i)}".rstrip())
    if draw is not None:
        click.echo(f"drawn: {draw}")


_PROPOSERS: dict[tuple[str, float, float, str | None], Any] = {}


def _proposer(detector: str, score: float, iou: float, device: str | None) -> Any:
    """The proposer, loaded once for all photos."""
    from cliplet.regions import make_proposer

    key = (detector, score, iou, device)
    if key not in _PROPOSERS:
        _PROPOSERS[key] = make_proposer(*key)
    return _PROPOSERS[key]


def _drawing(draw: Path | None, photo: Path, count: int) -> Path | None:
    """Where one photo's drawing goes."""
    if draw is None or count == 1:
        return draw
    if draw.suffix and not draw.is_dir():
        raise InputError(f"--draw {draw} is one file for {count} photos; name a folder")
    return draw / f"{photo.stem}.jpg"


def _save(image: Any, path: Path) -> None:
    """Write a drawing; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower() or ".jpg"
    kind = {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
    part = path.with_name(path.name + ".part")
    image.save(part, kind, quality=90)
    part.replace(path)


def _spans(caption: str) -> list[dict[str, Any]]:
    from cliplet.data.spans import noun_phrases

    return [{"text": s.text, "start": s.start, "end": s.end} for s in noun_phrases(caption)]


def _print_spans(caption: str) -> None:
    """The caption's noun phrases with their places."""
    spans = _spans(caption)
    click.echo(f"noun phrases of {one_line(caption)!r}:")
    for span in spans:
        click.echo(f"  {span['start']:>3}-{span['end']:<3}  {span['text']}")
    if not spans:
        click.echo("  none: the whole caption stands for them")


def _follow(
    run_folder: Path,
    photo: Path,
    caption: str,
    draw: Path | None,
    seed: int | None,
    variant: str | None,
    as_json: bool,
) -> None:
    """One photo and its caption through a run."""
    from cliplet.errors import MissingExtraError

    try:
        from cliplet.training.dclip.trace import follow, trace_text
    except ImportError as error:
        raise MissingExtraError(f"cliplet regions --run ({error})", "train") from error
    trace, found = follow(run_folder, photo, caption, seed, variant)
    if draw is not None:
        from cliplet.data.images import load_rgb
        from cliplet.regions import draw_regions

        notes = tuple(f"{i + 1}: {100 * r['weight']:.0f} %" for i, r in enumerate(trace["regions"]))
        _save(draw_regions(load_rgb(photo), found, notes), draw)
    click.echo(json.dumps(trace) if as_json else trace_text(trace))
