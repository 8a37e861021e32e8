"""Captions in: one reader for every common file layout.

JSON ``{image: caption}`` or ``{image: [captions]}``, COCO results and annotations, Karpathy splits, JSON lists of
records, JSONL, CSV and TSV, the Flickr8k token file, Parquet (extra) and WebDataset tars. A file that is broken as
a whole raises an error with its place; a broken caption stays in its row, for the scorer to report.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cliplet.data.photos import PhotoTar
from cliplet.errors import InputError, MissingExtraError

ImageKey: TypeAlias = str | int
"""How a captions file names an image: a file name, or a COCO-style number."""

IMAGE_FIELDS = ("image", "image_id", "filename", "file_name", "file", "path", "image_path", "img", "id")
"""Field names taken for the image, in this order."""
CAPTION_FIELDS = ("caption", "captions", "candidate", "text", "references", "refs", "sentences", "raw")
"""Field names taken for the caption, in this order."""


@dataclass(frozen=True, slots=True)
class CaptionEntry:
    """One caption of one image."""

    image: ImageKey
    """The image's name or number."""
    caption: Any
    """The caption as it stands in the file; a string unless the file is wrong there."""
    where: str
    """Its place, such as ``line 7``."""


def read_captions(path: str | Path) -> list[CaptionEntry]:
    """Read every caption of a file, in order.

    Args:
        path: the file; its suffix decides the format (.json, .jsonl, .csv, .tsv, .txt, .parquet, .tar).

    Raises:
        InputError: missing, empty, of unknown format, broken syntax or wrong shape, with line and column.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: captions are read from {', '.join(_READERS)} files, not {path.suffix or 'this'}"
        )
    try:
        entries = list(reader(path))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not entries:
        raise InputError(f"{path} holds no captions")
    return entries


def read_references(path: str | Path) -> dict[ImageKey, list[Any]]:
    """Read a file of reference captions: all captions of each image, by :func:`image_name`.

    Raises:
        InputError: as :func:`read_captions`.
    """
    references: dict[ImageKey, list[Any]] = {}
    for entry in read_captions(path):
        references.setdefault(image_name(entry.image), []).append(entry.caption)
    return references


def image_name(key: ImageKey) -> str:
    """The name under which captions and references of one image meet: numbers without leading zeros."""
    text = str(key)
    return text.lstrip("0") or "0" if text.isdecimal() else text


def _text(path: Path) -> str:
    data = path.read_bytes()
    if not data.strip():
        raise InputError(f"{path} is empty")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    # bytes that are not UTF-8 stay as lone surrogates, so that only their own row fails
    return data.decode("utf-8-sig", "surrogateescape")


def _place(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    return f"line {line} column {offset - text.rfind(chr(10), 0, offset)}"


def _read_json(path: Path) -> Iterator[CaptionEntry]:
    text = _text(path)
    try:
        top = [(key, value, text_offset) for key, value, text_offset in _top_level(text)]
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: {error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}"
        ) from None
    names = {key for key, _, _ in top if key is not None}
    if names:
        table = {key: value for key, value, _ in top if key is not None}
        if isinstance(table.get("annotations"), list):
            yield from _coco_annotations(path, table)
            return
        if isinstance(table.get("images"), list) and all(isinstance(v, Mapping) for v in table["images"]):
            yield from _karpathy(path, table["images"])
            return
    for key, value, offset in top:
        where = _place(text, offset)
        if key is not None:
            yield from _entries_of(key, value, where)
        elif isinstance(value, Mapping):
            yield from _record(path, value, where)
        else:
            raise InputError(
                f"{path} has the wrong shape at {where}: expected an object with an image and a caption, found "
                f"{type(value).__name__}. Use {{image: caption}} or a list of {{image_id, caption}}"
            )


def _top_level(text: str) -> Iterator[tuple[str | None, Any, int]]:
    """The items of the outermost list or object with their offsets; an object's repeated keys all appear."""
    decoder = json.JSONDecoder()

    def skip(at: int, expected: str) -> int:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at >= len(text) or (expected and text[at] not in expected):
            raise json.JSONDecodeError(f"Expected one of {' '.join(expected)}", text, min(at, len(text)))
        return at

    at = skip(0, "[{")
    close, is_object = ("}", True) if text[at] == "{" else ("]", False)
    at = _skip_space(text, at + 1)
    while at >= len(text) or text[at] != close:
        key, start = None, at
        if is_object:
            start = skip(at, '"')
            key, at = decoder.raw_decode(text, start)
            at = _skip_space(text, skip(at, ":") + 1)
        value, at = decoder.raw_decode(text, at)
        yield key, value, start
        at = skip(at, "," + close)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
            if at < len(text) and text[at] == close:
                raise json.JSONDecodeError("Trailing comma", text, at)
    if _skip_space(text, at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, _skip_space(text, at + 1))


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _entries_of(image: ImageKey, value: Any, where: str) -> Iterator[CaptionEntry]:
    """The captions of one image: a string, a list of them, or records that hold them."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in CAPTION_FIELDS if name in value), value)
    if isinstance(value, list):
        if not value:  # an image without captions must not disappear
            yield CaptionEntry(image, None, where)
        for item in value:
            if isinstance(item, Mapping):
                item = next((item[name] for name in ("raw", *CAPTION_FIELDS) if name in item), item)
            yield CaptionEntry(image, item, where)
    else:
        yield CaptionEntry(image, value, where)


def _record(path: Path, record: Mapping[str, Any], where: str) -> Iterator[CaptionEntry]:
    image_field = next((name for name in IMAGE_FIELDS if name in record), None)
    caption_field = next((name for name in CAPTION_FIELDS if name in record), None)
    if image_field is None or caption_field is None:
        missing, choice = ("image", IMAGE_FIELDS) if image_field is None else ("caption", CAPTION_FIELDS)
        raise InputError(
            f"{path} has no {missing} at {where}: found the fields {', '.join(map(str, record)) or '(none)'}; "
            f"name one of them {' or '.join(choice[:3])}"
        )
    image = record[image_field]
    if not isinstance(image, (str, int)) or isinstance(image, bool):
        image = json.dumps(image)
    yield from _entries_of(image, record[caption_field], where)


def _coco_annotations(path: Path, table: Mapping[str, Any]) -> Iterator[CaptionEntry]:
    names = {
        image["id"]: image["file_name"]
        for image in table.get("images", ())
        if isinstance(image, Mapping) and "id" in image and "file_name" in image
    }
    for number, record in enumerate(table["annotations"], 1):
        where = f"annotation {number}"
        if not isinstance(record, Mapping):
            raise InputError(f"{path} has the wrong shape at {where}: expected an object")
        for entry in _record(path, record, where):
            yield CaptionEntry(names.get(entry.image, entry.image), entry.caption, where)


def _karpathy(path: Path, images: list[Mapping[str, Any]]) -> Iterator[CaptionEntry]:
    for number, image in enumerate(images, 1):
        yield from _record(path, image, f"image {number}")


def _read_jsonl(path: Path) -> Iterator[CaptionEntry]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path} is not valid JSON at line {number} column {error.colno}: {error.msg}"
            ) from None
        if not isinstance(record, Mapping):
            raise InputError(f"{path} has the wrong shape at line {number} column 1: expected an object")
        yield from _record(path, record, f"line {number}")


def _read_table(path: Path) -> Iterator[CaptionEntry]:
    text = _text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(reader)]
        for row in reader:
            if row:
                record = dict(zip(header, row, strict=False))
                yield from _record(path, record, f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{path} is not a valid table at line {reader.line_num}: {error}") from None


def _read_tokens(path: Path) -> Iterator[CaptionEntry]:
    """The Flickr8k token file: ``image#number<TAB>caption``."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        image, tab, caption = line.rstrip("\r").partition("\t")
        if not tab:
            raise InputError(f"{path} line {number} column 1: expected image#number<TAB>caption")
        yield CaptionEntry(image.rpartition("#")[0] or image, caption, f"line {number}")


def _read_parquet(path: Path) -> Iterator[CaptionEntry]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(f"reading {path}", "parquet") from None
    try:
        file = parquet.ParquetFile(path)
        names = set(file.schema_arrow.names)
        wanted = [next((n for n in fields if n in names), None) for fields in (IMAGE_FIELDS, CAPTION_FIELDS)]
        columns = [name for name in wanted if name] if all(wanted) else None
        row = 0
        for batch in file.iter_batches(columns=columns):
            for record in batch.to_pylist():
                row += 1
                yield from _record(path, record, f"row {row}")
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a valid Parquet file: {error}") from error


def _read_tar(path: Path) -> Iterator[CaptionEntry]:
    """A WebDataset tar: photos and captions that share a base name."""
    tar = PhotoTar(path)
    for name, content in tar.captions():
        image = tar.photo_of(name)
        if image is None:
            yield CaptionEntry(name, _webdataset_caption(path, name, content), f"member {name}")
            continue
        for caption in _webdataset_captions(path, name, content):
            yield CaptionEntry(image, caption, f"member {name}")


def _webdataset_caption(path: Path, name: str, content: bytes) -> Any:
    return next(iter(_webdataset_captions(path, name, content)), "")


def _webdataset_captions(path: Path, name: str, content: bytes) -> list[Any]:
    text = content.decode("utf-8", "surrogateescape")
    if not name.lower().endswith(".json"):
        return [text.rstrip("\n")]
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: member {name} is not valid JSON: {error.msg.removesuffix(' at')} "
            f"at line {error.lineno} column {error.colno}"
        ) from None
    return [entry.caption for entry in _entries_of(name, value, name)]


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".txt": _read_tokens,
    ".parquet": _read_parquet,
    ".tar": _read_tar,
}
CAPTION_SUFFIXES = tuple(_READERS)
"""File suffixes that hold captions."""
