"""Several files named at once: by braces, as WebDataset has them (``{000..003}``), and by ``*``, ``?`` and ``[]``."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cliplet.errors import InputError

MOST = 100_000
"""Files that one pattern may name."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand(text: str) -> list[Path]:
    """The files that an argument names: itself where it exists, else what its braces and wildcards give, sorted.

    Raises:
        InputError: its wildcards meet no file, or its braces give more than :data:`MOST` names.
    """
    if os.path.exists(text):
        return [Path(text)]
    found: list[Path] = []
    for name in braces(text):
        wild = glob.has_magic(name) and not os.path.exists(name)
        met = sorted(glob.glob(name, recursive=True)) if wild else [name]
        if not met:
            raise InputError(f"{name}: no file matches")
        found += map(Path, met)
    return found


def braces(text: str) -> list[str]:
    """The names that the braces of a text give; the text itself where it has none.

    Raises:
        InputError: they are more than :data:`MOST`.
    """
    names = [text]
    while any(_BRACES.search(name) for name in names):
        names = [one for name in names for one in _opened(name)]
        if len(names) > MOST:
            raise InputError(f"{text} names more than {MOST} files")
    return names


def _opened(name: str) -> Iterator[str]:
    """A name for every choice of its first braces."""
    braces = _BRACES.search(name)
    if braces is None:
        yield name
        return
    first, last, listed = braces.groups()
    if listed is None:
        if int(last) - int(first) >= MOST:
            raise InputError(f"{name} names more than {MOST} files")
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        if not choices:
            raise InputError(f"{name}: {first}..{last} counts downwards and names no file")
    else:
        choices = listed.split(",")
    for choice in choices:
        yield name[: braces.start()] + choice + name[braces.end() :]
