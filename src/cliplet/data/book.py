"""Which captions belong to which image, found by any spelling of the image's name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cliplet.data.captions import CaptionEntry, read_captions
from cliplet.data.images import ImageInput
from cliplet.data.names import NameIndex
from cliplet.errors import InputError


@dataclass
class CaptionBook:
    """Captions of images, found by any spelling of the image's name."""

    images: dict[str, list[str]] = field(default_factory=dict)
    """Image name, as the file has it, to its captions in file order."""
    ids: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Number of a caption in a token file (``image.jpg#2``) to its image and its words."""
    photos: dict[str, ImageInput] = field(default_factory=dict)
    """Photos that came with their captions, by image name."""
    failures: list[str] = field(default_factory=list)
    """Rows that could not be used, each with its place and its reason."""

    @cached_property
    def _index(self) -> NameIndex:
        return NameIndex(self.images, "captioned images")

    def name(self, image: str) -> str | None:
        """The book's name for an image; None where it has none, or several that could be meant."""
        try:
            return self._index.find(image)
        except InputError:
            return None

    def of(self, image: str) -> list[str]:
        """The captions of an image; none if it is not in the book."""
        name = self.name(image)
        return [] if name is None else self.images[name]

    def only(self, names: Iterable[str]) -> "CaptionBook":
        """The captions of these images, in the order of ``names``; unknown names are left out."""
        found = dict.fromkeys(name for name in map(self.name, names) if name is not None)
        photos = {name: self.photos[name] for name in found if name in self.photos}
        return CaptionBook({name: self.images[name] for name in found}, {}, photos, self.failures)


def read_book(paths: Iterable[str | Path], split: str | None = None) -> CaptionBook:
    """Captions from one or more files; rows that cannot be used are listed in ``failures``.

    Args:
        paths: what :func:`cliplet.data.captions.read_captions` reads.
        split: keep what a field ``split`` says to be of this one, as Karpathy's JSON has it; default all.

    Raises:
        InputError: a file that cannot be read, or none of its captions is of the split.
    """
    book = CaptionBook()
    for path in map(Path, paths):
        entries = read_captions(path)
        if split is not None:
            entries = _of_split(path, entries, split)
        for found in entries:
            if found.problem is not None:
                book.failures.append(f"{path}, {found.where}: {found.problem}")
                continue
            name = str(found.image)
            if found.photo is not None and book.photos.setdefault(name, found.photo) != found.photo:
                name = f"{path}/{name}"  # another shard has a photo of that name
                book.photos[name] = found.photo
            text = found.caption.strip()
            book.images.setdefault(name, []).append(text)
            if found.id is not None:
                book.ids.setdefault(found.id, (name, text))
    return book


def _of_split(path: Path, entries: list[CaptionEntry], split: str) -> list[CaptionEntry]:
    kept = [e for e in entries if e.extra.get("split") == split or (e.reason and "split" not in e.extra)]
    if all(entry.reason for entry in kept):
        splits = ", ".join(sorted({str(entry.extra["split"]) for entry in entries if "split" in entry.extra}))
        raise InputError(f"{path}: no image of split {split!r}; it has {splits or 'none'}")
    return kept
