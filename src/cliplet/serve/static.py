"""The page's files, as they lie in the package."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    kind: str
    """Its content type."""
    tag: str
    """Its entity tag: changes with the content."""


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in KINDS:
            content = path.read_bytes()
            tag = '"' + hashlib.blake2b(content, digest_size=8).hexdigest() + '"'
            found[path.name] = PageFile(content, KINDS[path.suffix], tag)
    return found
