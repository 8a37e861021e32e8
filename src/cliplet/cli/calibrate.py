"""``cliplet calibrate``: from a model's cosines to a match that people can read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options
from cliplet.cli.console import print_json, progress_bar
from cliplet.errors import InputError

if TYPE_CHECKING:
    from cliplet.encoders.base import Encoder
    from cliplet.evaluation.calibration import Calibration

LEVELS = (0.2, 0.5, 0.8)


@click.command()
@click.argument("model")
@click.option("--captions", multiple=True, required=True, metavar="FILE",
              help="File of photos' own captions; may be repeated, each file is a collection.")  # fmt: skip
@click.option("--images", multiple=True, metavar="DIR|TAR", help="Folder or tar of photos; may be repeated.")
@click.option("--save", is_flag=True, help="Write the match into the model folder's card.json.")
@click.option("--out", metavar="FILE", help="JSON file to write the match to, for cliplet score --match.")
@click.option("--seed", default=0, show_default=True, help="Random seed of the wrong captions.")
@options.computing
@options.as_json
def calibrate(
    model: str,
    captions: tuple[str, ...],
    images: tuple[str, ...],
    save: bool,
    out: str | None,
    seed: int,
    device: str | None,
    precision: str | None,
    as_json: bool,
) -> None:
    """Measure how sure a cosine of MODEL makes one that a caption is the photo's own.

    \b
    cliplet calibrate my/model --captions dev.json --images photos/ --save
    cliplet calibrate hf:my/clip --captions dev.json --out match.json
    cliplet score captions.json --model hf:my/clip --match match.json

    MODEL is what --model takes elsewhere, or packaged. Captions whose photo is not in --images are left out. The photos
    must be new to the model: on those that it was trained on it would seem surer than it is.
    """
    from cliplet.encoders.registry import load
    from cliplet.evaluation.calibration import calibrate as measure
    from cliplet.evaluation.model_runs import mixed_captions
    from cliplet.scoring.match import save_match

    if len({Path(c).stem for c in captions}) < len(captions):
        raise InputError(
            "--captions: two files have the same name, which stands for their collection: rename one"
        )
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist")
    card = _card_of(model) if save else None
    encoder = load(None if model == "packaged" else model, device, precision)
    with progress_bar("embedding") as progress:
        found = [mixed_captions(encoder, Path(c), images, seed, progress) for c in captions]
    measured = measure([mix for mix, _ in found])
    if card is not None:
        _save(card, measured)
    if out is not None:
        save_match(out, measured.spec, encoder.card)
    notes = [note for _, some in found for note in some]
    written = [str(path) for path in (card, out) if path is not None]
    content = _content(encoder, measured, notes)
    print_json(content) if as_json else _show(content, written)


def _card_of(model: str) -> Path:
    path = Path(model) / "card.json"
    if not path.is_file():
        raise InputError(f"{model} is not a model folder: --save writes into one; use --out FILE")
    return path


def _save(path: Path, measured: "Calibration") -> None:
    import dataclasses

    from cliplet.encoders.card import ModelCard

    card = dataclasses.replace(ModelCard.load(path.parent), match=measured.spec)
    card.save(path.parent)


def _content(encoder: "Encoder", measured: "Calibration", notes: list[str]) -> dict[str, Any]:
    import dataclasses

    from cliplet.evaluation.calibration import calibration_error
    from cliplet.scoring.match import matches

    spec = encoder.card.match
    own = {m.name: calibration_error(matches(spec, m.cosine), m.right) for m in measured.mixes if spec}
    return {
        "model": encoder.card.name,
        "fingerprint": encoder.card.fingerprint,
        "calibration error": measured.errors(),
        "calibration error of the model's own match": own,
        "kept": {f"match >= {level}": measured.kept(level) for level in LEVELS},
        "match": dataclasses.asdict(measured.spec),
        "notes": notes,
    }


def _show(content: dict[str, Any], written: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    grid = Table(title="Share of captions whose match is at least ...", title_justify="left")
    grid.add_column("collection")
    grid.add_column("match", justify="right")
    for kind in next(iter(next(iter(content["kept"].values())).values())):
        grid.add_column(kind, justify="right")
    for level, collections in content["kept"].items():
        for name, shares in collections.items():
            cells = (f"{100 * share:.0f} %" for share in shares.values())
            grid.add_row(escape(name), level.removeprefix("match >= "), *cells)
    console.print(grid)
    for name, error in content["calibration error"].items():
        console.print(escape(f"calibration error on photos left out, {name}: {error:.3f}"), soft_wrap=True)
    for name, error in content["calibration error of the model's own match"].items():
        console.print(
            escape(f"calibration error of the match that the model has, {name}: {error:.3f}"), soft_wrap=True
        )
    console.print(escape(f"model {content['model']} ({content['fingerprint']})"), soft_wrap=True)
    for note in content["notes"]:
        console.print(escape(f"note: {note}"), soft_wrap=True)
    for path in written:
        console.print(escape(f"written: {path}"), soft_wrap=True)
