"""Text: ONE rule for encodings, what cannot be scored as a caption, and what a tokeniser must not see.

A text file is UTF-8 with or without a byte-order mark, or UTF-16 with one. Bytes that do not fit stay in the text as
lone surrogates: they are never replaced, so that what holds them can be refused on its own (:func:`caption_problem`).
"""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from unicodedata import category

from cliplet.errors import InputError

NOT_UTF8 = "the caption is not valid UTF-8"
_KEEP = "cliplet.keep"
_UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")


def _kept(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_KEEP, _kept)


def decode(data: bytes) -> str:
    """The text of these bytes, without a byte-order mark; broken bytes as lone surrogates."""
    return data.decode(_encoding(data[:2]), _KEEP)


def _encoding(head: bytes) -> str:
    return "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextmanager
def open_text(path: str | Path, newline: str = "\n") -> Iterator[TextIO]:
    """A text file, to be read line by line; ``newline`` as :func:`open` takes it.

    Raises:
        InputError: it cannot be read, or is UTF-16 without a byte-order mark.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.peek(200)[:200]
            encoding = _encoding(head)
            if encoding != "utf-16" and head.count(0) > len(head) // 4:
                raise InputError(f"{path} is not text, or UTF-16 without a byte-order mark: save it as UTF-8")
            with io.TextIOWrapper(stream, encoding, _KEEP, newline) as text:
                yield text
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def read_text(path: str | Path) -> str:
    """The whole text of a file; raises InputError as :func:`open_text`, and when it is empty."""
    with open_text(path) as stream:
        text = stream.read()
    if not text.strip():
        raise InputError(f"{path} is empty")
    return text


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1, without their ends."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def read_names(path: str | Path, what: str) -> list[str]:
    """The lines of a short list (image names, class names, templates), stripped.

    Raises:
        InputError: it cannot be read, holds nothing, or a line is not valid UTF-8.
    """
    names = []
    for number, line in text_lines(path):
        if not is_utf8(line):
            raise InputError(f"{path}, line {number}: not valid UTF-8; save the file as UTF-8")
        names.append(line.strip())
    if not names:
        raise InputError(f"{path} holds no {what}")
    return names


def caption_problem(caption: object) -> str | None:
    """Why this cannot be scored as a caption, or None."""
    if not isinstance(caption, str):
        hint = ": decode it first (.decode())" if isinstance(caption, (bytes, bytearray)) else ""
        return f"the caption is not a string but {shown(caption)}{hint}"
    if not any(c.isprintable() or category(c) not in _UNSEEN for c in caption.strip()):
        return "the caption is empty"
    return None if is_utf8(caption) else NOT_UTF8


def content_problem(caption: str) -> str | None:
    """Why a caption says nothing about a photo, or None.

    A word is a run of letters (and marks, digits, apostrophes or hyphens within) of any script. A caption says nothing
    without a word; when all its words are English stop words; when it is one word said twice or more; and when its
    words besides stop words are one word, said three times or more.
    """
    words = [word.lower() for word in _WORD.findall(caption)]
    if not words:
        return "it has no words"
    content = [word for word in words if word not in _STOP_WORDS]
    if not content:
        return "it has only stop words"
    if len(set(content)) == 1 and (len(content) > 2 or len(content) == len(words) > 1):
        return f"it says one word over and over ({content[0]})"
    return None


_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_STOP = """
a an the this that these those some any each every no not all both either neither other another such same
i me my mine you your yours he him his she her hers it its we us our ours they them their theirs who whom whose
which what where when why how there here and or but nor so yet if then than because while although though as
at by for from in into of off on onto out over to up with within without under upon through about above across
after before behind below beside between down during near is are was were be been being am has have had having
do does did doing done can could will would shall should may might must s t very just also only too one
photo picture image shown seen
"""
_STOP_WORDS = frozenset(_STOP.split())


def is_utf8(text: str) -> bool:
    """Whether the text is without the lone surrogates that stand for broken bytes."""
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def scrub(text: str) -> str:
    """The text with unpaired surrogates (broken UTF-8) replaced, so that a tokeniser can take it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def shown(value: object, most: int = 40) -> str:
    """A value for a message, cut to ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
