"""One-file HTML pages: style, escaping, and photos embedded as small JPEGs."""

import base64
import html
import io
import re
from collections.abc import Sequence

from PIL import Image

from cliplet.data.images import ImageInput, load_rgb
from cliplet.errors import InputError

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --line: #dfe3ea; --paper: #fff; --accent: #2f6fde; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --soft: #9aa3b2; --line: #343b48; --paper: #14171d; --accent: #7aa7ff; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 8px; } h2 { font-size: 18px; margin: 36px 0 12px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
.scroll { overflow-x: auto; } .scroll td { min-width: 4em; } .scroll td:first-child { min-width: 0; }
.text { min-width: 11em !important; } code, .name { overflow-wrap: break-word; }
h3 { font-size: 15px; margin: 22px 0 8px; } details summary { cursor: pointer; }
p, li, h1, h2 { overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; } th[data-sort] { cursor: pointer; white-space: nowrap; }
table.numbers { width: auto; } table.numbers td + td, table.numbers th + th, td.value {
  text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { width: 100%; height: 170px; object-fit: contain; background: var(--line); display: block; }
figcaption { padding: 8px 10px; overflow-wrap: break-word; } small { display: block; color: var(--soft); }
td img { width: 64px; height: 48px; object-fit: cover; border-radius: 4px; display: block; }
input[type=search] { font: inherit; padding: 6px 10px; width: min(420px, 100%); border: 1px solid var(--line);
  border-radius: 6px; background: transparent; color: inherit; }
#count { color: var(--soft); margin-left: 8px; }
pre { background: color-mix(in srgb, var(--line) 40%, transparent); padding: 12px; border-radius: 6px; overflow: auto; }
svg { max-width: 100%; height: auto; }
@media (max-width: 480px) { main { padding: 14px; } .gallery { grid-template-columns: 1fr; } }
"""


def escape(value: object) -> str:
    """Text made safe for HTML; broken and invisible characters shown as their code."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    return html.escape(text)


def breakable(name: object) -> str:
    """A name made safe for HTML; a long one may go on in the next line after one of ``/ _ -``."""
    text = escape(name)
    return re.sub(r"(?<=[/_-])(?=\w)", "<wbr>", text) if len(text) > 24 else text


def page(title: str, body: str, script: str = "") -> str:
    """A whole HTML page that needs no other file."""
    code = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{breakable(title)}</h1>\n{body}\n</main>{code}</body></html>\n"
    )


class Photos:
    """Rows' photos as embedded thumbnails; each photo and size is made once."""

    def __init__(self, photos: Sequence[ImageInput | None]) -> None:
        self.photos = photos
        self._made: dict[tuple[str, int], str] = {}

    def img(self, row: int, side: int, alt: str) -> str:
        """An ``<img>`` of a row's photo at most ``side`` pixels long; empty when it cannot be shown."""
        source = self.photos[row]
        if source is None:
            return ""
        key = (str(source), side)
        if key not in self._made:
            self._made[key] = thumbnail(source, side)
        data = self._made[key]
        return f'<img loading="lazy" alt="{escape(alt)}" src="{data}">' if data else ""


def thumbnail(source: ImageInput, side: int) -> str:
    """A data URI of the photo at most ``side`` pixels long; empty when it cannot be decoded."""
    try:
        image = load_rgb(source, at_least=side)
    except InputError:
        return ""
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
