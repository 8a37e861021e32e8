"""What can be said of a caption without its photo: its words, whether it is a file's name, an address or a number."""

import hashlib
import re
import unicodedata
from functools import lru_cache

from cliplet.curate.languages import language_problem
from cliplet.data.text import content_problem

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SUFFIX = (
    r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|raw|cr2|nef|mp4|mov|avi|pdf|docx?|html?|php|aspx?)"
)
_FILE = re.compile(rf"(?:\S|[ _-](?=\S)){{1,200}}?{_SUFFIX}", re.IGNORECASE)
_LONE_SUFFIX = re.compile(rf"\S+{_SUFFIX}\b", re.IGNORECASE)
_CAMERA = re.compile(
    r"(?:img|dsc[fn]?|dscn?|pict?|p|mvi|vid|gopr|dji|screen ?shot|image|photo|foto|pxl|scan|wp|cimg|sam|kodak|"
    r"untitled|unnamed|thumb(?:nail)?|picture)[ _#-]*\(?\d[\d _.:()-]*(?:at [\d.]+)?(?: ?[ap]m)?(?: ?\(?copy\)?)?",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S+|[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|edu|gov|io|info|co|de|uk|ru|fr|jp|cn)(?:/\S*)?",
    re.IGNORECASE,
)
_HEX = re.compile(r"[0-9a-f]{8,}|[0-9a-f]{4,}(?:-[0-9a-f]{3,}){2,}", re.IGNORECASE)
_WIDE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that put no spaces between words."""


def word_count(caption: str) -> int:
    """Words of a caption: runs of letters and digits; where a script has no spaces two characters count as a word."""
    words = _WORD.findall(caption)
    if caption.isascii():
        return len(words)
    dense = sum(unicodedata.name(c, "?").startswith(_WIDE) for c in caption)
    return len(words) if not dense else max(len(words), (dense + 1) // 2)


def name_problem(caption: str) -> str | None:
    """Why a caption is a name for machines (a file, an address, a number) rather than a text, or None.

    The whole caption must be such a name: "a dog, dog.jpg" is a caption.
    """
    text = caption.strip().strip("\"'()[]<>.,;")
    words = _WORD.findall(text)
    if _ADDRESS.fullmatch(text):
        return "it is an address"
    if _FILE.fullmatch(text) and (" " not in text or _file_like(text)):
        return "it is a file's name"
    if _CAMERA.fullmatch(text):
        return "it is a file's name"
    tokens = text.split()
    if len(tokens) == 1 and any(c.isdigit() for c in text) and ("_" in text or _HEX.fullmatch(text)):
        return "it is a number or an ID"
    if (
        words
        and not any(sum(c.isalpha() for c in word) > 1 for word in words)
        and any(c.isdigit() for c in text)
    ):
        return "it is a number or an ID"
    if tokens and sum(bool(_ADDRESS.fullmatch(t) or _LONE_SUFFIX.fullmatch(t)) for t in tokens) * 2 > len(
        tokens
    ):
        return "it is mostly file names or addresses"
    return None


def _file_like(text: str) -> bool:
    """Whether a name with spaces and a suffix looks like a file's: it has digits or joined words."""
    stem = text.rpartition(".")[0]
    return "," not in stem and (any(c.isdigit() for c in stem) or "_" in stem or len(stem.split()) <= 3)


def normal_form(caption: str) -> str:
    """The form in which captions are the same: compatible characters, small letters, single spaces, no last mark."""
    text = " ".join(unicodedata.normalize("NFKC", caption).casefold().split())
    return text.rstrip(" .!,;:")


def caption_key(caption: str) -> bytes:
    """16 bytes for the normal form of a caption."""
    return hashlib.blake2b(normal_form(caption).encode("utf-8", "replace"), digest_size=16).digest()


@lru_cache(maxsize=4096)
def caption_facts(caption: str, language: str | None) -> tuple[int, str | None, str | None, str | None]:
    """Words, and why it is a name, says nothing or is in another language (None: it does not)."""
    name = name_problem(caption)
    content = None if name else content_problem(caption)
    foreign = None if language is None or name else language_problem(caption, language)
    return word_count(caption), name, content, foreign
