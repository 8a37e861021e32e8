"""``cliplet recipes``: the recipes that come with the package."""

import textwrap

import click


@click.group()
def recipes() -> None:
    """List and copy the recipes that come with cliplet."""


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes by name, with what each makes."""
    from cliplet.training.recipes import shipped_recipes

    found = shipped_recipes()
    width = max(map(len, found)) + 2
    for name, (_, line) in found.items():
        click.echo(textwrap.fill(f"{name:<{width}}{line}", 100, subsequent_indent=" " * width))


@recipes.command()
@click.argument("name")
@click.argument("folder", default=".")
def copy(name: str, folder: str) -> None:
    """Copy the recipe NAME into FOLDER (the working directory when left out), to run or to change it."""
    from cliplet.training.recipes import copy_recipe

    target, *used = copy_recipe(name, folder)
    click.echo(
        f"{target}: its first lines say what it needs; run it with  cliplet distill {target} data=FOLDER"
    )
    for other in used:
        click.echo(f"{other}: {target.name} uses its code")
