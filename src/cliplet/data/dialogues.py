"""Captions inside what vision-language models read and write: conversations, and samples of lmms-eval."""

from collections.abc import Mapping
from typing import Any

from cliplet.data.tables import Row

DIALOGUES = ("conversations", "conversation", "messages")
"""Fields of turns: LLaVA's ``{from, value}`` or ``{role, content}``."""
MODELS = ("gpt", "assistant", "model", "bot", "chatgpt")
"""Who says the caption."""
ANSWERS = ("filtered_resps", "resps")
"""lmms-eval's fields of what the model said, the better first."""


def unfolded(row: Row) -> tuple[Row, str | None]:
    """A row with its caption as a field of its own, and why that cannot be said; other rows as they are."""
    if "doc" in row and any(name in row for name in ANSWERS):
        return _lmms_eval(row)
    name = next((name for name in DIALOGUES if isinstance(row.get(name), (list, tuple))), None)
    if name is None or "caption" in row:
        return row, None
    said = [text for turn in row[name] if (text := _said(turn)) is not None]
    others = {key: value for key, value in row.items() if key != name}
    problem = None if len(said) == 1 else f"{name} has {len(said)} turns of a model; a caption is one"
    return Row(others | {"caption": said[0] if len(said) == 1 else None}, row.where, row.problem), problem


def _said(turn: Any) -> Any:
    """What a model says in a turn, None for another speaker."""
    if not isinstance(turn, Mapping) or str(turn.get("from", turn.get("role"))).lower() not in MODELS:
        return None
    content = turn.get("value", turn.get("content"))
    if isinstance(content, (list, tuple)):  # parts, such as {type: text, text: ...}
        texts = [part["text"] for part in content if isinstance(part, Mapping) and "text" in part]
        return texts[0] if len(texts) == 1 else content
    return "" if content is None else content


def _lmms_eval(row: Row) -> tuple[Row, str | None]:
    """A line of lmms-eval's samples: the answer, with the image and the references of its document."""
    answer = next(row[name] for name in ANSWERS if name in row)
    while isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    doc = row["doc"] if isinstance(row["doc"], Mapping) else {}
    texts = next(
        (doc[name] for name in ("caption", "captions", "answer", "answers") if name in doc), row.get("target")
    )
    problem = f"it has {len(answer)} answers; a caption is one" if isinstance(answer, (list, tuple)) else None
    others = {
        key: value for key, value in doc.items() if key not in ("caption", "captions", "answer", "answers")
    }
    return Row(others | {"candidate": answer, "references": texts}, row.where, row.problem), problem
