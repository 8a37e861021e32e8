"""Reading the tables that benchmarks come in (JSON, JSON Lines, CSV, TSV, Parquet), with errors that say where."""

import ast
import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cliplet.errors import InputError, MissingExtraError

Row = dict[str, Any]


def read_text(path: Path) -> str:
    """A file's text as UTF-8 (with or without a byte-order mark)."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json(path: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
        ) from None


def read_jsonl(path: Path) -> list[Row]:
    """A JSON Lines file of objects; blank lines are passed over."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}, line {number}, column {error.colno}: not JSON ({error.msg})"
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: expected an object with named fields")
            rows.append(row)
    return rows


def csv_rows(path: Path, delimiter: str = ",") -> list[list[str]]:
    """The cells of a delimited file."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        return list(csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path}: not a delimited table ({error})") from None


def read_table(path: Path) -> list[Row]:
    """Rows with named fields from .csv, .tsv, .jsonl, .json (a list of objects) or .parquet."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".jsonl":
        return read_jsonl(path)
    if suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise InputError(f"{path}: expected a list of objects with named fields")
        return rows
    cells = [row for row in csv_rows(path, "\t" if suffix in (".tsv", ".txt") else ",") if row]
    if not cells:
        raise InputError(f"{path}: holds no rows")
    header = [name.strip() for name in cells[0]]
    rows = []
    for number, row in enumerate(cells[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}: {len(row)} cells under a header of {len(header)}")
        rows.append(dict(zip(header, row, strict=True)))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None


def column(rows: Sequence[Row], names: Iterable[str], path: Path, what: str) -> str:
    """Which of the accepted ``names`` the table uses for ``what``; an error lists what it has."""
    found = find_column(rows, names)
    if found is None:
        have = ", ".join(rows[0]) if rows else "no rows"
        raise InputError(f"{path}: no column for the {what} (any of {', '.join(names)}); it has {have}")
    return found


def find_column(rows: Sequence[Row], names: Iterable[str]) -> str | None:
    """As :func:`column`, or None."""
    present = {str(k).lower(): str(k) for k in (rows[0] if rows else ())}
    return next((present[n] for n in names if n in present), None)


def as_list(value: Any) -> list[str]:
    """References as they come in tables: a list, a list written as text, several joined by ``|``, or one string."""
    if value is None:
        return []
    if not isinstance(value, str):
        return [str(v) for v in value]
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            parsed = None
        if isinstance(parsed, list):
            return [str(v) for v in parsed]
    separator = "|||" if "|||" in text else "|"
    return [part.strip() for part in text.split(separator) if part.strip()]


def as_number(value: Any, where: str) -> float:
    """A number, or an error that says where it is missing."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {value!r} is not a number") from None
