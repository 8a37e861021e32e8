"""Embeddings kept on disk, so that the same photos scored with new captions cost only the captions.

One SQLite file in write-ahead mode: safe with several processes and after a kill. A key is a hash of the content
and of the model's fingerprint, so a changed file or model is never confused with the old one.
"""

import hashlib
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import ImageInput, StoredPhoto, read_file
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.batching import decoding_threads, encode_images_safely, encode_texts_counted
from cliplet.errors import InputError

DEFAULT_MAX_BYTES = 2_000_000_000
"""Size at which the embeddings used longest ago are dropped."""
IMAGE_BLOCK = 512
"""Images whose keys are looked up together."""
TEXT_BLOCK = 8192
"""Texts whose keys are looked up together."""


def default_cache_folder() -> Path:
    """``$CLIPLET_CACHE``, or ``cliplet`` in the user's cache folder."""
    named = os.environ.get("CLIPLET_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cliplet"


class EmbeddingCache:
    """A bounded store of ``key -> bytes`` on disk, shared by processes."""

    def __init__(self, folder: str | Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Open or make the cache in ``folder`` (default: the user's cache folder).

        Raises:
            InputError: the folder cannot be written.
        """
        self.path = Path(folder or default_cache_folder()) / "embeddings.sqlite"
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._broken = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()
        except (OSError, sqlite3.OperationalError) as error:
            raise InputError(
                f"the cache {self.path} cannot be written: {error}; name another folder"
            ) from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored values of those keys that are here."""
        found: dict[bytes, bytes] = {}
        with self._lock:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                found.update(
                    self._try(lambda q, a: self._connection.execute(q, a).fetchall())(
                        f"SELECT key, value FROM embeddings WHERE key IN ({marks})", some
                    )
                    or ()
                )
        return found

    def put(self, items: dict[bytes, bytes]) -> None:
        """Store values in one transaction, then drop the oldest beyond ``max_bytes``."""
        now = int(time.time())
        with self._lock:
            self._try(self._write)([(key, value, now) for key, value in items.items()])

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that these were used now, at most once a day each."""
        now = int(time.time())
        rows = [(now, key, now - 86_400) for key in keys]
        with self._lock:
            self._try(self._touch)(rows)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of live data in the file."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            damaged = self.path.with_suffix(f".damaged-{os.getpid()}")
            os.replace(self.path, damaged)
            warnings.warn(f"the cache {self.path} was damaged; moved to {damaged.name}", stacklevel=4)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA auto_vacuum=FULL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS embeddings "
            "(key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"
        )
        return connection

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

    def _try(self, action: Callable[..., Any]) -> Callable[..., Any]:
        """The action, or nothing once the disk fails: a cache must never cost the user the result."""

        def attempt(*arguments: Any) -> Any:
            if self._broken:
                return None
            try:
                return action(*arguments)
            except sqlite3.Error as error:
                self._broken = True
                warnings.warn(f"the cache {self.path} is switched off: {error}", stacklevel=4)
                return None

        return attempt


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK" if kind else "COMMIT")


class CachedEncoder:
    """An Encoder in front of another, with a cache between them."""

    def __init__(self, encoder: Encoder, cache: EmbeddingCache) -> None:
        self.encoder = encoder
        self.card = encoder.card
        self.cache = cache

    def encode_images(self, images: Sequence[ImageInput]) -> Embeddings:
        """As the inner encoder; the first bad image raises InputError."""
        embeddings, failures = self.encode_images_safely(images)
        if failures:
            raise InputError(failures[min(failures)])
        return embeddings

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """As the inner encoder."""
        return self.encode_texts_counted(texts)[0]

    def encode_images_safely(self, images: Sequence[ImageInput]) -> tuple[Embeddings, dict[int, str]]:
        """``[n, d]`` with NaN rows for bad images, and their reasons by position."""
        out = np.full((len(images), self.card.embedding_dim), np.nan, dtype=np.float32)
        failures: dict[int, str] = {}
        for start in range(0, len(images), IMAGE_BLOCK):
            block = [images[i] for i in range(start, min(start + IMAGE_BLOCK, len(images)))]
            with ThreadPoolExecutor(decoding_threads()) as pool:
                keys = list(pool.map(self._image_key, block))
            found = self._lookup([key for key in keys if key is not None])
            missing = [i for i, key in enumerate(keys) if key is None or key not in found]
            fresh, reasons = encode_images_safely(self.encoder, [block[i] for i in missing])
            failures.update({start + missing[i]: reason for i, reason in reasons.items()})
            self._store({keys[i]: fresh[j] for j, i in enumerate(missing) if j not in reasons})
            for i, key in enumerate(keys):
                if key in found:
                    out[start + i] = np.frombuffer(found[key], dtype=np.float32)
            out[[start + i for i in missing]] = fresh
        return out, failures

    def encode_texts_counted(self, texts: Sequence[str]) -> tuple[Embeddings, NDArray[np.bool_]]:
        """``[n, d]``, and which texts were cut; a flag beside each stored vector remembers it."""
        out = np.empty((len(texts), self.card.embedding_dim), dtype=np.float32)
        truncated = np.zeros(len(texts), dtype=bool)
        for start in range(0, len(texts), TEXT_BLOCK):
            block = texts[start : start + TEXT_BLOCK]
            keys = [self._key("text", text.encode("utf-8", "surrogatepass")) for text in block]
            found = self._lookup(keys)
            missing = [i for i, key in enumerate(keys) if key not in found]
            fresh, cut = encode_texts_counted(self.encoder, [block[i] for i in missing])
            self._store({keys[i]: np.append(fresh[j], np.float32(cut[j])) for j, i in enumerate(missing)})
            for i, key in enumerate(keys):
                if key in found:
                    stored = np.frombuffer(found[key], dtype=np.float32)
                    out[start + i], truncated[start + i] = stored[:-1], bool(stored[-1])
            rows = [start + i for i in missing]
            out[rows], truncated[rows] = fresh, cut
        return out, truncated

    def _lookup(self, keys: list[bytes]) -> dict[bytes, bytes]:
        found = self.cache.get(keys)
        self.cache.touch(list(found))
        return found

    def _store(self, vectors: dict[bytes | None, Embeddings]) -> None:
        items = {key: np.asarray(v, np.float32).tobytes() for key, v in vectors.items() if key is not None}
        if items:
            self.cache.put(items)

    def _key(self, kind: str, *content: bytes | memoryview) -> bytes:
        digest = hashlib.blake2b(f"{kind} {self.card.fingerprint} ".encode(), digest_size=16)
        for part in content:
            digest.update(part)
        return digest.digest()

    def _image_key(self, source: ImageInput) -> bytes | None:
        """The key of an image's content; None when it cannot be read (the encoder will say why)."""
        try:
            if isinstance(source, (bytes, bytearray, memoryview)):
                return self._key("file", bytes(source))
            if isinstance(source, np.ndarray):
                return self._key("array", f"{source.dtype}{source.shape}".encode(), source.tobytes())
            if isinstance(source, Image.Image):
                about = (
                    f"{source.mode}{source.size}{source.getexif().get(0x0112)}{source.getpalette()}".encode()
                )
                return self._key("pil", about, source.tobytes())
            if isinstance(source, StoredPhoto) and not isinstance(source, os.PathLike):
                return self._key("file", source.read_bytes())
            return self._key("file", read_file(source)) if isinstance(source, (str, os.PathLike)) else None
        except (OSError, ValueError, TypeError, InputError):
            return None
