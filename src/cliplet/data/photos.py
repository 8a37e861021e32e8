"""Where photos lie: a folder or a tar, found by file name, stem, number, or name in another case."""

import os
import re
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from cliplet.data.images import ImageInput
from cliplet.errors import InputError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
"""File suffixes taken for photos (in any case) when a folder or tar is listed."""
_CAPTION_SUFFIXES = (".txt", ".json", ".caption", ".cap")


class TarPhoto:
    """A photo inside an uncompressed tar, read by its offset when it is needed; safe in threads."""

    def __init__(self, tar: "PhotoTar", name: str, offset: int, size: int) -> None:
        self.tar, self.name, self.offset, self.size = tar, name, offset, size

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        return os.pread(self.tar.descriptor, self.size, self.offset)

    def __str__(self) -> str:
        return f"{self.tar.path}:{self.name}"


class PhotoIndex:
    """Finds photos by the names that captions files use."""

    root: Path

    def names(self) -> list[str]:
        """Every photo's name, relative to the folder or tar, sorted."""
        raise NotImplementedError

    def get(self, name: str) -> ImageInput:
        """The photo of this exact name."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is a photo of this exact name."""
        raise NotImplementedError

    def find(self, key: str | int) -> tuple[str, ImageInput]:
        """The name and the photo that a captions file means by ``key``.

        Tried in this order: the exact path; the file name; the name without suffix; the number at its end (COCO);
        the name in another case.

        Raises:
            InputError: no such photo, or several.
        """
        text = str(key)
        if self.has(text):
            return text, self.get(text)
        for kind, wanted in _keys_of(text):
            found = self._by_key.get((kind, wanted), ())
            if len(found) == 1:
                return found[0], self.get(found[0])
            if found:
                several = ", ".join(found[:4])
                raise InputError(
                    f"several photos in {self.root} could be {text!r}: {several}; use the exact name"
                )
        raise InputError(f"there is no photo {text!r} in {self.root}")

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], list[str]]:
        index: dict[tuple[str, str], list[str]] = {}
        for name in self.names():
            for key in _keys_of(name):
                index.setdefault(key, []).append(name)
        return index


class PhotoFolder(PhotoIndex):
    """Photos in a folder and its subfolders."""

    def __init__(self, root: str | Path) -> None:
        """Open a folder; raises InputError when it is not one."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: there is no such folder of photos")

    def names(self) -> list[str]:
        """Every file with a photo's suffix below the folder."""
        found = []
        for folder, _, files in os.walk(self.root):
            here = os.path.relpath(folder, self.root)
            found += [os.path.normpath(os.path.join(here, f)) for f in files if _is_photo(f)]
        return sorted(found)

    def get(self, name: str) -> Path:
        """The path of a photo."""
        return self.root / name

    def has(self, name: str) -> bool:
        """Whether the file exists, whatever its suffix."""
        try:
            return bool(name) and (self.root / name).is_file()
        except (OSError, ValueError):  # too long, or a NUL
            return False


class PhotoPaths(PhotoIndex):
    """Photos named by their paths, absolute or relative to a folder or to the working folder; nothing is searched."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def names(self) -> list[str]:
        """None: paths are not listed."""
        return []

    def get(self, name: str) -> Path:
        """The path of a photo."""
        beside = self.root / name
        return beside if beside.is_file() else Path(name)

    def has(self, name: str) -> bool:
        """Whether the path leads to a file."""
        try:
            return bool(name) and self.get(name).is_file()
        except (OSError, ValueError):  # too long, or a NUL
            return False


class PhotoTar(PhotoIndex):
    """Photos in an uncompressed tar, such as a WebDataset shard."""

    def __init__(self, path: str | Path) -> None:
        """List the tar.

        Raises:
            InputError: missing, compressed, damaged, or not a tar.
        """
        self.root = self.path = Path(path)
        try:
            with tarfile.open(self.path, "r:") as tar:
                members = [m for m in tar if m.isfile()]
            self.descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{path} is not a readable uncompressed tar: {error}") from error
        self._photos = {
            m.name: TarPhoto(self, m.name, m.offset_data, m.size) for m in members if _is_photo(m.name)
        }
        self._texts = {
            m.name: (m.offset_data, m.size) for m in members if m.name.lower().endswith(_CAPTION_SUFFIXES)
        }
        self._photo_by_base = {_base(name): name for name in self._photos}

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def names(self) -> list[str]:
        """Every photo in the tar."""
        return sorted(self._photos)

    def get(self, name: str) -> TarPhoto:
        """A photo, not yet read."""
        return self._photos[name]

    def has(self, name: str) -> bool:
        """Whether the tar holds this photo."""
        return name in self._photos

    def captions(self) -> Iterator[tuple[str, bytes]]:
        """The members that hold captions, one a sample: ``.txt``, ``.caption`` or ``.cap`` before ``.json``."""
        chosen: dict[str, str] = {}
        for name in self._texts:
            base = _base(name)
            if base not in chosen or chosen[base].lower().endswith(".json"):
                chosen[base] = name
        for name in chosen.values():
            offset, size = self._texts[name]
            yield name, os.pread(self.descriptor, size, offset)

    def photo_of(self, name: str) -> str | None:
        """The photo of the sample that this member belongs to."""
        return self._photo_by_base.get(_base(name))


def open_photos(path: str | Path) -> PhotoIndex:
    """A folder or a tar of photos.

    Raises:
        InputError: neither.
    """
    path = Path(path)
    if path.is_dir():
        return PhotoFolder(path)
    if path.suffix.lower() == ".tar":
        return PhotoTar(path)
    raise InputError(
        f"{path} is neither a folder nor a .tar of photos" if path.exists() else f"{path} does not exist"
    )


def is_photo_path(name: str) -> bool:
    """Whether a file name looks like a photo."""
    return name.lower().endswith(PHOTO_SUFFIXES)


def _is_photo(name: str) -> bool:
    return is_photo_path(name) and not os.path.basename(name).startswith("._")


def _base(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _keys_of(name: str) -> Iterator[tuple[str, str]]:
    """Under which keys a name can be found, the surest first."""
    file = os.path.basename(name)
    stem = os.path.splitext(file)[0] if is_photo_path(file) else file
    yield "file", file
    yield "stem", stem
    number = re.search(r"(\d+)$", stem)
    if number and (stem.isdecimal() or re.match(r"COCO_\w+_\d{12}$", stem)):
        yield "number", str(int(number.group(1)))
    yield "case", file.lower()
    yield "case stem", stem.lower()
