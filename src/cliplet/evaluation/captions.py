"""Which captions belong to which image, found by any spelling of the image's name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliplet.data.captions import read_captions as read_entries
from cliplet.errors import InputError
from cliplet.evaluation.photos import image_key
from cliplet.evaluation.tables import read_json, read_text


@dataclass(frozen=True)
class Caption:
    """One caption and its number in its file (``image.jpg#2``, or a running number)."""

    id: str
    """Identifies the caption."""
    text: str
    """The words."""


@dataclass
class CaptionBook:
    """Captions of images, found by any spelling of the image's name."""

    images: dict[str, list[Caption]] = field(default_factory=dict)
    """Image name, as the file has it, to its captions in file order."""
    _by_key: dict[str, str] = field(default_factory=dict)
    _by_id: dict[str, Caption] = field(default_factory=dict)

    def add(self, image: str, caption: Caption) -> None:
        """Add one caption of an image."""
        self.images.setdefault(image, []).append(caption)
        self._by_key.setdefault(image_key(image), image)
        self._by_id.setdefault(caption.id, caption)

    def of(self, image: str) -> list[Caption]:
        """The captions of an image; none if it is not in the book."""
        name = self._by_key.get(image_key(image))
        return self.images[name] if name is not None else []

    def by_id(self, caption_id: str) -> Caption | None:
        """A caption by its number."""
        return self._by_id.get(caption_id)

    def only(self, names: Iterable[str]) -> "CaptionBook":
        """The captions of these images, in the order of ``names``; unknown names are left out."""
        kept = CaptionBook()
        for name in names:
            for caption in self.of(name):
                kept.add(self._by_key[image_key(name)], caption)
        return kept


def read_captions(paths: Iterable[str | Path], split: str | None = None) -> CaptionBook:
    """Captions from one or more files.

    Args:
        paths: Flickr8k token files (``image.jpg#0<TAB>caption``, whatever their suffix), Karpathy JSON, COCO JSON,
            JSON ``{image: captions}``, CSV, JSONL, Parquet or WebDataset tars.
        split: the one split to keep of a Karpathy JSON; default all.

    Raises:
        InputError: a file that cannot be read, with line and column where there is one.
    """
    book = CaptionBook()
    for path in map(Path, paths):
        if path.suffix.lower() in (".txt", ".token", ""):
            _read_token_file(path, book)
            continue
        content = read_json(path) if path.suffix.lower() == ".json" and split is not None else None
        if isinstance(content, Mapping) and isinstance(content.get("images"), list):
            _read_karpathy_split(path, content["images"], book, str(split))
            continue
        for number, entry in enumerate(read_entries(path)):
            if not isinstance(entry.caption, str):
                raise InputError(f"{path}: the caption at {entry.where} is not a string")
            book.add(str(entry.image), Caption(f"{entry.image}#{number}", entry.caption.strip()))
    return book


def _read_token_file(path: Path, book: CaptionBook) -> None:
    """Flickr8k.token.txt and results_20130124.token: ``image.jpg#0<TAB>caption``."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        caption_id, tab, text = line.rstrip("\r").partition("\t")
        image, mark, _ = caption_id.partition("#")
        if not tab or not mark:
            raise InputError(f"{path}, line {number}: expected image#number<TAB>caption")
        book.add(image, Caption(caption_id, text.strip()))


def _read_karpathy_split(path: Path, images: list[dict[str, Any]], book: CaptionBook, split: str) -> None:
    for number, image in enumerate(images):
        if image.get("split") != split:
            continue
        try:
            for i, sentence in enumerate(image["sentences"]):
                book.add(image["filename"], Caption(f"{image['filename']}#{i}", sentence["raw"].strip()))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: image {number} is not in Karpathy's format (lacks {error})") from None
    if not book.images:
        splits = ", ".join(sorted({str(i.get("split")) for i in images}))
        raise InputError(f"{path}: no image of split {split!r}; it has {splits or 'none'}")
