"""What an argument names: shards, tables, folders of them and data sets on disk, each with its size and stamp."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cliplet.data.arrow import is_arrow_folder, saved_files
from cliplet.data.names import is_photo_path
from cliplet.data.photos import TARS
from cliplet.data.sources import expand
from cliplet.errors import InputError
from cliplet.stream.source import SHARDS, TABLES, Source, is_remote, local_file, local_folder, unchanged

__all__ = ["SHARDS", "TABLES", "Source", "find_sources", "holds_shards", "is_remote", "unchanged"]


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
    names = Counter(source.name for source in found)
    # several that only their queries tell apart
    return [source if names[source.name] == 1 else replace(source, name=source.path) for source in found]


def _local(path: Path) -> list[Source]:
    if path.is_dir():
        if is_arrow_folder(path):
            return [local_file(file) for file in saved_files(path)]
        shards = _shards(path)
        return [local_file(file) for file in shards] if shards else [local_folder(path)]
    return [local_file(path)]


def _shards(folder: Path) -> list[Path]:
    """The tars, else the tables, of a folder, by name; none where photos or folders lie beside tables."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    tars = [path for path in files if path.name.lower().endswith(TARS) and path.is_file()]
    if tars or any(is_photo_path(path.name) or path.is_dir() for path in files):
        return tars  # img2dataset puts a table beside its folders of photos
    tables = ([path for path in files if path.name.lower().endswith(suffix)] for suffix in TABLES)
    return next((found for found in tables if found), [])
