"""Reading a recipe: a TOML file or a folder with one, changed by ``key=value``, its ``data`` put in."""

import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cliplet.errors import InputError

FILE = "recipe.toml"
"""A folder's recipe."""
DATA = "{data}"
"""Stands for the ``data`` setting in a recipe's paths."""
DEFAULT_KIND = "distill"
"""What a recipe without ``kind`` is."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe before it becomes a configuration."""

    path: Path
    """The TOML file."""
    kind: str
    """As the recipe says it; ``.module:attribute`` of a folder with the folder's name before the dot."""
    settings: dict[str, Any]
    """All else but ``data``, which has been put into the paths."""
    data: str = ""
    """The folder of the data; empty when the recipe has none."""
    missing: tuple[str, ...] = ()
    """What is not there of the paths in ``data``: ``captions.txt (train.captions)``."""

    def require_data(self) -> None:
        """Stop before anything starts when data is missing.

        Raises:
            InputError: it names what is missing.
        """
        if self.missing:
            raise InputError(
                f"data={self.data} lacks {', '.join(self.missing)}; docs/data.md (data.md beside a copied "
                "recipe) says how to lay it out, and the settings in brackets take other places"
            )


def recipe_path(path: str | Path) -> Path:
    """The TOML file of a recipe: the file itself, or that of a folder; a folder NAME also goes by ``NAME.toml``.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    for file in (path, path / FILE, path.with_suffix("") / FILE if path.suffix == ".toml" else path):
        if file.is_file():
            return file
    raise InputError(f"there is no recipe {path}; cliplet recipes list shows those that come with cliplet")


def read_recipe(path: str | Path, changes: Sequence[str] = (), kind: str = DEFAULT_KIND) -> RecipeFile:
    """Read a recipe and apply ``key=value`` changes.

    A path that begins with ``{data}`` lies in the folder that the setting ``data`` names; of several, separated by
    ``|``, the first that exists counts. A folder with code is imported, so that its ``kind`` and other
    ``module:attribute`` names are found.

    Beside a TOML file, ``module:attribute`` names may stand for its neighbours.

    Args:
        path: a TOML file or a folder with ``recipe.toml``. Other relative paths in it are relative to the working
            directory.
        changes: such as ``stages.0.lr=1e-3``, ``model.text.width=256``, ``stages.*.epochs=1``, ``data=flickr8k``.
        kind: of a recipe that does not say its kind.

    Raises:
        InputError: the file or a change is wrong; the message names it.
    """
    file = recipe_path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {file} is not valid TOML: {error}") from error
    apply_changes(values, changes)
    kind, data = values.pop("kind", kind), values.pop("data", "")
    for name, value in (("kind", kind), ("data", data)):
        if not isinstance(value, str):
            raise InputError(f"{file}: {name}={value!r} must be text")
    if file.name == FILE and (file.parent / "__init__.py").exists():
        package = _import_folder(file.parent.resolve())
        kind = package + kind if kind.startswith(".") else kind
    elif any(file.parent.glob("*.py")):
        _look_into(file.parent.resolve())
    missing: dict[str, list[str]] = {}
    values = _with_data(values, str(Path(data).expanduser()) if data else "", missing, "")
    if missing and not data:
        raise InputError(f"{file} finds its data in one folder: give data=FOLDER (docs/data.md)")
    lacking = tuple(f"{name} ({', '.join(settings)})" for name, settings in missing.items())
    return RecipeFile(file, kind, values, data, lacking)


def read_settings(
    path: str | Path, changes: Sequence[str] = (), kind: str = DEFAULT_KIND, alias: str = ""
) -> dict[str, Any]:
    """A recipe's settings, before they become a configuration.

    Args:
        path: as of :func:`read_recipe`.
        changes: as of :func:`read_recipe`.
        kind: what the recipe must be, and is where it does not say its kind.
        alias: another name of that kind.

    Raises:
        InputError: as :func:`read_recipe`, or the recipe is of another kind.
    """
    found = read_recipe(path, changes, kind)
    if found.kind not in (kind, alias or kind):
        raise InputError(f"{path} is a recipe of kind {found.kind!r}, not {kind!r}")
    return found.settings


def _look_into(folder: Path) -> None:
    """Let modules be found in a folder, after all other places."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_folder(folder: Path) -> str:
    """Import a recipe's folder as a package; returns its name, which is the folder's."""
    name, parent = folder.name, str(folder.parent)
    if not name.isidentifier():
        raise InputError(
            f"{folder} holds code, so Python must be able to import it: give it a name without {name!r}"
        )
    sys.path.insert(0, parent)
    try:
        module = import_module(name)
    finally:
        sys.path.remove(parent)
    if Path(str(module.__file__)).resolve().parent != folder:
        raise InputError(f"{folder}: the name {name} is taken by {module.__file__}; rename the folder")
    if parent not in sys.path:
        sys.path.append(parent)  # for processes that are started from this one
    return name


# ---------------------------------------------------------------- data
def _with_data(value: Any, data: str, missing: dict[str, list[str]], where: str) -> Any:
    """A value with ``data`` in all its paths; what is not there is added to ``missing``, with its settings."""
    if isinstance(value, dict):
        return {k: _with_data(v, data, missing, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        tables = any(isinstance(v, dict) for v in value)
        return [
            _with_data(v, data, missing, f"{where}.{i}" if tables else where) for i, v in enumerate(value)
        ]
    if not isinstance(value, str) or not value.startswith(DATA):
        return value
    names = [part.strip() for part in value.split("|")]
    paths = [data + name.removeprefix(DATA) for name in names]
    there = next((p for p in paths if Path(p).exists() or any(c in p for c in "*?[{")), "") if data else ""
    if not there:
        name = " or ".join(n.removeprefix(DATA).lstrip("/") or "." for n in names)
        missing.setdefault(name, []).append(where)
    return there or paths[0]


# ---------------------------------------------------------------- changes
def apply_changes(values: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply ``key=value`` changes to a recipe's content, in place.

    Raises:
        InputError: a change is not of that form, or names no place in the recipe.
    """
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator or not key:
            raise InputError(f"{change!r} is not key=value, such as stages.0.lr=1e-3")
        _set(values, re.findall(r'"[^"]*"|[^.]+', key.strip()), _value(text), change)


def _value(text: str) -> Any:
    """A TOML value, or the text itself."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _set(values: Any, keys: list[str], value: Any, change: str) -> None:
    """Set a nested entry; ``*`` stands for every entry of a list, and a key with dots stands between quotes."""
    key, rest = keys[0].strip('"'), keys[1:]
    if isinstance(values, list):
        if key != "*" and not (key.isdecimal() and int(key) < len(values)):
            raise InputError(f"{change}: {key} is no entry of a list of {len(values)}; use 0, 1, ... or *")
        for i in range(len(values)) if key == "*" else [int(key)]:
            if rest:
                _set(values[i], rest, value, change)
            else:
                values[i] = value
        return
    if not isinstance(values, dict):
        raise InputError(
            f"{change}: {key!r} stands below {values!r}, which holds no settings; give a table, such as "
            f"{{weight = 1.0, {key} = ...}}"
        )
    if rest:
        _set(values.setdefault(key, {}), rest, value, change)
    else:
        values[key] = value
