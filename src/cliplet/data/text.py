"""Captions as text: what cannot be scored, and what must be cleaned before a tokeniser sees it."""


def caption_problem(caption: object) -> str | None:
    """Why this cannot be scored as a caption, or None."""
    if not isinstance(caption, str):
        hint = ": decode it first (.decode())" if isinstance(caption, (bytes, bytearray)) else ""
        return f"the caption is not a string but {_shown(caption)}{hint}"
    if not caption.strip():
        return "the caption is empty"
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        return "the caption is not valid UTF-8"
    return None


def scrub(text: str) -> str:
    """The text with unpaired surrogates (broken UTF-8) replaced, so that a tokeniser can take it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
