"""Where photos lie: folders, tars and paths; found by the rule of :mod:`cliplet.data.names`."""

import gzip
import os
import posixpath
import tarfile
import tempfile
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cliplet.data.images import ImageInput
from cliplet.data.names import ImageKey, NameIndex, find_each, is_photo_path
from cliplet.data.text import shown
from cliplet.errors import InputError

TARS = (".tar", ".tar.gz", ".tgz")
"""Suffixes of tars that are read."""


class TarPhoto:
    """A file inside a tar, read by its offset when it is needed; safe in threads."""

    def __init__(self, tar: "PhotoTar", name: str, offset: int, size: int) -> None:
        self.tar, self.name, self.offset, self.size = tar, name, offset, size

    def read_bytes(self) -> bytes:
        """Its content."""
        return os.pread(self.tar.descriptor, self.size, self.offset)

    def __str__(self) -> str:
        return f"{self.tar.path}:{self.name}"


class PhotoIndex:
    """Finds photos by the names that captions files use."""

    root: str | Path
    """Where they are, for messages."""
    damage: str | None = None
    """Where a tar is cut off or damaged; None when all is there."""

    def names(self) -> list[str]:
        """Every photo's name, relative to the folder or tar, sorted."""
        raise NotImplementedError

    def get(self, name: str) -> ImageInput:
        """The photo of this exact name."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is a photo of this exact name."""
        raise NotImplementedError

    def find(self, key: ImageKey) -> tuple[str, ImageInput]:
        """The name and the photo that a captions file means by ``key``.

        Raises:
            InputError: no such photo, or several.
        """
        (found,) = self.find_all([key]).values()
        if isinstance(found, InputError):
            raise found
        return found

    def find_all(self, keys: Iterable[ImageKey]) -> dict[ImageKey, tuple[str, ImageInput] | InputError]:
        """What each key means: the photo's name and the photo, or the reason why it has none."""
        found: dict[ImageKey, tuple[str, ImageInput] | InputError] = {}
        for key, name in find_each(self._name, keys).items():
            try:
                if not isinstance(name, str):
                    raise name or self._missing(key)
                found[key] = name, self.get(name)
            except InputError as error:
                found[key] = error
        return found

    def _name(self, key: ImageKey) -> str | None:
        name = str(key)
        return name if self.has(name) else self._index.find(name)

    def _missing(self, key: ImageKey) -> InputError:
        more = ""
        if "://" in str(key):
            more = "; web addresses are not fetched: download the photos and name their folder with --images"
        return InputError(f"there is no photo {shown(str(key), 200)} in {self.root}{more}")

    @cached_property
    def _index(self) -> NameIndex:
        return NameIndex(self.names(), f"photos in {self.root}")


class PhotoFolder(PhotoIndex):
    """Photos in a folder and its subfolders, linked ones too."""

    def __init__(self, root: str | Path) -> None:
        """Open a folder; raises InputError when it is not one."""
        self.root: Path = Path(root)
        self.unread: dict[str, str] = {}
        """Subfolders that could not be listed, and why; known after :meth:`files`."""
        if not self.root.is_dir():
            raise InputError(f"{self.root}: there is no such folder of photos")

    def files(self) -> list[str]:
        """Every file below the folder, relative to it, sorted; each subfolder once, whatever links lead to it."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        ahead = deque([str(self.root)])
        while ahead:
            for folder, inside, files in os.walk(ahead.popleft(), onerror=self._not_listed):
                try:
                    about = os.stat(folder)
                except OSError as error:
                    self._not_listed(error)
                    continue
                if (about.st_dev, about.st_ino) in seen:
                    inside.clear()
                    continue
                seen.add((about.st_dev, about.st_ino))
                here = os.path.relpath(folder, self.root)
                found += [os.path.normpath(os.path.join(here, file)) for file in files]
                ahead += [
                    path for name in sorted(inside) if os.path.islink(path := os.path.join(folder, name))
                ]
        return sorted(found)

    def _not_listed(self, error: OSError) -> None:
        self.unread[str(error.filename)] = error.strerror or str(error)

    def names(self) -> list[str]:
        """Every file with a photo's suffix below the folder."""
        return [name for name in self.files() if _is_photo(name)]

    def get(self, name: str) -> Path:
        """The path of a photo."""
        return self.root / name

    def has(self, name: str) -> bool:
        """Whether the file exists, whatever its suffix."""
        return bool(name) and is_file(self.root / name)

    def _name(self, key: ImageKey) -> str | None:
        name = super()._name(key)  # perhaps ./dog.jpg, or a whole path
        if name is not None and os.path.isabs(name) and Path(name).is_relative_to(self.root.absolute()):
            name = os.path.relpath(name, self.root.absolute())
        return name and os.path.normpath(name)


class PhotoPaths(PhotoIndex):
    """Photos named by their paths, absolute or relative to a folder or to the working folder; nothing is searched."""

    def __init__(self, root: str | Path) -> None:
        self.root: Path = Path(root)

    def names(self) -> list[str]:
        """None: paths are not listed."""
        return []

    def get(self, name: str) -> Path:
        """The path of a photo."""
        beside = self.root / name
        return beside if beside.is_file() else Path(name)

    def has(self, name: str) -> bool:
        """Whether the path leads to a file."""
        return bool(name) and (is_file(self.root / name) or is_file(Path(name)))


class PhotoTar(PhotoIndex):
    """Photos in a tar, such as a WebDataset shard; one in gzip is unpacked to a temporary file, for its offsets."""

    def __init__(self, path: str | Path) -> None:
        """List the tar.

        Raises:
            InputError: missing, not a tar, or compressed by something else than gzip.
        """
        self.root = self.path = Path(path)
        self.members: list[TarPhoto] = []
        """Every file in it, in its order; a name may come twice."""
        try:
            lost = self._open()
            self.size = os.fstat(self.descriptor).st_size
            """Its bytes, unpacked."""
            with open(os.dup(self.descriptor), "rb") as stream:
                stream.seek(0)
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    self._list(tar)
            self.damage = lost or self.damage
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{path} is not a readable tar, alone or in gzip: {error}") from error
        photos = [member for member in self.members if _is_photo(member.name)]
        self._photos = {photo.name: photo for photo in photos}
        self._twice = {p.name for p in photos if p is not self._photos[p.name]}

    def _open(self) -> str | None:
        """Open the file, or a temporary one with what gzip has packed; says what is lost of that."""
        lost = None
        with open(self.path, "rb") as file:
            if file.peek(2)[:2] != b"\x1f\x8b":
                self.descriptor = os.dup(file.fileno())
                return None
            with tempfile.TemporaryFile() as unpacked, gzip.open(file) as packed:
                self.descriptor = os.dup(unpacked.fileno())
                try:
                    while block := packed.read1(1 << 16):
                        unpacked.write(block)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    lost = f"its gzip is cut off or damaged ({error}): what followed is lost"
        return lost

    def _list(self, tar: tarfile.TarFile) -> None:
        size = self.size
        links: list[tuple[int, str, str]] = []
        try:
            while (member := tar.next()) is not None:
                if member.isfile():
                    self.members.append(TarPhoto(self, member.name, member.offset_data, member.size))
                elif member.islnk() or member.issym():
                    folder = posixpath.dirname(member.name) if member.issym() else ""
                    target = posixpath.normpath(posixpath.join(folder, member.linkname))
                    links.append((len(self.members) + len(links), member.name, target))
        except (tarfile.TarError, EOFError):
            last = f", inside {self.members[-1].name}" if self.members else ""
            self.damage = f"the tar is cut off at byte {size}{last}: what followed is lost"
        else:
            if os.pread(self.descriptor, 512, tar.offset).strip(b"\0"):
                self.damage = (
                    f"the tar is damaged at byte {tar.offset}, inside a header: what follows is lost"
                )
        at = {member.name: member for member in self.members}
        for place, name, target in links:
            if target in at:
                self.members.insert(place, TarPhoto(self, name, at[target].offset, at[target].size))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: its number means another one, or none, in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again.

        Raises:
            InputError: it is gone, or has another size than when it was listed.
        """
        self.__dict__.update(state)
        try:
            self._open()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if os.fstat(self.descriptor).st_size != self.size:
            raise InputError(f"{self.path} has changed since it was listed")

    def names(self) -> list[str]:
        """Every photo in the tar."""
        return sorted(self._photos)

    def get(self, name: str) -> TarPhoto:
        """A photo, not yet read; raises InputError where the tar holds two of its name."""
        if name in self._twice:
            raise InputError(f"{self.path} holds two files {name}: it cannot be said which is meant")
        if name not in self._photos:
            raise InputError(f"{self.path} holds no photo {name}")
        return self._photos[name]

    def has(self, name: str) -> bool:
        """Whether the tar holds this photo."""
        return name in self._photos


class PhotoShards(PhotoIndex):
    """What several shards and folders hold, as ``SHARD/NAME``, and photos by name wherever they are."""

    def __init__(
        self, folders: Iterable[Path], shards: Mapping[str, PhotoIndex], paths: Mapping[str, Path]
    ) -> None:
        """The shards by name, the other photos by name, and the folders that those were looked for in."""
        self.root = " and ".join(map(str, dict.fromkeys(folders)))
        self.shards, self.paths = shards, paths

    def names(self) -> list[str]:
        """Every photo of every shard."""
        return [f"{shard}/{name}" for shard, index in self.shards.items() for name in index.names()]

    def get(self, name: str) -> ImageInput:
        """The photo of this exact name."""
        if name in self.paths:
            return self.paths[name]
        shard = next(shard for shard in self.shards if name.startswith(f"{shard}/"))
        return self.shards[shard].get(name.removeprefix(f"{shard}/"))

    def has(self, name: str) -> bool:
        """Whether it is known by this exact name."""
        return name in self.paths


class PhotoStore(PhotoIndex):
    """Photos in several folders and tars, and photos at hand by name; the first that has a name wins."""

    def __init__(
        self,
        sources: Iterable[str | Path] = (),
        extra: Mapping[str, ImageInput] | None = None,
        beside: str | Path = ".",
    ) -> None:
        """Open the sources.

        Args:
            sources: folders and tars; with none and no ``extra``, names are paths.
            extra: photos by name, before all others.
            beside: the folder that paths are relative to.

        Raises:
            InputError: a source is neither a folder nor a tar.
        """
        self.extra = dict(extra or {})
        self.indices = [open_photos(source) for source in sources]
        if not self.indices:
            self.indices = [PhotoPaths(beside)]
        self.root = " and ".join(str(index.root) for index in self.indices)

    def names(self) -> list[str]:
        """Every photo's name."""
        return list(dict.fromkeys([*self.extra, *(name for index in self.indices for name in index.names())]))

    def has(self, name: str) -> bool:
        """Whether any of them has this photo."""
        return name in self.extra or any(index.has(name) for index in self.indices)

    def get(self, name: str) -> ImageInput:
        """The photo of this exact name."""
        if name in self.extra:
            return self.extra[name]
        return next(index for index in self.indices if index.has(name)).get(name)

    def photo(self, name: ImageKey) -> ImageInput | None:
        """The photo that a name means, or None."""
        found = self.find_all([name])[name]
        return None if isinstance(found, InputError) else found[1]

    def photos(self, names: Sequence[str]) -> tuple[list[ImageInput | None], dict[str, str]]:
        """The photo of each name, None for none, and the reasons by name."""
        found = self.find_all(names)
        reasons = {str(name): str(error) for name, error in found.items() if isinstance(error, InputError)}
        photos = (found[name] for name in names)
        return [None if isinstance(photo, InputError) else photo[1] for photo in photos], reasons


def open_photos(path: str | Path) -> PhotoIndex:
    """A folder or a tar of photos.

    Raises:
        InputError: neither.
    """
    path = Path(path)
    if path.is_dir():
        return PhotoFolder(path)
    if path.name.lower().endswith(TARS):
        return PhotoTar(path)
    raise InputError(
        f"{path} is neither a folder nor a .tar or .tar.gz of photos"
        if path.exists()
        else f"{path} does not exist"
    )


def _is_photo(name: str) -> bool:
    return is_photo_path(name) and not posixpath.basename(name).startswith("._")


def is_file(path: Path) -> bool:
    """Whether a path leads to a file, whatever it is made of."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a NUL
        return False
