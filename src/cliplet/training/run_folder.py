"""The folder of a run: it holds one recipe's files, and says so before another recipe mixes with them."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cliplet.errors import InputError


def claim_folder(
    out: Path,
    recipe: dict[str, Any],
    free: Sequence[str] = ("out",),
    restart: bool = False,
    known_as: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Take a run's folder for a recipe; ``recipe.json`` in it says whose it is.

    Args:
        out: the folder; made when it is not there.
        recipe: the recipe's settings.
        free: settings that may differ when a run goes on.
        restart: remove the run that is there.
        known_as: what the settings of the run that is there are compared as, for instance with newer defaults.

    Raises:
        InputError: the folder holds a run of another recipe, or something else.
    """
    file = out / "recipe.json"
    if file.exists() and not restart:
        known = json.loads(json.dumps(known_as(json.loads(file.read_text(encoding="utf-8")))))
        wanted = json.loads(json.dumps(recipe))
        changed = [k for k in wanted if wanted[k] != known.get(k) and k not in free]
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
    part = file.with_suffix(".part")
    part.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


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
