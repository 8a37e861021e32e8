"""What an argument names: shards, tables, folders of them and data sets on disk, each with its size and stamp."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cliplet.data.arrow import is_arrow_folder, saved_files
from cliplet.data.photos import TARS
from cliplet.data.sources import expand
from cliplet.errors import InputError

TABLES = (".parquet", ".arrow")
"""Suffixes of tables of which any row is found at once."""
SHARDS = (*TARS, *TABLES)
"""Suffixes of what a folder of shards holds."""


@dataclass(frozen=True)
class Source:
    """One file (or folder of photos beside texts) of captions."""

    name: str
    """As outputs call it: the path or address as it was given."""
    path: str
    """Where it is opened: an absolute path, or an address."""
    size: int
    """Its bytes; -1 for a folder."""
    stamp: str
    """What changes when it does: its time of change in nanoseconds, or its etag."""

    @property
    def remote(self) -> bool:
        """Whether it is not a local file."""
        return is_remote(self.path)

    @property
    def kind(self) -> str:
        """``tar``, ``table`` (any row is found at once), ``folder`` or ``rows`` (read from the start)."""
        if self.size < 0:
            return "folder"
        lower = self.name.lower()
        return "tar" if lower.endswith(TARS) else "table" if lower.endswith(TABLES) else "rows"


def is_remote(text: str) -> bool:
    """Whether an argument is an address of fsspec rather than a path; ``file://`` is a path."""
    return "://" in text and not text.startswith("file://")


def holds_shards(text: str) -> bool:
    """Whether an argument is a folder of tars or tables, not of photos beside texts and not one saved data set."""
    folder = Path(text.removeprefix("file://"))
    return folder.is_dir() and not is_arrow_folder(folder) and bool(_shards(folder))


def find_sources(arguments: Iterable[str]) -> list[Source]:
    """The files that arguments name, in order: braces, wildcards, folders of shards, data sets on disk, addresses.

    Raises:
        InputError: a pattern meets no file, a file is missing or named twice.
        MissingExtraError: an address without fsspec.
    """
    found: list[Source] = []
    for text in arguments:
        if is_remote(text):
            from cliplet.stream.remote import find_remote

            found += find_remote(text)
        else:
            for path in expand(text.removeprefix("file://")):
                found += _local(path)
    seen: set[str] = set()
    for source in found:
        if source.path in seen:
            raise InputError(f"{source.name} is named twice: name each file once")
        seen.add(source.path)
    return found


def _local(path: Path) -> list[Source]:
    if path.is_dir():
        if is_arrow_folder(path):
            return [_file(file) for file in saved_files(path)]
        shards = _shards(path)
        return [_file(file) for file in shards] if shards else [_folder(path)]
    return [_file(path)]


def _shards(folder: Path) -> list[Path]:
    """The tars, else the tables, of a folder, by name."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    for kind in (TARS, (".parquet",), (".arrow",)):
        shards = [path for path in files if path.name.lower().endswith(kind) and path.is_file()]
        if shards:
            return shards
    return []


def _file(path: Path) -> Source:
    try:
        about = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return Source(str(path), os.path.abspath(path), about.st_size, str(about.st_mtime_ns))


def _folder(path: Path) -> Source:
    return Source(str(path), os.path.abspath(path), -1, str(path.stat().st_mtime_ns))


def unchanged(source: Source) -> None:
    """Raise InputError where a local file is no longer what was planned."""
    now = _folder(Path(source.path)) if source.size < 0 else _file(Path(source.path))
    if (now.size, now.stamp) != (source.size, source.stamp):
        raise InputError(f"{source.name} has changed since the run was planned")
