"""The index behind ``/v1/search``, and its photos as thumbnails under ids that only this service can make."""

import base64
import binascii
import hashlib
import hmac
import io
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.serve.inference import check_photo
from cliplet.serve.refusal import Refusal

SIZES = (32, 1024)
"""Shortest and longest side of a thumbnail that may be asked for."""
_MAC = 16


class Hit(Protocol):
    """A found photo."""

    path: str
    score: float
    also: Sequence[str]


class Index(Protocol):
    """What of an index is used here; reads from several threads are safe."""

    def search_vector(self, vector: NDArray[Any], top: int, without: NDArray[Any] | None = None) -> list[Any]:
        """The best photos for a query vector ``[d]``, those like ``without`` put back."""
        ...


class Photos:
    """An open index.

    Args:
        index: the index.
        max_pixels: photos beyond are not shown.
        secret: makes the ids of photos; replicas of one service share it.
    """

    def __init__(self, index: Index, max_pixels: int, secret: bytes | None = None) -> None:
        self.index, self.max_pixels = index, max_pixels
        self._secret = secret or secrets.token_bytes(32)

    def find(self, vector: NDArray[Any], top: int, without: NDArray[Any] | None = None) -> list[Any]:
        """The best ``top`` hits."""
        return self.index.search_vector(vector, top, without)

    def id_of(self, path: str) -> str:
        """The id under which a found photo is shown: its path, sealed, so that no client can name another."""
        name = path.encode("utf-8", "surrogateescape")
        return base64.urlsafe_b64encode(self._seal(name) + name).decode().rstrip("=")

    def thumbnail(self, photo_id: str, size: int) -> bytes:
        """A photo as a JPEG at most ``size`` pixels long, upright and without EXIF.

        Raises:
            Refusal: 404 for an id that this service did not make, and where the photo can no longer be read.
        """
        from cliplet.search.index import photo_of

        path = self._path_of(photo_id)
        try:
            content = photo_of(path).read_bytes()
            check_photo(content, self.max_pixels)
            image = load_rgb(content, at_least=size)
        except (OSError, InputError):
            raise Refusal(
                404, "photo_gone", "the photo can no longer be read: index its folder again"
            ) from None
        image.thumbnail((size, size))
        made = io.BytesIO()
        image.save(made, "JPEG", quality=82, exif=b"")
        return made.getvalue()

    def _path_of(self, photo_id: str) -> str:
        try:
            sealed = base64.urlsafe_b64decode(photo_id + "=" * (-len(photo_id) % 4))
        except (binascii.Error, ValueError):
            sealed = b""
        seal, name = sealed[:_MAC], sealed[_MAC:]
        if not hmac.compare_digest(seal, self._seal(name)):
            raise Refusal(404, "no_photo", "there is no photo of this id: search again")
        return name.decode("utf-8", "surrogateescape")

    def _seal(self, name: bytes) -> bytes:
        return hashlib.blake2b(name, key=self._secret, digest_size=_MAC).digest()


def mean_direction(vectors: NDArray[Any]) -> NDArray[Any]:
    """One query ``[d]`` of length 1 from several ``[n, d]``."""
    total = np.asarray(vectors, dtype=np.float32).sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-30), dtype=np.float32)
