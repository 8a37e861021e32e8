"""Shards at addresses of fsspec: listed, and fetched whole by reads that are repeated from a known offset.

A read that fails is tried again where it began, so nothing is skipped; the number of bytes, and for tars what the
members' headers say, is checked at the end. What cannot be had whole is an error with its reason, never fewer rows.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cliplet.data.names import is_photo_path
from cliplet.data.photos import TARS
from cliplet.data.sources import braces
from cliplet.errors import InputError, MissingExtraError, StoreError
from cliplet.stream.source import SHARDS, TABLES, Say, Source, without_query

T = TypeVar("T")
CHUNK = 8 * 1024 * 1024
"""Bytes of one read."""
TRIES = 6
"""How often a read is tried."""
FIRST_WAIT, LONGEST_WAIT = 0.2, 20.0
"""Seconds before the second try, doubled with each, and at most."""
READ = (*SHARDS, ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".token", ".txt")
"""Suffixes of what is read."""
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]*")


def find_remote(text: str) -> list[Source]:
    """The files that an address names, with sizes and etags: braces, wildcards, or a folder of shards.

    Raises:
        InputError: nothing is there, or the store does not answer.
        MissingExtraError: fsspec, or the file system's own library, is not installed.
    """
    found = []
    for address in braces(text):
        system, path = _system(address)
        protocol = address.partition("://")[0]
        for info in _listed(system, path, address):
            if info["size"] is None:
                raise InputError(f"{info['name']}: the store does not say how long it is: fetch it first")
            path = _address(protocol, str(info["name"]))
            found.append(Source(_shown(path), path, int(info["size"]), _stamp(info)))
    return found


def _shown(address: str) -> str:
    """An address as outputs call it: a web file's own name is enough, and its query may hold a key."""
    plain = without_query(address)
    return plain if plain.lower().endswith(READ) else address


def beside(source: Source, names: Iterable[str]) -> list[Source]:
    """The files of these names in a remote file's folder, those that are there."""
    plain = without_query(source.path)
    found = []
    for name in names:
        with suppress(InputError):
            found += find_remote(f"{plain.rpartition('/')[0]}/{name}{source.path[len(plain) :]}")
    return found


def _address(protocol: str, name: str) -> str:
    """What a store calls a file, as an address; stores of the web call it by its address."""
    if "://" in name:
        return name
    return f"memory:/{name}" if protocol == "memory" else f"{protocol}://{name.lstrip('/')}"


def _listed(system: Any, path: str, address: str) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]]:
        system.invalidate_cache()
        if any(sign in without_query(path) for sign in "*?["):
            found = system.glob(path, detail=True)
            return [found[name] for name in sorted(found) if found[name]["type"] == "file"]
        info = system.info(path)
        if info["type"] == "file":
            return [info]
        inside = [one for one in system.ls(path, detail=True) if one["type"] == "file"]
        return _shards(sorted(inside, key=lambda one: str(one["name"])))

    try:
        found = _retried(look, f"listing {address}", lambda _: None)
    except FileNotFoundError:
        found = []
    if not found:
        raise InputError(
            f"{address}: there is no such file, no file matches, or the folder holds no tars or tables"
        )
    return found


def _shards(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tars, else the tables, of a folder."""
    for kind in (TARS, *((suffix,) for suffix in TABLES)):
        shards = [one for one in files if str(one["name"]).lower().endswith(kind)]
        if shards:
            return shards
    return []


def _stamp(info: dict[str, Any]) -> str:
    """The file's etag, or when it was changed."""
    for name in (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "mtime",
        "LastModified",
        "last_modified",
        "created",
    ):
        if value := info.get(name):
            return str(value.timestamp() if hasattr(value, "timestamp") else value).strip('"')
    return ""


def _system(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError(f"reading {address}", "remote") from None
    try:
        system, path = url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtraError(f"reading {address} ({error})", "remote") from None
    except ValueError as error:
        raise InputError(f"{address}: {error}") from None
    return system, path


# ---------------------------------------------------------------- fetching
@contextmanager
def fetched(source: Source, say: Say) -> Iterator[Path]:
    """A temporary local copy of a remote file, whole, under its own base name; gone afterwards.

    Raises:
        InputError: it cannot be read after :data:`TRIES` tries, has changed, or is not as long as it was listed.
    """
    folder = tempfile.mkdtemp(prefix="cliplet-")
    try:
        path = Path(folder) / source.file_name
        fetch(source, path, say)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(source: Source, path: Path, say: Say) -> None:
    """Write a remote file to ``path`` in ranges, each read until it has all its bytes."""
    system, inside = _system(source.path)
    info = _retried(lambda: _info(system, inside), f"asking for {source.name}", say)
    if (int(info["size"] or 0), _stamp(info)) != (source.size, source.stamp):
        raise InputError(f"{source.name} has changed since the run was planned")
    with open(path, "wb") as out:
        for start in range(0, source.size, CHUNK):
            stop = min(start + CHUNK, source.size)
            read = partial(_range, system, inside, start, stop)
            out.write(_retried(read, f"reading {source.name} at byte {start}", say))
            say(f"fetching, {stop:,} of {source.size:,} bytes")
    got = path.stat().st_size
    if got != source.size:
        raise InputError(f"{source.name} gave {got} of its {source.size} bytes")


def whole_file(address: str, size: int) -> bytes:
    """A small file's content, by one read that is repeated until it has all its bytes.

    Raises:
        InputError: it is gone.
        StoreError: the store does not give it.
    """
    system, path = _system(address)
    try:
        return _retried(partial(_range, system, path, 0, size), f"reading {address}", lambda _: None)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise InputError(f"{address} cannot be read: {type(error).__name__}") from error
    except InputError as error:
        raise StoreError(str(error)) from error


def listed_below(address: str) -> dict[str, int]:
    """Photos below an address, by name relative to it, with their sizes.

    Raises:
        InputError: there are none, or the store does not list them.
    """
    system, path = _system(address)

    def look() -> dict[str, Any]:
        system.invalidate_cache()
        found: dict[str, Any] = system.find(path, detail=True)
        return found

    try:
        found = _retried(look, f"listing {address}", lambda _: None)
    except FileNotFoundError:
        found = {}
    root = path.strip("/") + "/"
    sizes = {
        name.strip("/").removeprefix(root): int(info["size"])
        for name, info in found.items()
        if is_photo_path(name) and info.get("size") is not None
    }
    if not sizes:
        raise InputError(f"{address}: there are no photos, or the store does not list them")
    return sizes


def file_of(address: str) -> bool:
    """Whether an address is that of a file."""
    system, path = _system(address)
    try:
        return bool(
            _retried(lambda: _info(system, path), f"asking for {address}", lambda _: None)["type"] == "file"
        )
    except FileNotFoundError:
        return False


def _info(system: Any, path: str) -> dict[str, Any]:
    system.invalidate_cache()
    found: dict[str, Any] = system.info(path)
    return found


def _range(system: Any, path: str, start: int, stop: int) -> bytes:
    found: bytes = system.cat_file(path, start=start, end=stop)
    if len(found) > stop - start:
        raise InputError(f"{path}: the store sends the whole file where a range is asked for: fetch it first")
    if len(found) != stop - start:
        raise OSError(f"{len(found)} of {stop - start} bytes came")
    return found


def _retried(read: Callable[[], T], what: str, say: Say) -> T:
    """The result of ``read``, tried again after errors that may pass."""
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError, NotADirectoryError, MemoryError, InputError):
            raise
        except Exception as error:  # each store has its own errors
            why = _QUERY.sub(r"\1?...", " ".join(f"{type(error).__name__}: {error}".split()))[:200]
            if attempt == TRIES:
                raise InputError(f"{what} failed {TRIES} times: {why}") from error
            say(f"trying {what} again, {attempt + 1} of {TRIES}, after {why}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
    raise AssertionError
