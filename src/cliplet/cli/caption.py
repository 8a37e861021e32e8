"""``cliplet caption``: train a captioner, and write captions with it."""

from pathlib import Path

import click

from cliplet.errors import MissingExtraError


@click.group()
def caption() -> None:
    """Train a captioner with a score as its reward, and caption photos with it."""


def _show_settings(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the settings and stop."""
    if wanted:
        from cliplet.training.captioner.config import CaptionRecipe
        from cliplet.training.settings import settings_text

        click.echo(settings_text(CaptionRecipe))
        context.exit()


@caption.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--restart", is_flag=True, help="Remove an earlier run in the recipe's folder and begin anew.")
@click.option(
    "--settings", is_flag=True, is_eager=True, expose_value=False, callback=_show_settings,
    help="List every setting of a recipe with its default and meaning.",
)  # fmt: skip
def train(recipe: Path, changes: tuple[str, ...], restart: bool) -> None:
    """Train a captioner from RECIPE, a TOML file; settings change with KEY=VALUE.

    Examples of changes: out=runs/second, seed=1, stages.0.epochs=2, stages.1.rewards.0.weight=0.5. A run that was
    interrupted goes on where it stopped when the same command is given again.
    """
    from cliplet.training.captioner.config import load_caption_recipe

    config = load_caption_recipe(recipe, changes)
    try:
        from cliplet.training.captioner.train import train_captioner
    except ImportError as error:
        raise MissingExtraError(f"cliplet caption train ({error})", "train") from error
    folder = train_captioner(config, restart=restart)
    click.echo(f"{folder}: the captioner; try it with  cliplet caption run {folder} photos/ -o captions.json")


@caption.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", default="captions.json", show_default=True, type=click.Path(path_type=Path),
              help="File of captions, {image: caption}, for cliplet score and compare.")  # fmt: skip
@click.option("--greedy", is_flag=True, help="Take the likeliest word each time.")
@click.option("--beam", type=click.IntRange(1), help="Width of beam search.")
@click.option("--nucleus", type=float, help="Probability that the tokens sampled from have in all (nucleus sampling).")
@click.option("--temperature", default=1.0, show_default=True, help="Temperature of --nucleus.")
@click.option("--length-penalty", type=float, help="Length penalty of --beam: 0 prefers short captions, 1 does not.")
@click.option("--captions", default=1, show_default=True, type=click.IntRange(1),
              help="Number of captions a photo; more than one makes the file {image: [captions]}.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Random seed of --nucleus.")
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
    strict: bool,
) -> None:
    """Caption PHOTOS (folders, tars or files) with MODEL, the folder that training wrote.

    A photo that cannot be read is counted, and listed with its reason in OUT's neighbour *.failed.json.
    """
    from dataclasses import replace

    from cliplet.captioner.model import Captioner
    from cliplet.captioner.run import caption_photos, check_output, failures_path
    from cliplet.cli.console import one_line, progress_bar

    if sum((greedy, beam is not None, nucleus is not None)) > 1:
        raise click.UsageError("choose one of --greedy, --beam and --nucleus")
    check_output(out)
    captioner = Captioner(model)
    config = replace(captioner.card.decode, captions=1)
    if greedy:
        config = replace(config, method="greedy")
    if beam is not None:
        config = replace(config, method="beam", beam=beam)
    if nucleus is not None:
        config = replace(config, method="nucleus", top_p=nucleus, temperature=temperature)
    if length_penalty is not None:
        config = replace(config, length_penalty=length_penalty)
    config = replace(config, captions=captions, seed=seed)
    with progress_bar("captioning") as progress:
        result = caption_photos(captioner, photos, config, progress)
    result.save(out, several=captions > 1)
    click.echo(f"{out}: captions of {len(result.captions):,} photos by {captioner.card.name} "
               f"({captioner.fingerprint})")  # fmt: skip
    if result.failures:
        click.echo(f"{len(result.failures):,} photos could not be captioned: {failures_path(out)}", err=True)
        for name, reason in list(result.failures.items())[:5]:
            click.echo(f"  {one_line(name)}: {one_line(reason)}", err=True)
        if strict or not result.captions:
            raise click.exceptions.Exit(1)
