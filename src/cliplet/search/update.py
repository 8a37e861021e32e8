"""Making an index: which photos are new, changed or gone, and their vectors, a thousand photos at a time."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cliplet.data.names import is_photo_path
from cliplet.data.photos import TARS, PhotoFolder, PhotoTar, TarPhoto
from cliplet.data.text import is_utf8
from cliplet.encoders.base import BaseEncoder
from cliplet.encoders.batching import encode_images_safely
from cliplet.errors import InputError
from cliplet.search.store import Row, Store, Vectors

Progress = Callable[[int, int], None]
COMMIT = 1024
"""Photos that are kept together: a killed run loses at most these."""
HELD = 256 << 20
"""Bytes of photos in memory at once."""


@dataclass
class Changes:
    """What an update has done."""

    added: int = 0
    """New photos."""
    changed: int = 0
    """Photos whose content is another than before."""
    removed: int = 0
    """Photos that are no longer where they were."""
    unchanged: int = 0
    """Photos that were there already."""
    copied: int = 0
    """Of the added and changed: photos whose content the index had, so that they were not embedded again."""
    hidden: int = 0
    """Photos that were taken out, and stay so."""
    failed: dict[str, str] = field(default_factory=dict)
    """Path to reason of photos that could not be used; one that was there before with other content is removed."""
    seconds: float = 0.0
    """How long it took."""


@dataclass(frozen=True)
class Source:
    """A photo on disk, not yet read."""

    path: str
    """Its key in the table."""
    size: int
    """In bytes."""
    modified: float
    """Of its file."""
    place: Path | TarPhoto
    """Where it is read."""

    def read(self) -> bytes:
        """Its content."""
        return self.place.read_bytes()


def check_places(places: Sequence[str | Path]) -> None:
    """See that all places are there before work starts.

    Raises:
        InputError: a place is not there, or is no photo, folder or tar.
    """
    for place in map(Path, places):
        if not place.exists():
            raise InputError(f"{place}: there is no such photo, folder or tar")
        name = place.name.lower()
        if place.is_file() and not (is_photo_path(name) or name.endswith(TARS)):
            raise InputError(f"{place}: not a photo, a folder or a tar of photos")


@dataclass
class Listing:
    """What lies in the places that were given."""

    photos: dict[str, Source] = field(default_factory=dict)
    """Every photo by its key."""
    roots: list[str] = field(default_factory=list)
    """What the keys of a folder's or tar's photos begin with, where all of them are listed."""
    kept: list[str] = field(default_factory=list)
    """What the keys of photos begin with that could not be listed: nothing is known of them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Files, folders and tars that could not be read, and why."""

    def gone(self, path: str) -> bool:
        """Whether a photo that was there before is no longer."""
        if path in self.photos or not path.startswith(tuple(self.roots)) or path.startswith(tuple(self.kept)):
            return False
        tar = tar_of(path)  # a tar inside a folder has its own listing, or none
        return tar is None or f"{tar}:" in self.roots or not os.path.isfile(tar)

    def add(self, source: Source) -> None:
        """Add a photo, unless its name cannot be written."""
        if is_utf8(source.path):
            self.photos[source.path] = source
        else:
            self.failed[source.path] = "its name is not valid UTF-8: rename it"


def tar_of(path: str) -> str | None:
    """The tar in a key ``/folder/shard.tar:member``; None for a file's."""
    ends = (i for i, c in enumerate(path) if c == ":" and path[:i].lower().endswith(TARS))
    return next((path[:i] for i in ends), None)


def list_photos(places: Sequence[str | Path]) -> Listing:
    """Every photo in folders, tars and files. Raises InputError as :func:`check_places`."""
    check_places(places)
    found = Listing()
    for place in map(Path, places):
        whole = os.path.abspath(place)
        if place.is_dir():
            folder = PhotoFolder(whole)
            _list_files([os.path.join(whole, name) for name in folder.names()], found)
            found.roots.append(whole + os.sep)
            found.failed |= folder.unread
            found.kept += [path + os.sep for path in folder.unread]
        elif place.name.lower().endswith(TARS):
            _list_tar(whole, found)
        else:
            _list_files([whole], found)
    return found


def _list_files(files: Sequence[str], found: Listing) -> None:
    for file in files:
        try:
            about = os.stat(file)
        except OSError as error:
            found.failed[file] = error.strerror or str(error)
        else:
            found.add(Source(file, about.st_size, about.st_mtime, Path(file)))


def _list_tar(whole: str, found: Listing) -> None:
    try:
        tar, modified = PhotoTar(whole), os.stat(whole).st_mtime
    except InputError as error:
        found.failed[whole] = str(error)
        found.kept.append(f"{whole}:")
        return
    if tar.damage:
        found.failed[whole] = tar.damage
        found.kept.append(f"{whole}:")
    else:
        found.roots.append(f"{whole}:")
    for name in tar.names():
        try:
            photo = tar.get(name)
        except InputError as error:
            found.failed[f"{whole}:{name}"] = str(error)
        else:
            found.add(Source(f"{whole}:{name}", photo.size, modified, photo))


def update(
    store: Store,
    encoder: BaseEncoder,
    places: Sequence[str | Path],
    progress: Progress | None = None,
) -> Changes:
    """Bring the table up to date with these places; what is already kept is not done again.

    A photo counts as unchanged while its size and its file's date are. One that is gone is removed only where the
    folder or tar that held it was given.
    """
    start = time.perf_counter()
    done = Changes()
    listing, known = list_photos(places), store.rows()
    sources, done.failed = listing.photos, listing.failed
    todo = []
    for path, source in sources.items():
        row = known.get(path)
        if row is not None and row.hidden:
            done.hidden += 1
        elif row is not None and (row.size, row.modified) == (source.size, source.modified):
            done.unchanged += 1
        else:
            todo.append(source)
    finished = 0
    for block in _blocks(todo):
        _embed(store, encoder, block, known, done)
        finished += len(block)
        if progress is not None:
            progress(finished, len(todo))
    # last, so that a photo that was moved lends its vector to the new name
    gone = [path for path, row in known.items() if not row.hidden and listing.gone(path)]
    store.delete(gone)
    done.removed = len(gone)
    if todo or gone:
        store.tidy()
    done.seconds = time.perf_counter() - start
    return done


def _blocks(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Photos that are committed together, as many as may be held at once."""
    block: list[Source] = []
    held = 0
    for source in sources:
        if block and (len(block) == COMMIT or held + source.size > HELD):
            yield block
            block, held = [], 0
        block.append(source)
        held += source.size
    if block:
        yield block


def _embed(
    store: Store, encoder: BaseEncoder, block: Sequence[Source], known: dict[str, Row], done: Changes
) -> None:
    """Read, embed and keep a block of photos."""
    rows: list[Row] = []
    contents: list[bytes] = []
    for source in block:
        try:
            content = source.read()
            rows.append(_row(source, content))
            contents.append(content)
        except OSError as error:
            done.failed[source.path] = error.strerror or str(error)
        except InputError as error:
            done.failed[source.path] = str(error)
            store.delete([source.path] * (source.path in known))  # it is no longer the photo that it was
    vectors = np.zeros((len(rows), encoder.card.embedding_dim), dtype=np.float32)
    had = store.vectors_of(sorted({row.hash for row in rows})) if known else {}
    new = [i for i, row in enumerate(rows) if row.hash not in had]
    reasons: dict[int, str] = {}
    if new:
        vectors[new], failures = encode_images_safely(encoder, [contents[i] for i in new])
        reasons = {new[k]: reason for k, reason in failures.items()}
    for i, row in enumerate(rows):
        if row.hash in had:
            vectors[i] = had[row.hash]
    _keep(store, rows, vectors, reasons, known, done)
    same = (known[row.path].hash == row.hash for row in rows if row.path in known)
    done.copied += len(rows) - len(new) - sum(same)


def _keep(
    store: Store,
    rows: list[Row],
    vectors: Vectors,
    reasons: dict[int, str],
    known: dict[str, Row],
    done: Changes,
) -> None:
    good = [i for i in range(len(rows)) if i not in reasons]
    done.failed |= {rows[i].path: reason for i, reason in reasons.items()}
    store.put([rows[i] for i in good], vectors[good])
    store.delete([rows[i].path for i in reasons if rows[i].path in known])
    for i in good:
        before = known.get(rows[i].path)
        done.added += before is None
        done.changed += before is not None and before.hash != rows[i].hash
        done.unchanged += before is not None and before.hash == rows[i].hash


def _row(source: Source, content: bytes) -> Row:
    if not content:
        raise InputError("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        width = height = 0  # the encoder says what is wrong with it
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Row(source.path, digest, len(content), source.modified, width, height)
