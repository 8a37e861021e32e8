"""``cliplet distill``: run a recipe that turns a teacher and pairs into a small model folder."""

from pathlib import Path
from typing import Any

import click

from cliplet.errors import MissingExtraError


def _show_settings(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the settings and stop."""
    if wanted:
        from cliplet.training.dclip.config import DclipConfig
        from cliplet.training.settings import settings_text

        click.echo(settings_text())
        click.echo('\nof a recipe with kind = "dclip":\n')
        click.echo(settings_text(DclipConfig))
        context.exit()


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--dry-run", is_flag=True, help="Print sizes, parameters, multiply-adds, memory and time expected."
)
@click.option("--restart", is_flag=True, help="Remove an earlier run in the recipe's folder and begin anew.")
@click.option(
    "--settings", is_flag=True, is_eager=True, expose_value=False, callback=_show_settings,
    help="List every setting of a recipe with its default and meaning.",
)  # fmt: skip
def distill(recipe: Path, changes: tuple[str, ...], dry_run: bool, restart: bool) -> None:
    """Train a small model from RECIPE, a TOML file; settings change with KEY=VALUE.

    A recipe with kind = "dclip" tunes a CLIP for retrieval and compares the result with its controls.
    Examples of changes: out=runs/second, seed=1, model.text.width=256, stages.0.epochs=2, stages.*.lr=1e-4.
    A run that was interrupted goes on where it stopped when the same command is given again. Several processes:
    accelerate launch -m cliplet distill RECIPE.
    """
    keys = _top_keys(recipe)
    if keys.get("kind") == "dclip":
        _dclip(recipe, changes, dry_run, restart)
        return
    if "image_stage" in keys:  # the packaged model's own kind names its stages instead of listing them
        if dry_run:
            raise click.UsageError(f"{recipe} is the packaged model's recipe, which has no --dry-run")
        try:
            from cliplet.training.small.recipe import main
        except ImportError as error:
            raise MissingExtraError(f"cliplet distill ({error})", "train") from error
        main([str(recipe), *changes], restart)
        return
    from cliplet.training.config import load_recipe

    config = load_recipe(recipe, changes)
    try:
        from cliplet.training.distill import distill as run
        from cliplet.training.distill.cost import dry_run as describe
    except ImportError as error:
        raise MissingExtraError(f"cliplet distill ({error})", "train") from error
    if dry_run:
        rows = describe(config)
        width = max(len(what) for what, _ in rows)
        for what, value in rows:
            click.echo(f"{what:<{width}}  {value}")
        return
    folder = run(config, restart=restart)
    click.echo(f"{folder}: the model; try it with  cliplet score PHOTO CAPTION --model {folder}")


def _top_keys(recipe: Path) -> dict[str, Any]:
    """The recipe's content, as far as it can be read; the readers of recipes say what is wrong."""
    import tomllib

    try:
        return tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _dclip(recipe: Path, changes: tuple[str, ...], dry_run: bool, restart: bool) -> None:
    """Tune a CLIP for retrieval and print the comparison."""
    from cliplet.training.dclip.config import load_dclip

    if dry_run:
        raise click.UsageError(f"{recipe} tunes a model for retrieval; there is no --dry-run for that")
    config = load_dclip(recipe, changes)
    try:
        from cliplet.training.dclip.run import dclip as run
    except ImportError as error:
        raise MissingExtraError(f"cliplet distill ({error})", "train") from error
    click.echo(run(config, restart=restart))
    first = config.controls[0] if config.controls else config.control
    click.echo(f"{config.out}: all results; the first tuned model is {first}-seed{config.seeds[0]}/model")
