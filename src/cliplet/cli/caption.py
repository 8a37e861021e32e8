"""``cliplet caption``: train a captioner, and write captions with it."""

from pathlib import Path

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
    device: str | None,
    precision: str | None,
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
    config = replace(config, captions=captions, seed=seed)
    with progress_bar("captioning") as progress:
        result = caption_photos(captioner, photos, config, progress)
    result.save(out, several=captions > 1)
    where = f" on {captioner.choice.device}" if captioner.choice.accelerated else ""
    click.echo(f"{out}: captions of {len(result.captions):,} photos by {captioner.card.name} "
               f"({captioner.fingerprint}){where}")  # fmt: skip
    if result.failures:
        click.echo(f"{len(result.failures):,} photos could not be captioned: {failures_path(out)}", err=True)
        for name, reason in list(result.failures.items())[:5]:
            click.echo(f"  {one_line(name)}: {one_line(reason)}", err=True)
        if strict or not result.captions:
            raise click.exceptions.Exit(1)
