"""Captions in one JSON document: a map, a list, COCO's annotations, Karpathy's splits, a list inside a wrapper."""

import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cliplet.data.dialogues import unfolded
from cliplet.data.names import is_photo_path
from cliplet.data.records import CAPTION_FIELDS, IMAGE_FIELDS, CaptionEntry, Records, entry, texts_of
from cliplet.data.tables import Row, is_json_lines, json_error, json_lines, object_row
from cliplet.data.text import read_text, shown
from cliplet.errors import InputError


def read_json_captions(path: Path, records: Records) -> Iterator[CaptionEntry]:
    """The captions of a JSON file, by content: one object a line, or one document."""
    by_line = is_json_lines(path)
    if by_line is None and path.suffix.lower() != ".json":
        by_line = bool(records.layout(unfolded(next(json_lines(path)))[0]).images)
    if by_line:
        for row in json_lines(path):
            yield from records(row)
        return
    text = read_text(path)
    try:
        top = list(_top_level(text))
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else json_error(error)
        raise InputError(f"{path} is not valid JSON: {why}") from None
    table = {key: value for key, value, _ in top if key is not None}
    found = None if not table else _inside(path, table, records)
    if found is not None:
        yield from found
        return
    for key, value, where in top:
        inner = value if isinstance(value, list) and value else [value]
        if key is None:
            yield from records(object_row(value, where))
        elif not is_photo_path(key) and all(_is_record(item, records) for item in inner):
            yield from (found for item in inner for found in records(object_row(item, where)))
        else:
            yield from _of_image(key, value, where)


def _of_image(key: str, value: Any, where: str) -> Iterator[CaptionEntry]:
    """The captions of one image in a map: a string, a list of them, or records that hold them."""
    try:
        texts = [value] if isinstance(value, str) else texts_of(value)
    except ValueError as error:
        yield CaptionEntry(key, None, where, str(error))
        return
    for text in texts or [None]:  # an image without captions must not disappear
        yield entry(key, text, where)


def _inside(path: Path, table: dict[str, Any], records: Records) -> Iterator[CaptionEntry] | None:
    """The entries of an object that holds records; None when it is a map of images to captions."""
    if isinstance(table.get("annotations"), list):
        return _coco_annotations(table, records)
    if "annotations" in table and "images" in table:
        raise InputError(f"{path}: annotations, COCO's list of captions, is {shown(table['annotations'])}")
    names = {name.lower(): value for name, value in table.items()}
    image, caption = (
        next((names[n] for n in fields if n in names), None) for fields in (IMAGE_FIELDS, CAPTION_FIELDS)
    )
    if isinstance(image, (str, int)) and isinstance(caption, (str, list)):
        return records(object_row(table, "line 1"))  # one record
    by_column = isinstance(image, (list, Mapping)) and type(image) is type(caption)
    if by_column or {"columns", "index", "data"} <= set(names):
        raise InputError(
            f"{path} holds columns, as pandas' DataFrame.to_json() writes them; write it with orient='records'"
        )
    lists = [name for name, v in table.items() if isinstance(v, list) and v and _is_record(v[0], records)]
    if len(lists) == 1 and not is_photo_path(lists[0]):
        what = "image" if lists == ["images"] else f"{lists[0]} entry"
        rows = (object_row(value, f"{what} {number}") for number, value in enumerate(table[lists[0]], 1))
        return (found for row in rows for found in records(row))
    return None


def _is_record(value: Any, records: Records) -> bool:
    """Whether this is a record with an image of its own (an ``id`` alone may be the caption's)."""
    layout = records.layout(unfolded(Row(value, ""))[0]) if isinstance(value, Mapping) else None
    return layout is not None and layout.lacks() is None and layout.images[0] != "id"


def _coco_annotations(table: dict[str, Any], records: Records) -> Iterator[CaptionEntry]:
    """COCO's annotations; images go by their file names where the file lists them."""
    listed = table.get("images")
    names = {
        image["id"]: image["file_name"]
        for image in (listed if isinstance(listed, list) else ())
        if isinstance(image, Mapping) and isinstance(image.get("id"), Hashable) and image.get("file_name")
    }
    for number, value in enumerate(table["annotations"], 1):
        row = object_row(value, f"annotation {number}")
        if "image_id" not in row:
            row.pop("id", None)  # the annotation's own
        elif isinstance(row["image_id"], Hashable):
            row["image_id"] = names.get(row["image_id"], row["image_id"])
        yield from records(row)


def _top_level(text: str) -> Iterator[tuple[str | None, Any, str]]:
    """The items of the outermost list or object with their places; an object's repeated keys all appear."""
    decoder = json.JSONDecoder()
    line, line_start, counted = 1, 0, 0

    def place(at: int) -> str:
        nonlocal line, line_start, counted
        line += text.count("\n", counted, at)
        line_start = text.rfind("\n", 0, at) + 1 if "\n" in text[counted:at] else line_start
        counted = at
        return f"line {line} column {at - line_start + 1}"

    def skip(at: int, expected: str) -> int:
        at = _skip_space(text, at)
        if at >= len(text) or text[at] not in expected:
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
        yield key, value, place(start)
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
