"""The settings of a recipe with their help, read from the docstrings below the fields of its dataclasses."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

WIDTH = 80
"""Columns of a terminal."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    """As a change names it: ``stages.0.lr``."""
    default: str
    """Its default, as TOML or Python writes it; empty for a table."""
    help: str
    """What it does."""


def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, those of its bases included, on one line."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = getattr(getattr(after, "value", None), "value", None)
                if isinstance(after, ast.Expr) and isinstance(text, str):
                    found[field.target.id] = " ".join(text.split())
    return found


def all_settings(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting below a dataclass, tables before what they hold; of a choice of tables, each in turn.

    A field that holds weights by name has ``entries`` in its metadata: a function that gives, by name, a line of help
    and a dataclass of further settings, or None.
    """
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        inner = list(_tables(hints[field.name]))
        yield Setting(name, "" if inner else _default(field), docs.get(field.name, ""))
        for key, (text, own) in field.metadata.get("entries", dict)().items():
            yield Setting(f"{name}.{key}", "0.0", text)
            if own is not None:
                yield from all_settings(own, f"{name}.{key}.")
        listed = typing.get_origin(hints[field.name]) is tuple
        for table in inner:
            kind = f" (kind {table.kind})" if len(inner) > 1 else ""  # type: ignore[attr-defined]
            for setting in all_settings(table, f"{name}.{'0.' if listed else ''}"):
                yield dataclasses.replace(setting, name=setting.name + kind if kind else setting.name)


def _tables(hint: Any) -> Iterator[type]:
    """The dataclasses inside an annotation."""
    if dataclasses.is_dataclass(hint):
        yield hint  # type: ignore[misc]
    elif typing.get_origin(hint) is not typing.Literal:
        for part in typing.get_args(hint):
            yield from _tables(part)


def _default(field: "dataclasses.Field[Any]") -> str:
    """The default as text."""
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return repr(field.default_factory()) if callable(field.default_factory) else ""


def settings_text(cls: type, kind: str) -> str:
    """All settings of a kind of recipe for a terminal.

    Args:
        cls: dataclass of its settings.
        kind: its name.
    """
    common = (
        Setting("kind", repr(kind), "Which kind of recipe: this one."),
        Setting("data", "''", "Folder of the data: it stands for {data} at the beginning of paths."),
    )
    lines = []
    for setting in (*common, *all_settings(cls)):
        first = setting.name + (f" = {setting.default}" if setting.default else "")
        whole = {"width": WIDTH, "break_long_words": False, "break_on_hyphens": False}
        lines.append(textwrap.fill(first, subsequent_indent=" " * 8, **whole))  # type: ignore[arg-type]
        lines.append(textwrap.fill(setting.help, initial_indent=" " * 4, subsequent_indent=" " * 4, **whole))  # type: ignore[arg-type]
    return "\n".join(lines)
