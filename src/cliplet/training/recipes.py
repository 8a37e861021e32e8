"""Kinds of recipes: what ``cliplet distill`` runs, ``--dry-run`` describes and ``--settings`` lists.

A new kind is one :class:`Recipe`: a row of :data:`KINDS`, or an object in a recipe's folder or in your own module that
a recipe names as ``kind = "module:attribute"``.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplet.data.plugins import is_own, known_or_own
from cliplet.errors import InputError
from cliplet.models.config import from_dict
from cliplet.training.captioner.config import CaptionRecipe
from cliplet.training.config import DistillConfig
from cliplet.training.dclip.config import DclipConfig, dclip_config
from cliplet.training.recipe_file import DEFAULT_KIND, FILE, RecipeFile, read_recipe
from cliplet.training.settings import settings_text

Rows = list[tuple[str, str]]
"""A table of two columns: what, and how much."""


@dataclass(frozen=True)
class Recipe:
    """A kind of recipe."""

    settings: type
    """Frozen dataclass of its settings, with a docstring under each; they need no PyTorch."""
    run: Callable[[Any, bool], str]
    """Runs a configuration to its end, from where it stopped; True removes an earlier run in its folder first
    (``--restart``). Returns what to say at the end."""
    describe: Callable[[Any], Rows]
    """Reads a configuration's data and says what a run will compute and cost; writes nothing (``--dry-run``)."""
    read: Callable[[dict[str, Any]], Any] | None = None
    """Makes the configuration from a recipe's settings; by their names when left out."""

    def configuration(self, settings: dict[str, Any]) -> Any:
        """The configuration.

        Raises:
            InputError: a setting is unknown or wrong.
        """
        return self.read(settings) if self.read else from_dict(self.settings, settings)


def _distill(config: DistillConfig, restart: bool) -> str:
    from cliplet.training.distill import distill

    folder = distill(config, restart=restart)
    return f"{folder}: the model; try it with  cliplet score PHOTO CAPTION --model {folder}"


def _distill_cost(config: DistillConfig) -> Rows:
    from cliplet.training.distill.cost import dry_run

    return dry_run(config)


def _dclip(config: DclipConfig, restart: bool) -> str:
    from cliplet.training.dclip.run import dclip

    table = dclip(config, restart=restart)
    first = f"{config.trained[0].name}-seed{config.seeds[0]}"
    return f"{table}\n{config.out}: all results; the first tuned model is {first}/model"


def _dclip_cost(config: DclipConfig) -> Rows:
    from cliplet.training.dclip.cost import describe

    return describe(config)


def _captioner(config: CaptionRecipe, restart: bool) -> str:
    from cliplet.training.captioner.train import train_captioner

    folder = train_captioner(config, restart=restart)
    return f"{folder}: the captioner; try it with  cliplet caption run {folder} photos/ -o captions.json"


def _captioner_cost(config: CaptionRecipe) -> Rows:
    from cliplet.training.captioner.cost import describe

    return describe(config)


KINDS = {
    "distill": Recipe(DistillConfig, _distill, _distill_cost),
    "dclip": Recipe(DclipConfig, _dclip, _dclip_cost, dclip_config),
    "tune": Recipe(DclipConfig, _dclip, _dclip_cost, dclip_config),
    "captioner": Recipe(CaptionRecipe, _captioner, _captioner_cost),
}
"""The kinds that come with the package."""


def find_kind(kind: str) -> Recipe:
    """The kind of that name, or what ``module:attribute`` names.

    Raises:
        InputError: there is none.
    """
    found = known_or_own(kind, KINDS, "kind of recipe")
    if not isinstance(found, Recipe):
        raise InputError(f"kind {kind!r} is a {type(found).__name__}, no cliplet.training.recipes.Recipe")
    return found


def open_recipe(
    path: str | Path, changes: Sequence[str] = (), kind: str = DEFAULT_KIND
) -> tuple[RecipeFile, Recipe, Any]:
    """Read a recipe: the file, its kind and its configuration.

    Args:
        path: a TOML file, or a folder with ``recipe.toml``.
        changes: ``key=value``.
        kind: of a recipe that does not say its kind.

    Raises:
        InputError: the recipe, a change or a setting is wrong; the message names it.
    """
    file = read_recipe(path, changes, kind)
    recipe = find_kind(file.kind)
    return file, recipe, recipe.configuration(file.settings)


def kind_settings(name: str) -> str:
    """All settings of a kind for a terminal.

    Args:
        name: a kind, or a recipe whose kind is meant.

    Raises:
        InputError: it is neither.
    """
    known = name in KINDS or (is_own(name) and not Path(name).exists())
    kind = name if known else read_recipe(name).kind
    return settings_text(find_kind(kind).settings, kind)


# ---------------------------------------------------------------- those that come with the package
DATA_PAGE = "data.md"


def shipped_folder() -> Path:
    """Where the recipes lie: in the installed package, or in the checkout that it is run from."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, tuple[Path, str]]:
    """The recipes that come with the package by name: file or folder, and the first line of what it is."""
    found = {}
    for path in sorted(shipped_folder().iterdir()):
        file = path / FILE if path.is_dir() else path
        if file.suffix == ".toml" and file.is_file():
            found[path.stem] = (path, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "))
    return found


def copy_recipe(name: str, folder: str | Path = ".") -> list[Path]:
    """Copy a recipe that comes with the package, the recipes whose code it uses, and the page on its data.

    Args:
        name: of :func:`shipped_recipes`.
        folder: where to; made when it is not there.

    Returns:
        The file or folder, then the recipes that it uses; those that are there already stay as they are.

    Raises:
        InputError: there is no such recipe, or it is there already.
    """
    known = shipped_recipes()
    if name not in known:
        raise InputError(f"there is no recipe {name!r}; choose from {', '.join(known)}")
    source, folder = known[name][0], Path(folder)
    target = folder / source.name
    if target.exists():
        raise InputError(f"{target} is already there; name another folder")
    used = [known[other][0] for other in _used(source, known)]
    origins = [source, *(other for other in used if not (folder / other.name).exists())]
    folder.mkdir(parents=True, exist_ok=True)
    for origin in origins:
        if origin.is_dir():
            shutil.copytree(origin, folder / origin.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(origin, folder / origin.name)
    pages = (shipped_folder() / DATA_PAGE, shipped_folder().parent / "docs" / DATA_PAGE)
    page = next((p for p in pages if p.is_file()), None)
    if page is not None:
        shutil.copyfile(page, folder / DATA_PAGE)
    return [folder / origin.name for origin in origins]


def _used(recipe: Path, known: Iterable[str]) -> list[str]:
    """Other recipes whose modules a recipe imports, or names as ``recipe.module:attribute``."""
    files = [f for f in recipe.rglob("*") if f.suffix in (".py", ".toml")] if recipe.is_dir() else [recipe]
    text = "\n".join(f.read_text(encoding="utf-8") for f in files)
    found = re.findall(r"^\s*(?:from|import) (\w+)\.|\"(\w+)\.[\w.]+:\w+\"", text, re.MULTILINE)
    names = dict.fromkeys(name for pair in found for name in pair if name)
    return [name for name in names if name in known and name != recipe.stem]
