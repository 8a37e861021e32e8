"""``cliplet caption``: train a captioner, and write captions with it."""

from pathlib import Path
from typing import Any

import click

from cliplet.cli import options
from cliplet.cli.distill import recipe_options, run_recipe


@click.group()
def caption() -> None:
    """Train a captioner with a score as its reward, and caption photos with it."""


@caption.command()
@recipe_options
def train(recipe: str | None, changes: tuple[str, ...], dry_run: bool, restart: bool, settings: bool) -> None:
    """Train a captioner from RECIPE, a TOML file; settings change with KEY=VALUE. The same as cliplet distill RECIPE.

    Examples of changes: data=flickr8k, out=runs/second, stages.0.epochs=2, stages.1.rewards.0.weight=0.5. A run that
    was interrupted goes on where it stopped when the same command is given again.
    """
    run_recipe(recipe, changes, dry_run, restart, settings, "cliplet caption train", "captioner", only=True)


@caption.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", default="captions.json", show_default=True, type=click.Path(path_type=Path),
              help="File of captions, {image: caption}, for cliplet score and compare.")  # fmt: skip
@click.option("--greedy", is_flag=True, help="Take the likeliest word each time.")
@click.option("--beam", type=click.IntRange(1), help="Width of beam search.")
@click.option(
    "--nucleus", type=float, help="Probability that the tokens sampled from have in all (nucleus sampling)."
)
@click.option("--temperature", default=1.0, show_default=True, help="Temperature of --nucleus.")
@click.option(
    "--length-penalty", type=float, help="Length penalty of --beam: 0 prefers short captions, 1 does not."
)
@click.option("--captions", default=1, show_default=True, type=click.IntRange(1),
              help="Number of captions a photo; more than one makes the file {image: [captions]}.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Random seed of --nucleus.")
@click.option("--method", type=click.Choice(["decoder", "recap"]), default="decoder", show_default=True,
              help="Kind of captioner: decoder is a trained MODEL; recap finds captions in --store.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path), help="Store of captions of --method recap.")
@click.option("--fusion", default="consensus", show_default=True,
              help="Way in which --method recap makes one caption: consensus, nearest, or your own function "
                   "module:attribute of (captions, prompt).")  # fmt: skip
@click.option("--neighbours", default=40, show_default=True, type=click.IntRange(1),
              help="Number of captions that --method recap retrieves for a photo.")  # fmt: skip
@click.option("--prompt", help="Prompt of your own function; {captions} stands for the retrieved captions.")
@options.computing
@click.option("--strict", is_flag=True, help="Exit with status 1 when any photo could not be captioned.")
def run(
    model: Path,
    photos: tuple[Path, ...],
    out: Path,
    greedy: bool,
    beam: int | None,
    nucleus: float | None,
    temperature: float,
    length_penalty: float | None,
    captions: int,
    seed: int,
    method: str,
    store: Path | None,
    fusion: str,
    neighbours: int,
    prompt: str | None,
    device: str | None,
    precision: str | None,
    strict: bool,
) -> None:
    """Caption PHOTOS (folders, tars or files) with MODEL, the folder that training wrote.

    With --method recap MODEL is a model of photos and texts, best one that cliplet align wrote, and nothing is trained.

    A photo that cannot be read is counted, and listed with its reason in OUT's neighbour *.failed.json.
    """
    from cliplet.captioner.run import caption_photos, check_output, failures_path
    from cliplet.cli.console import one_line, progress_bar

    if sum((greedy, beam is not None, nucleus is not None)) > 1:
        raise click.UsageError("choose one of --greedy, --beam and --nucleus")
    check_output(out)
    captioner: Any
    if method == "recap":
        if greedy or beam is not None or nucleus is not None or length_penalty is not None:
            raise click.UsageError(
                "--greedy, --beam, --nucleus and --length-penalty are for --method decoder"
            )
        captioner, config = _recap(model, store, fusion, neighbours, prompt, captions, device, precision)
    else:
        if store is not None or prompt is not None or fusion != "consensus":
            raise click.UsageError("--store, --fusion and --prompt are for --method recap")
        captioner, config = _decoder(
            model, greedy, beam, nucleus, temperature, length_penalty, captions, seed, device, precision
        )
    with progress_bar("captioning") as progress:
        result = caption_photos(captioner, photos, config, progress)
    result.save(out, several=captions > 1)
    where = "" if captioner.device == "cpu" else f" on {captioner.device}"
    click.echo(f"{out}: captions of {len(result.captions):,} photos by {captioner.name} "
               f"({captioner.fingerprint}){where}")  # fmt: skip
    if result.failures:
        click.echo(f"{len(result.failures):,} photos could not be captioned: {failures_path(out)}", err=True)
        for name, reason in list(result.failures.items())[:5]:
            click.echo(f"  {one_line(name)}: {one_line(reason)}", err=True)
        if strict or not result.captions:
            raise click.exceptions.Exit(1)


def _decoder(
    model: Path,
    greedy: bool,
    beam: int | None,
    nucleus: float | None,
    temperature: float,
    length_penalty: float | None,
    captions: int,
    seed: int,
    device: str | None,
    precision: str | None,
) -> tuple[Any, Any]:
    """A trained captioner and how it decodes."""
    from dataclasses import replace

    from cliplet.captioner.model import Captioner

    captioner = Captioner(model, device=device)
    if precision is not None:
        captioner.check_precision(precision)
    config = replace(captioner.card.decode, captions=1)
    if greedy:
        config = replace(config, method="greedy")
    if beam is not None:
        config = replace(config, method="beam", beam=beam)
    if nucleus is not None:
        config = replace(config, method="nucleus", top_p=nucleus, temperature=temperature)
    if length_penalty is not None:
        config = replace(config, length_penalty=length_penalty)
    return captioner, replace(config, captions=captions, seed=seed)


def _recap(
    model: Path,
    store: Path | None,
    fusion: str,
    neighbours: int,
    prompt: str | None,
    captions: int,
    device: str | None,
    precision: str | None,
) -> tuple[Any, Any]:
    """A captioner by retrieval."""
    from cliplet.captioner.decoding import DecodeConfig
    from cliplet.captioner.recap import PROMPT, Recap
    from cliplet.captioner.store import CaptionStore
    from cliplet.encoders.registry import load

    if store is None:
        raise click.UsageError("--method recap needs --store, which `cliplet caption store` makes")
    encoder = load(str(model), device, precision)
    kept = CaptionStore.load(store, encoder)
    return Recap(encoder, kept, fusion, neighbours, prompt or PROMPT), DecodeConfig(captions=captions)


@caption.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("captions", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Store to write (.npz).")
@click.option("--images", metavar="FILE", help="File of image names, one a line: only captions of these.")
def store(model: Path, captions: Path, out: Path, images: str | None) -> None:
    """Embed the captions of a file with MODEL and keep them, for --method recap.

    CAPTIONS is any file that cliplet score reads; photos are not needed.
    """
    from cliplet.captioner.store import CaptionStore
    from cliplet.cli.console import one_line
    from cliplet.data.captions import read_references
    from cliplet.data.names import NameIndex
    from cliplet.data.text import read_names
    from cliplet.encoders.registry import load
    from cliplet.errors import InputError
    from cliplet.files import writable_folder

    if out.suffix != ".npz":
        raise InputError(f"{out}: a store is written as .npz; name such a file")
    writable_folder(out.parent)
    notes: list[str] = []
    groups = read_references(captions, notes)
    if images is not None:
        found = NameIndex(groups, f"images of {captions}").find_all(read_names(images, "image names"))
        missing = [name for name, there in found.items() if not isinstance(there, str)]
        if missing:
            notes.append(
                f"{len(missing)} names of {images} have no captions, such as {one_line(str(missing[0]))}"
            )
        groups = {name: groups[name] for name in found.values() if isinstance(name, str)}
        if not groups:
            raise InputError(
                f"{captions} has no captions of the {len(missing)} names of {images}: {missing[0]} ..."
            )
    made = CaptionStore.build(load(str(model)), list(groups.values()))
    made.save(out)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"{out}: {len(made.captions):,} captions of {len(groups):,} photos by {made.model} ({made.fingerprint})"
    )


def _controls() -> Any:
    from cliplet.captioner.augment import CONTROLS

    return filter(None, CONTROLS)


@caption.command()
@click.argument("model")
@click.option(
    "--captions",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="File of people's captions.",
)
@click.option(
    "--images", metavar="DIR|TAR", help="Photos of these captions; default: where the file says they are."
)
@click.option("--bare", required=True, multiple=True, metavar="DIR|TAR",
              help="Photos without captions; may be repeated.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option(
    "--store", "store_file", required=True, type=click.Path(path_type=Path), help="Store to write (.npz)."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Number of rounds.")
@click.option("--neighbours", default=40, show_default=True, type=click.IntRange(1),
              help="Number of captions retrieved for a photo.")  # fmt: skip
@click.option("--method", type=options.Names(options.alignments), default="cca", show_default=True,
              help="Way to fit the map.")  # fmt: skip
@click.option("--control", type=options.Names(_controls), help="A control in the loop's place.")
def improve(
    model: str,
    captions: Path,
    images: str | None,
    bare: tuple[str, ...],
    out: Path,
    store_file: Path,
    rounds: int,
    neighbours: int,
    method: str,
    control: Any,
) -> None:
    """Improve a captioner by retrieval on photos without captions: its own captions join its store.

    A caption whose aCLIPScore reaches the mean of people's captions joins, and the map is fitted again. MODEL is what
    cliplet align takes. What comes out is for cliplet caption run --method recap.
    """
    from dataclasses import replace

    from cliplet.captioner.augment import LoopConfig
    from cliplet.captioner.augment import improve as run_loop
    from cliplet.captioner.run import list_photos
    from cliplet.cli.console import one_line
    from cliplet.data.pairs import read_photo_captions
    from cliplet.encoders.registry import load
    from cliplet.errors import InputError, MissingExtraError
    from cliplet.files import writable_folder

    try:
        from cliplet.export.aligned import check_target, export_aligned
    except ImportError as error:
        raise MissingExtraError(f"cliplet caption improve ({error})", "train") from error

    check_target(out)
    if store_file.suffix != ".npz":
        raise InputError(f"{store_file}: a store is written as .npz; name such a file")
    writable_folder(store_file.parent)
    pairs, others = read_photo_captions(captions, images), list_photos(bare)
    config = LoopConfig(method, rounds=rounds, neighbours=neighbours, control=control or "")
    found = run_loop(model, pairs.photos, pairs.captions, list(others.values()), config)
    export_aligned(found.encoder, out)
    card = load(out).card  # a folder has a fingerprint of its own
    replace(found.store, model=card.name, fingerprint=card.fingerprint).save(store_file)
    own = ", ".join(f"{n:,}" for n in found.joined[1:])
    click.echo(f"own captions in the store after each round: {own} of {len(others):,} photos")
    click.echo(f"{out} and {store_file}: {len(found.store.captions):,} captions; try  "
               f"cliplet caption run {out} PHOTOS --method recap --store {store_file}")  # fmt: skip
    names = list(others)
    failures = pairs.failures | {pairs.names[i]: why for i, why in found.failures.items()}
    failures |= {names[i]: why for i, why in found.bare_failures.items()}
    if failures:
        click.echo(f"{len(failures):,} photos or captions were left out:", err=True)
        for photo, reason in list(failures.items())[:5]:
            click.echo(f"  {one_line(photo)}: {one_line(reason)}", err=True)
