"""``cliplet distill``: run a recipe, describe it, or list its settings."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from cliplet.errors import MissingExtraError


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments and options of a command that runs a recipe."""
    for option in (
        click.option("--settings", is_flag=True,
                     help="List every setting of RECIPE, or of a kind of recipe, with its default and meaning."),
        click.option("--restart", is_flag=True,
                     help="Remove an earlier run in the recipe's folder and begin anew."),
        click.option("--dry-run", is_flag=True,
                     help="Say what a run will compute and what it will cost; train nothing."),
        click.argument("changes", nargs=-1, metavar="[KEY=VALUE]..."),
        click.argument("recipe", required=False),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@recipe_options
def distill(
    recipe: str | None, changes: tuple[str, ...], dry_run: bool, restart: bool, settings: bool
) -> None:
    """Train a model from RECIPE, a TOML file or a folder with recipe.toml; settings change with KEY=VALUE.

    Its kind says what is trained: "distill" (a small CLIP from a teacher; also when none is given), "tune" (a CLIP made
    better on your pairs; also called "dclip"), "captioner", or your own as module:attribute.
    Examples of changes: data=flickr8k, out=runs/second, seed=1, stages.0.epochs=2, stages.*.lr=1e-4.
    A run that was interrupted goes on where it stopped when the same command is given again. Several processes:
    accelerate launch -m cliplet distill RECIPE.
    """
    run_recipe(recipe, changes, dry_run, restart, settings, "cliplet distill", "distill")


def run_recipe(
    recipe: str | None,
    changes: Sequence[str],
    dry_run: bool,
    restart: bool,
    settings: bool,
    command: str,
    kind: str,
    only: bool = False,
) -> None:
    """What ``cliplet distill`` and ``cliplet caption train`` do.

    Args:
        recipe: the recipe; with ``settings`` a kind too, and ``kind`` when left out.
        changes: ``key=value``.
        dry_run: describe it only.
        restart: remove an earlier run.
        settings: list the settings only.
        command: its name, for errors.
        kind: of a recipe that does not say its kind.
        only: refuse other kinds.
    """
    from cliplet.training.recipes import KINDS, kind_settings, open_recipe

    if settings:
        try:
            click.echo(kind_settings(recipe or kind))
        except ImportError as error:
            raise MissingExtraError(f"{command} --settings ({error})", "train") from error
        if recipe is None and not only:
            click.echo(
                f"\nOther kinds: cliplet distill --settings {' or '.join(k for k in KINDS if k != kind)}"
            )
        return
    if recipe is None:
        raise click.UsageError("name a RECIPE; cliplet recipes list shows those that come with cliplet")
    file, how, config = open_recipe(recipe, changes, kind)
    if only and file.kind != kind:
        raise click.UsageError(f"{recipe} is a recipe of kind {file.kind!r}; run it with cliplet distill")
    file.require_data()
    try:
        if dry_run:
            print_rows(how.describe(config))
        else:
            said = how.run(config, restart)
            if _first_process():
                click.echo(said)
    except ImportError as error:
        raise MissingExtraError(f"{command} ({error})", "train") from error


def _first_process() -> bool:
    """Whether this process is the one that speaks, of those that ``accelerate launch`` started."""
    if "torch.distributed" not in sys.modules:
        return True
    from cliplet.training.processes import rank

    return rank() == 0


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """A table of two columns."""
    width = max(len(what) for what, _ in rows)
    for what, value in rows:
        click.echo(f"{what:<{width}}  {value}")
