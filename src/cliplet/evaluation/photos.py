"""Photos by name from several folders and tars, so that benchmarks can say "COCO_val2014_000000000042.jpg"."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cliplet.data.images import ImageInput
from cliplet.data.photos import is_photo_path, open_photos
from cliplet.errors import InputError


@dataclass(frozen=True)
class BytesPhoto:
    """A photo that came inside a table."""

    name: str
    """What it is called."""
    content: bytes
    """The encoded photo."""

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        return self.content

    def __str__(self) -> str:
        return self.name


class PhotoStore:
    """Finds photos in any of several folders and tars, the first that has the name wins."""

    def __init__(
        self, sources: Iterable[str | Path] = (), extra: Mapping[str, ImageInput] | None = None
    ) -> None:
        self.indices = [open_photos(s) for s in sources]
        self.extra = dict(extra or {})

    def find(self, name: str) -> ImageInput | None:
        """The photo of this name, or None."""
        if name in self.extra:
            return self.extra[name]
        for index in self.indices:
            for spelling in dict.fromkeys((name, PurePosixPath(name).name)):
                try:
                    return index.find(spelling)[1]
                except InputError as error:
                    if "several photos" in str(error):
                        raise
        return Path(name) if not self.indices and is_photo_path(name) and Path(name).is_file() else None

    def find_all(self, names: Sequence[str]) -> list[ImageInput | None]:
        """The photos of these names, None for those that are nowhere."""
        found = {name: self.find(name) for name in dict.fromkeys(names)}
        return [found[name] for name in names]


def image_key(name: str) -> str:
    """What identifies an image in any file: its file name without folder and ending in lower case, and for COCO its
    number (``COCO_val2014_000000000042.jpg``, ``000000000042.jpg`` and ``42`` are the same image).
    """
    path = PurePosixPath(str(name).replace("\\", "/").lower())
    stem = path.stem if is_photo_path(path.name) else path.name
    coco = re.fullmatch(r"(?:coco_\w*?_)?0*(\d+)", stem)
    return coco.group(1) if coco else stem
