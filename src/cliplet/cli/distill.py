"""``cliplet distill``: run a recipe that turns a teacher and pairs into a small model folder."""

from pathlib import Path

import click

from cliplet.errors import MissingExtraError


def _show_settings(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the settings and stop."""
    if wanted:
        from cliplet.training.settings import settings_text

        click.echo(settings_text())
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

    Examples of changes: out=runs/second, seed=1, model.text.width=256, stages.0.epochs=2, stages.*.lr=1e-4.
    A run that was interrupted goes on where it stopped when the same command is given again. Several processes:
    accelerate launch -m cliplet distill RECIPE.
    """
    if _is_packaged_models(recipe):
        if dry_run or restart:
            raise click.UsageError(
                f"{recipe} is the packaged model's recipe, which has no --dry-run or --restart"
            )
        try:
            from cliplet.training.small_recipe import main
        except ImportError as error:
            raise MissingExtraError(f"cliplet distill ({error})", "train") from error
        main([str(recipe), *changes])
        return
    from cliplet.training.config import load_recipe

    config = load_recipe(recipe, changes)
    try:
        from cliplet.training.cost import dry_run as describe
        from cliplet.training.distill import distill as run
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


def _is_packaged_models(recipe: Path) -> bool:
    """Whether this recipe is of the packaged model's own kind, which names its stages instead of listing them."""
    import tomllib

    try:
        return "image_stage" in tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the reader of ordinary recipes says what is wrong
        return False
