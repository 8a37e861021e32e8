"""Embeddings kept on disk, so that the same photos scored with new captions cost only the captions.

One SQLite file in write-ahead mode: safe with several processes, forks and kills. A key is a hash of the content, of
the model's fingerprint, of what else changes its numbers (another device or precision) and of whether the embedding
was brought to length 1, so that none is taken for another.
"""

import hashlib
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import ImageInput, StoredPhoto, noted, read_file
from cliplet.encoders.base import Embeddings, Encoder, WrappedEncoder
from cliplet.encoders.batching import decoding_threads
from cliplet.errors import InputError

T = TypeVar("T")
DEFAULT_MAX_BYTES = 2_000_000_000
"""Size at which the embeddings used longest ago are dropped."""
IMAGE_BLOCK = 512
"""Images whose keys are looked up together."""
TEXT_BLOCK = 8192
"""Texts whose keys are looked up together."""
_SEAL = 8
"""Bytes of the checksum in front of each value."""
_INHERITED: list[sqlite3.Connection] = []
"""Connections that a forked child has from its parent: kept, since letting go of one closes it."""


def default_cache_folder() -> Path:
    """``$CLIPLET_CACHE``, or ``cliplet`` in the user's cache folder."""
    named = os.environ.get("CLIPLET_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cliplet"


class EmbeddingCache:
    """A bounded store of ``key -> bytes`` on disk, shared by processes; each value lies beside its checksum."""

    def __init__(self, folder: str | Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Open or make the cache in ``folder`` (default: the user's cache folder).

        Raises:
            InputError: the folder cannot be written.
        """
        self.path = Path(folder or default_cache_folder()) / "embeddings.sqlite"
        self.max_bytes = max_bytes
        self._begin()

    def _begin(self) -> None:
        """Open the file in this process."""
        self._process, self._lock = os.getpid(), threading.Lock()
        self._broken = self._mended = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if not self._mend(error):
                    raise
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"the cache {self.path} cannot be written: {error}; name another folder"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored values of those keys that are here and whole."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), 500):
            for key, value in self._try(self._read, keys[start : start + 500]) or ():
                if isinstance(value, bytes) and value == _sealed(key, value[_SEAL:]):
                    found[key] = value[_SEAL:]
        return found

    def put(self, items: dict[bytes, bytes]) -> None:
        """Store values in one transaction, then drop the oldest beyond ``max_bytes``."""
        now = int(time.time())
        self._try(self._write, [(key, _sealed(key, value), now) for key, value in items.items()])

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that these were used now, at most once a day each."""
        now = int(time.time())
        self._try(self._touch, [(now, key, now - 86_400) for key in keys])

    def close(self) -> None:
        """Close the file."""
        if self.__dict__.get("_opened_by") == os.getpid():
            self._connection.close()

    def __del__(self) -> None:
        if "_opened_by" in self.__dict__ and self._opened_by != os.getpid():
            _INHERITED.append(self._connection)
        self.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of live data in the file."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _connect(self) -> None:
        """Open the file; another process that makes it at this moment is waited for, which SQLite does not do."""
        for wait in (0.05, 0.2, 0.8, 3.0):
            try:
                return self._open()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                time.sleep(wait)
        self._open()

    def _open(self) -> None:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
        try:
            connection.text_factory = bytes  # damage can turn a value into a text, which need not be UTF-8
            self._inode = self.path.stat().st_ino
            connection.execute("PRAGMA auto_vacuum=FULL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS embeddings "
                "(key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"
            )
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened_by = connection, os.getpid()

    def _mend(self, error: sqlite3.Error) -> bool:
        """Move a damaged file away, unless another process has, and begin a new one: once, and for damage alone."""
        if self._mended or isinstance(error, sqlite3.OperationalError):
            return False
        self._mended = True
        if self.path.exists() and self.path.stat().st_ino == self._inode:
            damaged = self.path.with_suffix(f".damaged-{os.getpid()}")
            os.replace(self.path, damaged)
            for tail in ("-wal", "-shm"):  # they belong to the old file and would spoil a new one
                self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
            warnings.warn(f"the cache {self.path} was damaged; moved to {damaged.name}", stacklevel=5)
        self.close()
        self._connect()
        return True

    def _read(self, keys: Sequence[bytes]) -> list[tuple[bytes, Any]]:
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, value FROM embeddings WHERE key IN ({marks})"
        return self._connection.execute(query, keys).fetchall()

    def _write(self, rows: list[tuple[bytes, bytes, int]]) -> None:
        with _transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)
        while self.size_bytes > self.max_bytes:
            with _transaction(self._connection):
                count = self._connection.execute("SELECT COUNT(*) FROM embeddings").fetchone()[0]
                if not count:
                    return
                self._connection.execute(
                    "DELETE FROM embeddings WHERE key IN (SELECT key FROM embeddings ORDER BY used LIMIT ?)",
                    (count // 4 + 1,),
                )

    def _touch(self, rows: list[tuple[int, bytes, int]]) -> None:
        with _transaction(self._connection):
            self._connection.executemany("UPDATE embeddings SET used = ? WHERE key = ? AND used < ?", rows)

    def _try(self, action: Callable[..., T], *arguments: Any) -> T | None:
        """The action's result, or None once the disk fails: a cache must never cost the user the result."""
        if self._process != os.getpid():  # a forked child may neither use nor close its parent's connection
            _INHERITED.append(self._connection)
            self._begin()
        with self._lock:
            try:
                try:
                    return None if self._broken else action(*arguments)
                except sqlite3.DatabaseError as error:
                    if not self._mend(error):
                        raise
                    return action(*arguments)
            except (OSError, sqlite3.Error) as error:
                self._broken = True
                warnings.warn(f"the cache {self.path} is switched off: {error}", stacklevel=4)
                return None


def _sealed(key: bytes, value: bytes) -> bytes:
    """The value behind a checksum of it and its key, so that a damaged row is a missing one."""
    return hashlib.blake2b(key + value, digest_size=_SEAL).digest() + value


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK" if kind else "COMMIT")


class CachedEncoder(WrappedEncoder):
    """An Encoder in front of another, with a cache between them."""

    keeps = True

    def __init__(self, encoder: Encoder, cache: EmbeddingCache) -> None:
        """Refuses an encoder whose card has no fingerprint (InputError): its vectors cannot be told from another's."""
        super().__init__(encoder)
        if self.card.fingerprint == "unknown":
            raise InputError(
                f"the embeddings of {self.card.name} cannot be cached: its card has no fingerprint that tells one "
                "version of the weights from another; give the card fingerprint_of, or leave the cache out"
            )
        self.cache = cache

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        """``[n, d]`` with NaN rows for bad images, and their reasons by position."""
        out = self.no_rows(len(images))
        failures: dict[int, str] = {}
        kind = _kind("image", normalise)
        for start in range(0, len(images), IMAGE_BLOCK):
            block = [images[i] for i in range(start, min(start + IMAGE_BLOCK, len(images)))]
            with ThreadPoolExecutor(decoding_threads()) as pool:
                keys = list(pool.map(partial(self._image_key, kind), block))
            found = self._lookup([key for key in keys if key is not None])
            missing = [i for i, key in enumerate(keys) if key is None or key not in found]
            with noted(block[i] for i in missing) as notes:
                fresh, reasons = self.encoder.encode_images_safely([block[i] for i in missing], normalise)
            failures.update({start + missing[i]: reason for i, reason in reasons.items()})
            good = [(j, i) for j, i in enumerate(missing) if j not in reasons]
            # what has a note is decoded each time, so that the note is heard each time
            self._store({keys[i]: fresh[j] for j, i in good if not notes[id(block[i])]})
            for i, key in enumerate(keys):
                if key in found:
                    out[start + i] = np.frombuffer(found[key], dtype=np.float32)
            out[[start + i for i in missing]] = fresh
        return out, failures

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        """``[n, d]``, which texts were cut (a flag beside each stored vector remembers it), and reasons."""
        out, truncated, failures = self.no_rows(len(texts)), np.zeros(len(texts), dtype=bool), {}
        kind = _kind("text", normalise)
        for start in range(0, len(texts), TEXT_BLOCK):
            block = texts[start : start + TEXT_BLOCK]
            keys = [self._key(kind, text.encode("utf-8", "surrogatepass")) for text in block]
            found = self._lookup(keys)
            missing = [i for i, key in enumerate(keys) if key not in found]
            fresh, cut, reasons = self.encoder.encode_texts_safely([block[i] for i in missing], normalise)
            failures.update({start + missing[j]: reason for j, reason in reasons.items()})
            flagged = np.column_stack([fresh, cut]).astype(np.float32)  # [missing, d + 1]
            self._store({keys[i]: flagged[j] for j, i in enumerate(missing) if j not in reasons})
            for i, key in enumerate(keys):
                if key in found:
                    stored = np.frombuffer(found[key], dtype=np.float32)
                    out[start + i], truncated[start + i] = stored[:-1], bool(stored[-1])
            rows = [start + i for i in missing]
            out[rows], truncated[rows] = fresh, cut
        return out, truncated, failures

    def _lookup(self, keys: list[bytes]) -> dict[bytes, bytes]:
        found = self.cache.get(keys)
        self.cache.touch(list(found))
        return found

    def _store(self, vectors: dict[bytes | None, Embeddings]) -> None:
        items = {key: np.asarray(v, np.float32).tobytes() for key, v in vectors.items() if key is not None}
        if items:
            self.cache.put(items)

    def _key(self, kind: str, *content: bytes | memoryview) -> bytes:
        numerics = self.numerics and f"{self.numerics} "
        digest = hashlib.blake2b(f"sealed {kind} {self.card.fingerprint} {numerics}".encode(), digest_size=16)
        for part in content:
            digest.update(part)
        return digest.digest()

    def _image_key(self, kind: str, source: ImageInput) -> bytes | None:
        """The key of an image's content; None when it cannot be read (the encoder will say why)."""
        try:
            if isinstance(source, (bytes, bytearray, memoryview)):
                return self._key(f"{kind} file", bytes(source))
            if isinstance(source, np.ndarray):
                return self._key(f"{kind} array", f"{source.dtype}{source.shape}".encode(), source.tobytes())
            if isinstance(source, Image.Image):
                about = (
                    f"{source.mode}{source.size}{source.getexif().get(0x0112)}{source.getpalette()}".encode()
                )
                return self._key(f"{kind} pil", about, source.tobytes())
            if isinstance(source, StoredPhoto) and not isinstance(source, os.PathLike):
                return self._key(f"{kind} file", source.read_bytes())
            return (
                self._key(f"{kind} file", read_file(source))
                if isinstance(source, (str, os.PathLike))
                else None
            )
        except (OSError, ValueError, TypeError, InputError):
            return None


class Alone(WrappedEncoder):
    """An Encoder that embeds each item alone: what it gives depends on the item, not on what stands beside it.

    So it does not matter which of a file's photos a cache already has.
    """

    @property
    def numerics(self) -> str:
        """That of the inner encoder, apart from what it gives in batches."""
        return f"{self.encoder.numerics} alone".strip()

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        """As the inner encoder, one by one."""
        out = self.no_rows(len(images))
        failures: dict[int, str] = {}
        for i, image in enumerate(images):
            out[i : i + 1], reasons = self.encoder.encode_images_safely([image], normalise)
            failures.update((i, reason) for reason in reasons.values())
        return out, failures

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        """As the inner encoder, one by one."""
        out, truncated = self.no_rows(len(texts)), np.zeros(len(texts), dtype=bool)
        failures: dict[int, str] = {}
        for i, text in enumerate(texts):
            out[i : i + 1], truncated[i : i + 1], reasons = self.encoder.encode_texts_safely(
                [text], normalise
            )
            failures.update((i, reason) for reason in reasons.values())
        return out, truncated, failures


def kept_alone(encoder: Encoder, cache: bool | str) -> CachedEncoder:
    """The encoder behind a cache in the user's folder (True) or another, each item embedded alone."""
    return CachedEncoder(Alone(encoder), EmbeddingCache(cache if isinstance(cache, str) else None))


def _kind(what: str, normalise: bool) -> str:
    """Unit and raw embeddings have keys of their own."""
    return what if normalise else f"raw {what}"
