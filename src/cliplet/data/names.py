"""ONE rule for which image a name means: for photos, captions and references alike.

A name meets another, the surest way first: as it stands; as a path of which one ends with the other; likewise without
case and photo suffix; by the base name without case and suffix; by COCO's number (42, ``42.0``, ``000000000042.jpg``,
``COCO_val2014_000000000042``). What meets two at a step is ambiguous, and two images never share what only one of
them names.
"""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from cliplet.errors import InputError

ImageKey: TypeAlias = str | int
"""How a file names an image: a file name, or a COCO-style number."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
"""File suffixes taken for photos, in any case."""

_NUMBER = re.compile(r"(?:coco_[a-z0-9]+_)?0*([0-9]+)|0*([0-9]+)\.0+", re.IGNORECASE)


def is_photo_path(name: str) -> bool:
    """Whether a file name looks like a photo."""
    return name.lower().endswith(PHOTO_SUFFIXES)


def image_name(key: ImageKey) -> str:
    """The name under which captions of one image are gathered: numbers without leading zeros, paths without ``./``."""
    text = str(key)
    number = _NUMBER.fullmatch(text) if text[:1].isdecimal() else None
    return (number[1] or number[2]) if number else _path(text) if "/" in text or "\\" in text else text


def _path(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/") if name else name


def _plain(path: str) -> str:
    """A path without case and photo suffix."""
    text = path.lower() if path.isascii() else unicodedata.normalize("NFC", path).lower()
    return text[: text.rindex(".")] if text.endswith(PHOTO_SUFFIXES) else text


def _number(path: str) -> str | None:
    base = posixpath.basename(path)
    found = _NUMBER.fullmatch(base[: base.rindex(".")] if is_photo_path(base) else base)
    if found is None or (found[2] and is_photo_path(base)):  # 42.0.jpg is a name
        return None
    return found[1] or found[2]


def _ends(a: str, b: str) -> bool:
    """Whether one path is the end of the other."""
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


def _steps(key: str, name: str) -> int:
    """How surely a key that meets a name does: 0 as it stands, up to 4 by number."""
    a, b = _path(key), _path(name)
    if key == name or _ends(a, b):
        return int(key != name)
    a, b = _plain(a), _plain(b)
    return 2 if _ends(a, b) else 3 if posixpath.basename(a) == posixpath.basename(b) else 4


def _agree(a: str, b: str) -> bool:
    """Whether two keys can name one image: their folders and suffixes do not contradict each other."""
    (folder, a), (other, b) = (posixpath.split(_path(k).lower()) for k in (a, b))
    suffixes = {n.rpartition(".")[2].replace("jpeg", "jpg") for n in (a, b) if is_photo_path(n)}
    return (not folder or not other or _ends(folder, other)) and len(suffixes) < 2


class NameKeys(NamedTuple):
    """Under what a name may be looked for in an index of names that is larger than memory."""

    stem: str
    """The base name without case and suffix."""
    tail: str
    """That behind its folder's name, or behind an empty one."""
    number: str | None
    """COCO's number."""


def name_keys(key: ImageKey) -> NameKeys:
    """The keys of a name: two that :class:`NameIndex` brings together are equal, or share their stem or number."""
    path = _path(str(key))
    folder, _, stem = _plain(path).rpartition("/")
    return NameKeys(stem, f"{posixpath.basename(folder)}/{stem}", _number(path))


class NameIndex:
    """Names of images, to be found by any spelling."""

    def __init__(self, names: Iterable[str], what: str) -> None:
        """Index the names; ``what`` says in messages what they are ("photos in photos/")."""
        self.what = what
        self.names = dict.fromkeys(names)
        self._by_stem: dict[str, list[str]] = {}
        self._by_tail: dict[str, list[str]] = {}  # by folder/stem: many files of one name are told apart
        self._by_number: dict[str, list[str]] = {}
        for name in self.names:
            path = _path(name)
            folder, _, stem = _plain(path).rpartition("/")
            self._by_stem.setdefault(stem, []).append(name)
            self._by_tail.setdefault(f"{posixpath.basename(folder)}/{stem}", []).append(name)
            if (number := _number(path)) is not None:
                self._by_number.setdefault(number, []).append(name)

    def find(self, key: ImageKey) -> str | None:
        """The name that ``key`` means, None for none; raises InputError where it may mean several."""
        text = str(key)
        if text in self.names:
            return text
        path = _path(text)
        plain = _plain(path)
        folder, _, stem = plain.rpartition("/")
        near = self._by_stem.get(stem, [])
        if folder:
            tails = (f"{posixpath.basename(folder)}/{stem}", f"/{stem}")
            near = [name for tail in tails for name in self._by_tail.get(tail, ())]
        found = [name for name in near if _ends(path, _path(name))]
        found = found or [name for name in near if _ends(plain, _plain(_path(name)))]
        found = found or self._by_stem.get(stem) or self._by_number.get(_number(path) or "", [])
        if len(found) > 1:
            several = ", ".join(found[:4])
            raise InputError(f"several {self.what} could be {text!r}: {several}; use the exact name")
        return found[0] if found else None

    def find_all(self, keys: Iterable[ImageKey]) -> dict[ImageKey, str | InputError | None]:
        """What each key means: a name, None for none, or the reason why that cannot be said."""
        return find_each(self.find, keys)


def find_each(
    find: Callable[[ImageKey], str | None], keys: Iterable[ImageKey]
) -> dict[ImageKey, str | InputError | None]:
    """What each key means by ``find``; a key that only leans on what another key names better is refused."""
    found: dict[ImageKey, str | InputError | None] = {}
    keys_of: dict[str, list[ImageKey]] = {}
    for key in dict.fromkeys(keys):
        try:
            name = found[key] = find(key)
        except InputError as error:
            found[key] = error
        else:
            if name is not None:
                keys_of.setdefault(name, []).append(key)
    for name, several in keys_of.items():
        if len(several) > 1:
            steps = {key: _steps(str(key), name) for key in several}
            surest = min(several, key=lambda key: steps[key])
            rivals = [key for key in several if not _agree(str(key), str(surest))]
            if any(steps[key] == steps[surest] for key in rivals):
                found[surest] = _shared(surest, rivals[0], name)
            found |= {key: _shared(key, surest, name) for key in rivals}
    return found


def _shared(key: ImageKey, other: ImageKey, name: str) -> InputError:
    return InputError(
        f"{name} is all that could be {str(key)!r}, and {str(other)!r} means it too; use exact names"
    )
