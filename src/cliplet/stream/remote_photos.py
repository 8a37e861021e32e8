"""Photos at an address beside captions: a folder of a store, read photo by photo, or tars, fetched whole once.

A photo that a store cannot give is no bad photo: it ends its part, which is given up with the reason and can be tried
again.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from threading import Lock

from cliplet.data.images import ImageInput
from cliplet.data.names import ImageKey
from cliplet.data.photos import TARS, PhotoIndex, PhotoTar
from cliplet.errors import InputError
from cliplet.stream.remote import fetched, file_of, find_remote, listed_below, whole_file
from cliplet.stream.source import Source, without_query

AHEAD, FETCHING = 32, 16
"""Photos that are fetched before they are asked for, at most, and at the same time."""


class RemotePhoto:
    """A photo of a store, read when it is needed or a little before."""

    def __init__(self, address: str, size: int) -> None:
        self.address, self.size = address, size
        self.ahead: tuple[_Ahead, int] | None = None

    def read_bytes(self) -> bytes:
        """Its content, whole.

        Raises:
            InputError: it is gone.
            StoreError: the store does not give it.
        """
        return self.fetch() if self.ahead is None else self.ahead[0].read(self.ahead[1])

    def fetch(self) -> bytes:
        """Its content, fetched now."""
        return whole_file(self.address, self.size)

    def __str__(self) -> str:
        return self.address


class _Ahead:
    """Photos in the order in which they are most likely wanted; while one is read, the next are on their way."""

    def __init__(self, photos: Sequence[RemotePhoto], pool: ThreadPoolExecutor) -> None:
        self.photos, self.pool, self.lock = photos, pool, Lock()
        self.next, self.coming = 0, dict[int, Future[bytes]]()

    def read(self, place: int) -> bytes:
        """The content of one."""
        with self.lock:
            for k in range(max(place, self.next), min(place + AHEAD, len(self.photos))):
                self.coming[k] = self.pool.submit(self.photos[k].fetch)
                self.next = k + 1
            for k in [k for k in self.coming if k < place - AHEAD]:
                self.coming.pop(k).cancel()  # nobody asked for it
            found = self.coming.pop(place, None)
        return self.photos[place].fetch() if found is None else found.result()


class RemoteFolder(PhotoIndex):
    """Photos below an address; their names and sizes are listed once, when the first is looked for."""

    def __init__(self, address: str) -> None:
        self.root = self.address = address.rstrip("/")
        self._pool = ThreadPoolExecutor(FETCHING)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return listed_below(self.address)

    def names(self) -> list[str]:
        """Every photo's name below the address."""
        return sorted(self._sizes)

    def has(self, name: str) -> bool:
        """Whether there is a photo of this exact name."""
        return name in self._sizes

    def get(self, name: str) -> ImageInput:
        """The photo, not yet read."""
        return RemotePhoto(f"{self.address}/{name}", self._sizes[name])

    def find_all(self, keys: Iterable[ImageKey]) -> dict[ImageKey, tuple[str, ImageInput] | InputError]:
        """As :class:`PhotoIndex`; the photos found will be fetched a little ahead, in this order."""
        found = super().find_all(keys)
        photos = [hit[1] for hit in found.values() if isinstance(hit, tuple)]
        remote = [photo for photo in photos if isinstance(photo, RemotePhoto)]
        ahead = _Ahead(remote, self._pool)
        for place, photo in enumerate(remote):
            photo.ahead = ahead, place
        return found


class RemoteTars(PhotoIndex):
    """Photos in tars at addresses, each fetched whole to this machine; the first that has a name wins."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.root, self.sources = " and ".join(source.name for source in sources), list(sources)

    @cached_property
    def _tars(self) -> list[PhotoTar]:
        found = []
        for source in self.sources:
            with fetched(source, lambda doing: None) as path:
                found.append(PhotoTar(path))  # it holds the file open, which is gone from its folder
        return found

    def names(self) -> list[str]:
        """Every photo's name."""
        return list(dict.fromkeys(name for tar in self._tars for name in tar.names()))

    def has(self, name: str) -> bool:
        """Whether any of them has this photo."""
        return any(tar.has(name) for tar in self._tars)

    def get(self, name: str) -> ImageInput:
        """The photo of this exact name."""
        for tar in self._tars:
            if tar.has(name):
                return tar.get(name)
        raise InputError(f"{self.root} holds no photo {name}")


def open_remote_photos(address: str) -> PhotoIndex:
    """The photos at an address: tars, by braces and wildcards too, or else a folder.

    Raises:
        InputError: nothing is there.
        MissingExtraError: fsspec is not installed.
    """
    if is_tar(address):
        sources = find_remote(address)
        other = next((source for source in sources if source.kind != "tar"), None)
        if other is not None:
            raise InputError(f"{other.name} is no tar of photos")
        return RemoteTars(sources)
    if file_of(address):
        raise InputError(f"{address} is neither a folder nor a .tar or .tar.gz of photos")
    return RemoteFolder(address)


def is_tar(address: str) -> bool:
    """Whether the address names tars, which are fetched whole."""
    return without_query(address).lower().endswith(TARS)
