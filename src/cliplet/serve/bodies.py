"""Bodies, read strictly: what is cut short, double, unknown or no UTF-8 is refused, never guessed."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from cliplet.serve.refusal import Refusal

JSON = "application/json"
MULTIPART = "multipart/form-data"
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Field:
    """One field of a form: its name, and how its parts become a value."""

    many: bool = False
    """Whether it may come several times: its value is then a list."""
    photo: bool = False
    """Whether its content is a photo's bytes; otherwise UTF-8 text."""
    number: bool = False
    """Whether its text is a whole number."""


@dataclass
class _Part:
    headers: dict[str, str]
    content: bytearray


def read_body(content_type: str, body: bytes, model: type[M], fields: dict[str, Field], most_parts: int) -> M:
    """The body as ``model``, from a form or from JSON (where photos are base64).

    Raises:
        Refusal: 415 for another content type, 400 for a body that is no such thing, 422 for one that does not fit.
    """
    kind, options = parse_options_header(content_type.encode("latin-1"))
    charset = options.get(b"charset", b"utf-8").lower()
    if kind == JSON.encode():
        if charset not in (b"utf-8", b"utf8"):
            raise Refusal(415, "charset", "JSON is read as UTF-8 alone")
        content = _with_photos(_json(body), fields)
    elif kind == MULTIPART.encode():
        content = _form(options.get(b"boundary", b""), body, fields, most_parts)
    else:
        raise Refusal(415, "content_type", f"the content type must be {MULTIPART} or {JSON}")
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        raise not_fitting(error.errors(include_url=False, include_input=False)) from None


def not_fitting(errors: Any) -> Refusal:
    """422 that names the places and what is wrong there, without what stood there."""
    fields = [
        {
            "where": ".".join(str(step)[:40] for step in error["loc"]) or "body",
            "problem": str(error["msg"])[:200],
        }
        if error["type"] != "extra_forbidden"
        else {"where": "body", "problem": "it has a field that is not known"}
        for error in errors[:20]
    ]
    where, problem = fields[0]["where"], fields[0]["problem"]
    return Refusal(422, "not_fitting", f"the request does not fit: {where}: {problem}", fields=fields)


def _with_photos(content: Any, fields: dict[str, Field]) -> Any:
    """A JSON object with the base64 text of its photos as bytes; what is no text is left to the model to refuse."""
    if not isinstance(content, dict):
        return content
    for name, value in content.items():
        if name in fields and fields[name].photo:
            if fields[name].many and isinstance(value, list):
                content[name] = [_photo(item, f"{name}.{i}") for i, item in enumerate(value)]
            else:
                content[name] = _photo(value, name)
    return content


def _photo(text: Any, where: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            422, "not_base64", f"{where} must be a photo's bytes in base64; paths and addresses are not read"
        ) from None
    if not content:
        raise Refusal(400, "empty_photo", f"{where} is empty (0 bytes)")
    return content


def _json(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise Refusal(400, "not_utf8", "the body is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json", "the body is not valid JSON") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refusal(400, "double_field", "a field of a JSON object comes twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _form(boundary: bytes, body: bytes, fields: dict[str, Field], most_parts: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: [] for name, field in fields.items() if field.many}
    for part in _parts(boundary, body, most_parts):
        name = _name(part)
        if name not in fields:
            known = ", ".join(fields)
            raise Refusal(400, "unknown_field", f"the form has a field that is not known; known are {known}")
        value = _value(part, name, fields[name])
        if fields[name].many:
            found[name].append(value)
        elif name in found:
            raise Refusal(400, "double_field", f"{name} comes twice in the form: one is meant")
        else:
            found[name] = value
    return {name: value for name, value in found.items() if value != []}


def _parts(boundary: bytes, body: bytes, most: int) -> list[_Part]:
    if not 1 <= len(boundary) <= 70:
        raise Refusal(400, "no_boundary", "the form's content type names no boundary of 1 to 70 characters")
    reader = _Reader(most)
    parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
    try:
        parser.write(body)
    except MultipartParseError:
        raise Refusal(400, "not_a_form", "the body is not a well-formed multipart form") from None
    if not reader.ended:
        raise Refusal(400, "cut_short", "the form ends before its closing boundary: it was cut short")
    return reader.parts


class _Reader:
    """Collects parts from the parser's calls."""

    def __init__(self, most: int) -> None:
        self.parts: list[_Part] = []
        self.ended, self.most = False, most
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> dict[str, Any]:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self.parts[-1].content.extend(data[start:end]),
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self.most:
            raise Refusal(422, "too_many_fields", f"the form has more than {self.most} fields")
        self.parts.append(_Part({}, bytearray()))

    def _header(self) -> None:
        name = self._name.decode("latin-1").lower()
        if name in self.parts[-1].headers:
            raise Refusal(400, "double_header", "a part of the form has a header twice")
        self.parts[-1].headers[name] = self._value.decode("latin-1")
        self._name, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        self.ended = True


def _name(part: _Part) -> str:
    kind, options = parse_options_header(part.headers.get("content-disposition", ""))
    if kind != b"form-data" or b"name" not in options:
        raise Refusal(400, "not_a_form", "a part of the form has no name")
    encoding = part.headers.get("content-transfer-encoding", "binary").strip().lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise Refusal(400, "encoding", "parts of the form must come as they are, not transfer-encoded")
    return options[b"name"].decode("latin-1")


def _value(part: _Part, name: str, field: Field) -> Any:
    if field.photo:
        if not part.content:
            raise Refusal(400, "empty_photo", f"{name} is empty (0 bytes)")
        return bytes(part.content)
    _, options = parse_options_header(part.headers.get("content-disposition", ""))
    if b"filename" in options:
        raise Refusal(400, "file_as_text", f"{name} must be a text field, not a file")
    _, content_options = parse_options_header(part.headers.get("content-type", ""))
    if content_options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise Refusal(400, "not_utf8", f"{name} must be UTF-8")
    try:
        text = part.content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "not_utf8", f"{name} is not valid UTF-8") from None
    if not field.number:
        return text
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refusal(422, "not_a_number", f"{name} must be a whole number")
    return int(text)
