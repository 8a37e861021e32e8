"""The folder of a run: it holds one recipe's files, and says so before another recipe mixes with them."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.models.config import from_dict, to_dict

Settings = dict[str, Any]


def claim_folder(
    out: Path,
    recipe: Any,
    free: Sequence[str] = ("out",),
    restart: bool = False,
    known_as: Callable[[Settings], Settings] | None = None,
) -> None:
    """Take a run's folder for a recipe; ``recipe.json`` in it says whose it is.

    Args:
        out: the folder; made when it is not there.
        recipe: the recipe's configuration (a dataclass), or a dictionary of settings.
        free: settings that may differ when a run goes on.
        restart: remove the run that is there.
        known_as: what the settings of the run that is there are compared as; by way of the configuration's class when
            left out, so that settings which are newer than the run have their defaults.

    Raises:
        InputError: the folder holds a run of another recipe, or something else.
    """
    file, wanted = out / "recipe.json", recipe
    if dataclasses.is_dataclass(recipe):
        kind: Any = type(recipe)
        wanted, known_as = to_dict(recipe), known_as or (lambda known: to_dict(from_dict(kind, known)))
    if file.exists() and not restart:
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            known = json.loads(json.dumps(known_as(known))) if known_as else known
        except (InputError, ValueError) as error:  # ValueError: no JSON
            raise InputError(
                f"{out} holds a run of another version or recipe, or a damaged recipe.json ({error}); name "
                "another out, or give --restart to remove it"
            ) from error
        new = json.loads(json.dumps(wanted))
        changed = [k for k in new if new[k] != known.get(k) and k not in free]
        if changed:
            raise InputError(
                f"{out} holds a run of another recipe (other: {', '.join(changed)}); name another out, or give "
                "--restart to remove it"
            )
    elif file.exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name another out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(wanted, indent=2) + "\n")


def list_left_out(out: Path, lines: Sequence[str]) -> None:
    """Add what a run cannot use to ``skipped.txt`` in its folder, each line once; standard error says how many are new.

    Args:
        out: the folder.
        lines: which photo or caption, and why.
    """
    path = out / "skipped.txt"
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    shown = [line.encode("utf-8", "replace").decode() for line in lines]
    new = [line for line in dict.fromkeys(shown) if line not in known]
    if new:
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in new)
        print(f"{len(new)} photos or captions left out; see {path}", file=sys.stderr)
