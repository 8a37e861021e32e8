"""Records: which fields of a row are the image, the caption and the references, and the entries that come of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cliplet.data.dialogues import unfolded
from cliplet.data.images import ImageInput
from cliplet.data.names import ImageKey
from cliplet.data.parquet import TablePhoto
from cliplet.data.tables import Row, as_list, cell_list, find_column
from cliplet.data.text import NOT_UTF8, caption_problem, decode, is_utf8, shown

IMAGE_FIELDS = (
    "image", "image_id", "filename", "file_name", "file", "path", "image_path", "img", "imgid", "image_file",
    "img_path", "image_name", "img_name", "filepath", "id",
)  # fmt: skip
"""Field names taken for the image, in this order."""
CAPTION_FIELDS = (
    "candidate", "cand", "mt", "hyp", "hypothesis", "prediction", "pred", "predicted_caption", "generated_caption",
    "caption", "captions", "text", "sentence", "comment", "title", "sentences", "raw", "answer", "answers", "response",
)  # fmt: skip
"""Field names taken for the caption, in this order."""
REFERENCE_FIELDS = ("references", "refs", "ref", "reference", "ground_truth")
"""Field names taken for reference captions, in this order."""
PREDICTION_FIELDS = CAPTION_FIELDS[:9]
"""Those of them that say a model wrote it."""
ANSWER_FIELDS = ("answer", "answers")
"""Field names taken for reference captions beside a prediction, as VLM evaluations write them."""
TEXT_FIELDS = (*CAPTION_FIELDS, *REFERENCE_FIELDS)
"""Field names taken for captions of any kind."""
WEB_FIELDS = ("url", "image_url", "img_url", "coco_url", "flickr_url")
"""Field names of web addresses, which are never fetched."""
NOTHING: Mapping[str, Any] = {}
_PLAIN = (str, int, float, type(None))


@dataclass(frozen=True)
class Columns:
    """How a table is laid out, where its header does not say so by the usual names."""

    image: str | None = None
    """Field of the image."""
    caption: str | None = None
    """Field of the caption."""
    separator: str | None = None
    """What parts the cells of a CSV."""


class CaptionEntry(NamedTuple):
    """One caption of one image."""

    image: ImageKey
    """The image's name or number; empty where there is none."""
    caption: Any
    """The caption as it stands in the file; a string unless the file is wrong there, None where it cannot be read."""
    where: str
    """Its place, such as ``line 7``."""
    reason: str | None = None
    """Why the row cannot be used, where the file is to blame."""
    photo: ImageInput | None = None
    """The photo, where it came with the caption (a shard, a folder, Parquet with photos inside)."""
    references: tuple[Any, ...] | None = None
    """The row's own reference captions; None where the file has none."""
    id: str | None = None
    """The caption's number in a token file, ``image.jpg#2``."""
    extra: Mapping[str, Any] = NOTHING
    """The row's other fields, numbers and strings alone."""
    source: Path | None = None
    """The file that it was read from, where several are read."""

    @property
    def problem(self) -> str | None:
        """Why this cannot be used as a caption, or None."""
        return self.reason or caption_problem(self.caption)


def entry(image: ImageKey, caption: Any, where: str, *more: Any) -> CaptionEntry:
    """An entry; a caption that is not valid UTF-8 is kept out, so that nothing takes it for another text.

    ``more``: the fields after ``reason``.
    """
    if image == "":
        return CaptionEntry(image, None, where, "it names no image", *more)
    if isinstance(caption, str) and not is_utf8(caption):
        return CaptionEntry(image, None, where, NOT_UTF8, *more)
    return CaptionEntry(image, caption, where, None, *more)


class Layout(NamedTuple):
    """What the fields of a row are for."""

    fields: tuple[str, ...]
    """All of them."""
    images: tuple[str, ...]
    """Those that may name the image, the first one counts."""
    caption: str | None
    """That of the caption."""
    references: str | None
    """That of the row's own references."""
    others: tuple[str, ...]
    """The rest."""

    def lacks(self, image: bool = True) -> str | None:
        """What is missing of a caption and, if it must be there, an image; None for nothing."""
        if self.caption is not None and (self.images or not image):
            return None
        web = find_column(self.fields, WEB_FIELDS) if image and not self.images else None
        more = (
            f"; web addresses ({web}) are not fetched: download the photos and name their files"
            if web
            else ""
        )
        missing = ["no image"] * (image and not self.images) + ["no caption"] * (self.caption is None)
        return f"{' and '.join(missing)}: found the fields {', '.join(self.fields) or '(none)'}{more}"


class Records:
    """Turns rows of one file into entries."""

    def __init__(self, columns: Columns | None = None, as_references: bool = False) -> None:
        """Rows with these columns; ``as_references``: reference captions are wanted rather than captions."""
        self.columns = columns or Columns()
        self.as_references = as_references
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._photos: dict[str, tuple[ImageKey, TablePhoto]] = {}  # inside the table, by their bytes
        self._taken: set[ImageKey] = set()

    def __call__(self, row: Row, beside: ImageKey | None = None) -> Iterator[CaptionEntry]:
        """The entries of a row, at least one; ``beside``: the image's name where the row need not say it."""
        row, unclear = unfolded(row)
        layout = self.layout(row)
        image, photo = self.image(row) if beside is None else (beside, None)
        reason = row.problem or unclear or layout.lacks(beside is None)
        if reason is None and image == "":
            reason = f"the image is not a name or a number but {shown(row[layout.images[0]])}"
        own, texts = None, []
        if reason is None and layout.caption is not None:
            try:
                texts = texts_of(row[layout.caption], split=layout.caption.lower() in REFERENCE_FIELDS)
                if layout.references is not None:
                    own = tuple(texts_of(row[layout.references], split=True))
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            yield CaptionEntry(image, None, row.where, reason)
            return
        extra = {n: v for n in layout.others if isinstance(v := row[n], _PLAIN)} if layout.others else NOTHING
        for text in texts or [None]:  # an image without captions must not disappear
            yield entry(image, text, row.where, photo, own, None, extra)

    def layout(self, row: Row) -> Layout:
        """What a row's fields are for."""
        fields = tuple(row)
        if fields not in self._layouts:
            named = self.columns
            first = (*REFERENCE_FIELDS, *ANSWER_FIELDS, "caption", "captions") if self.as_references else ()
            wanted = (*first, *TEXT_FIELDS)
            caption = find_column(fields, [named.caption.lower()] if named.caption else wanted)
            predicted = caption is not None and caption.lower() in PREDICTION_FIELDS
            own = (*REFERENCE_FIELDS, *(ANSWER_FIELDS if predicted else ()))
            references = None if self.as_references else find_column(fields, own)
            references = None if references == caption else references
            names = [named.image.lower()] if named.image else IMAGE_FIELDS
            images = [f for name in names if (f := find_column(fields, [name])) is not None and f != caption]
            others = tuple(name for name in fields if name not in (*images[:1], caption, references))
            self._layouts[fields] = Layout(fields, tuple(images), caption, references, others)
        return self._layouts[fields]

    def image(self, row: Row) -> tuple[ImageKey, ImageInput | None]:
        """The row's image by name, empty for none, and its photo where it stands in the row."""
        fields = self.layout(row).images
        photo = row.get(fields[0]) if fields else None
        if not isinstance(photo, TablePhoto):
            key = _key(photo)
            return "" if key is None else key, None
        if photo.digest not in self._photos:
            given = (_key(row[name]) for name in fields[1:] if name in row)
            name = photo.path or next((key for key in given if key is not None), photo.where)
            self._photos[photo.digest] = (f"{name} ({photo.where})" if name in self._taken else name), photo
            self._taken.add(name)
        return self._photos[photo.digest]


def _key(value: Any) -> ImageKey | None:
    """A cell as an image's name: a string, a whole number, or the path in ``{bytes, path}``."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, Mapping):
        return _key(value.get("path"))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def texts_of(value: Any, split: bool = False) -> list[Any]:
    """The captions that a cell holds: one, a list of them, records that hold them, or a list written as text.

    ``split``: a string may hold several parted by ``|`` too. Raises ValueError where a list cannot be read.
    """
    if isinstance(value, str) and not split and "[" not in value:
        return [value]
    if value is None:
        return []
    if isinstance(value, TablePhoto):
        value = decode(value.read_bytes())
    if isinstance(value, Mapping):
        value = _inner(value, TEXT_FIELDS)
    if isinstance(value, str):
        found = as_list(value) if split else cell_list(value)
        return [value] if found is None or (split and not found) else found
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return [
            _inner(item, ("raw", *CAPTION_FIELDS)) if isinstance(item, Mapping) else item for item in value
        ]
    return [value]


def _inner(record: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), record)
