"""One file of captions, local or at an address, with its size and stamp."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cliplet.data.photos import TARS
from cliplet.errors import InputError

Say = Callable[[str], None]
"""Takes what a part is doing now, for the progress."""
TABLES = (".parquet", ".arrow")
"""Suffixes of tables of which any row is found at once."""
SHARDS = (*TARS, *TABLES)
"""Suffixes of what a folder of shards holds."""


@dataclass(frozen=True)
class Source:
    """One file (or folder of photos beside texts) of captions."""

    name: str
    """As outputs call it: the path or address as it was given, without a query, which may hold a key."""
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
    def file_name(self) -> str:
        """Its base name, by whose suffix it is read."""
        return os.path.basename(without_query(self.path).rstrip("/"))

    @property
    def kind(self) -> str:
        """``tar``, ``table`` (any row is found at once), ``folder`` or ``rows`` (read from the start)."""
        if self.size < 0:
            return "folder"
        lower = self.file_name.lower()
        return "tar" if lower.endswith(TARS) else "table" if lower.endswith(TABLES) else "rows"


def is_remote(text: str) -> bool:
    """Whether an argument is an address of fsspec rather than a path; ``file://`` is a path."""
    return "://" in text and not text.startswith("file://")


def without_query(address: str) -> str:
    """An address of the web without what follows ``?``; any other as it is, as a ``?`` may be part of a name."""
    web = address.startswith(("http://", "https://"))
    return address.partition("?")[0] if web else address


def local_file(path: Path) -> Source:
    """A file of this machine; raises InputError where it is not there."""
    try:
        about = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return Source(str(path), os.path.abspath(path), about.st_size, str(about.st_mtime_ns))


def local_folder(path: Path) -> Source:
    """A folder of photos beside texts."""
    return Source(str(path), os.path.abspath(path), -1, str(path.stat().st_mtime_ns))


def unchanged(source: Source) -> None:
    """Raise InputError where a local file is no longer what was planned."""
    now = local_folder(Path(source.path)) if source.size < 0 else local_file(Path(source.path))
    if (now.size, now.stamp) != (source.size, source.stamp):
        raise InputError(f"{source.name} has changed since the run was planned")
