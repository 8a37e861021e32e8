"""Tables: rows with named fields from CSV, TSV, JSON Lines, a JSON list or Parquet.

A row knows its line. One that cannot be used says why and stays in its place: it never ends a run, swallows its
neighbours or turns into other text. ``,`` and ``;`` know quotes; tabs and ``|`` do not, as the files of this field
have them. Encodings: :mod:`cliplet.data.text`.
"""

import ast
import csv
import json
import re
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice, starmap
from pathlib import Path
from typing import Any

from cliplet.data.names import is_photo_path
from cliplet.data.text import open_text, read_text, shown, text_lines
from cliplet.errors import InputError

SEPARATORS = (",", "\t", ";", "|")
LONGEST_CELL = 1_000_000
"""A quoted cell with line ends beyond so many characters is taken for a quote that nothing closes."""
_QUOTING = (",", ";")

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class Row(dict[str, Any]):
    """Named fields."""

    __slots__ = ("problem", "surplus", "where")

    def __init__(
        self, fields: Mapping[str, Any], where: str, problem: str | None = None, surplus: bool = False
    ) -> None:
        super().__init__(fields)
        self.where = where
        """Its place, such as ``line 7``."""
        self.problem = problem
        """Why it cannot be used; None if it can."""
        self.surplus = surplus
        """Whether it has more cells than the header."""


def rows_of(path: Path, separator: str | None = None) -> Iterator[Row]:
    """Every row of a .csv, .tsv, .jsonl, .ndjson, .json (objects, by line or in one list), .parquet
    or .arrow (or a folder of those by ``save_to_disk``), one by one.

    Raises:
        InputError: the file cannot be read, is broken as a whole, or two of its columns have one name.
        MissingExtraError: Parquet without pyarrow.
    """
    reader = TABLES.get(".arrow" if path.is_dir() else path.suffix.lower())
    return delimited(path, separator) if reader is None else reader(path)


def read_table(
    path: Path, notes: Counter[str], separator: str | None = None, surplus: bool = True
) -> list[Row]:
    """The usable rows of a table; the others are counted in ``notes``.

    Raises:
        InputError: as :func:`rows_of`, when no row can be used, and, without ``surplus``, when a row has more cells
            than the header.
    """
    good: list[Row] = []
    bad: list[Row] = []
    for row in rows_of(path, separator):
        if row.surplus and not surplus:
            raise InputError(
                f"{path}, {row.where}: {row.problem}; put a cell that holds a separator in quotes"
            )
        (good if row.problem is None else bad).append(row)
    if not good:
        raise InputError(f"{path}, {bad[0].where}: {bad[0].problem}" if bad else f"{path}: holds no rows")
    leave_out(notes, [f"{row.where}: {row.problem}" for row in bad])
    return good


def leave_out(notes: Counter[str], reasons: Sequence[str]) -> None:
    """Count rows that cannot be used, with the first one's reason."""
    if reasons:
        notes[f"rows left out, such as {reasons[0]}"] += len(reasons)


# ---------------------------------------------------------------- cells parted by separators
def delimited(path: Path, separator: str | None = None) -> Iterator[Row]:
    """Rows under a header; parted by what is given, by a .tsv's tab, else by the first of ``, TAB ; |`` in it."""
    separator = {"\\t": "\t", "tab": "\t"}.get(separator or "", separator)
    if separator is not None and len(separator) != 1:
        raise InputError(f"--separator {separator!r} must be one character, such as ',' or a tab")
    with open_text(path, newline="") as stream:
        lines = enumerate(stream, 1)
        head = next(((number, line) for number, line in lines if line.strip()), None)
        if head is None:
            raise InputError(f"{path} is empty")
        if separator is None:
            first = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
            separator = next((s for s in dict.fromkeys((first, *SEPARATORS)) if s in head[1]), first)
        records = _records(chain([head], lines), separator, header=True)
        _, header, problem = next(records, (0, [], "is empty"))
        header = [name.strip() for name in header]
        twice = [name for name, n in Counter(h.lower() for h in header if h).items() if n > 1]
        if problem or twice:
            raise InputError(f"{path}: its header {problem or f'has two columns {twice[0]!r}: rename one'}")
        for number, cells, problem in records:
            fields = dict(zip(header, cells, strict=False))
            yield Row(fields, f"line {number}", problem, len(cells) > len(header))


def cells_of(path: Path, separator: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, cells and what is wrong with them (None for nothing), of a file without a header."""
    with open_text(path, newline="") as stream:
        yield from _records(enumerate(stream, 1), separator)


def _records(
    lines: Iterator[tuple[int, str]], separator: str, header: bool = False
) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, cells and problem of every record; all must have as many cells as a header has."""
    back: deque[tuple[int, str]] = deque()  # lines that a stray quote had taken
    width = None

    def following() -> tuple[int, str] | None:
        return back.popleft() if back else next(lines, None)

    while (taken := following()) is not None:
        number, line = taken
        cells, problem = line.rstrip("\r\n").split(separator), None
        if separator in _QUOTING and '"' in line:
            cells, problem = _quoted(line, following, back, separator, width)
        elif separator == "|":
            cells = [cell.strip() for cell in cells]
        if cells == [""]:
            continue
        if width is not None and len(cells) != width and problem is None:
            counted = f"{len(cells)} cell{'' if len(cells) == 1 else 's'} under a header of {width}"
            problem = f"{counted}: {shown(separator.join(cells), 100)}"
        yield number, cells, problem
        width = len(cells) if header and width is None else width


def _quoted(
    line: str,
    following: Callable[[], tuple[int, str] | None],
    back: deque[tuple[int, str]],
    separator: str,
    width: int | None,
) -> tuple[list[str], str | None]:
    """The cells of a record with quotes, which may go on over the next lines, and what is wrong with them."""
    taken: list[tuple[int, str]] = []
    text, cells = line, _parsed(line, separator)
    while cells is None and len(text) < LONGEST_CELL and (more := following()) is not None:
        taken.append(more)
        text += more[1]
        if more[1].count('"') % 2:  # an odd one may close the cell
            cells = _parsed(text, separator)
    if isinstance(cells, list) and not (taken and _swallowed(cells, [t for _, t in taken], separator, width)):
        return cells, None
    back.extendleft(reversed(taken))
    why = cells if isinstance(cells, str) else 'a quote (") begins a cell and nothing closes it'
    why += "; inside a cell in quotes write each quote twice"
    return line.rstrip("\r\n").split(separator), f"{why}: {shown(line.rstrip(), 100)}"


def _parsed(text: str, separator: str) -> list[str] | str | None:
    """Cells of one record; None while a quote is open; else what is wrong."""
    try:
        return next(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as error:
        return None if "end of data" in str(error) else str(error)


def _swallowed(cells: list[str], following: list[str], separator: str, width: int | None) -> bool:
    """Whether a record over several lines holds whole rows, because a stray quote opened it and another closed it."""
    if width is not None and len(cells) != width:
        return True
    for at, cell in enumerate(cells):
        for line in following:
            parts = line.rstrip("\r\n").split(separator)
            if at < len(parts) and is_photo_path(cell) and is_photo_path(parts[at]):
                return True
            if len(parts) == width and cell.isdecimal() and parts[at].isdecimal():
                return True
    return False


# ---------------------------------------------------------------- JSON
def parse_json(text: str) -> Any:
    """One JSON value; whatever is wrong with it raises ValueError in one line."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(json_error(error)) from None


def json_error(error: ValueError) -> str:
    """What a JSON decoder complains of, with its place."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error).partition(";")[0]  # a number of too many digits
    return f"{error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}"


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: it cannot be read or is not valid JSON, with line and column.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def is_json_lines(path: Path) -> bool | None:
    """Whether a JSON file holds one object a line, by its first lines, or by its suffix where they are broken.

    None for a single object on a single line, which may be either.
    """
    first = list(islice((line for _, line in text_lines(path)), 2))
    if not first:
        raise InputError(f"{path} is empty")
    if not first[0].lstrip().startswith("{"):
        return path.suffix.lower() != ".json" and not first[0].lstrip().startswith("[")
    try:
        parse_json(first[0])
    except ValueError:
        return path.suffix.lower() != ".json" and first[0].strip() != "{"
    return True if len(first) == 2 else None


def json_lines(path: Path) -> Iterator[Row]:
    """One object a line; a line that is none is a row with a problem."""
    for number, line in text_lines(path):
        try:
            value = parse_json(line)
        except ValueError as error:
            problem = f"not valid JSON: {str(error).replace('line 1 ', '')}"
            yield Row({}, f"line {number}", problem)
        else:
            yield object_row(value, f"line {number}")


def object_row(value: Any, where: str) -> Row:
    """A row of a JSON value, which must be an object."""
    if isinstance(value, Mapping):
        return Row(value, where)
    return Row({}, where, f"expected an object with named fields, found {shown(value)}")


def _json_rows(path: Path) -> Iterator[Row]:
    """One object a line, a list of them, an object of objects, an object with one list of objects, or one object."""
    by_line = is_json_lines(path)
    if by_line or (by_line is None and path.suffix.lower() != ".json"):
        yield from json_lines(path)
        return
    content = read_json(path)
    if isinstance(content, dict) and content:
        lists = [v for v in content.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        objects = [v for v in content.values() if isinstance(v, dict)]
        content = lists[0] if len(lists) == 1 else objects if len(objects) == len(content) else [content]
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of objects with named fields")
    yield from (object_row(value, f"entry {number}") for number, value in enumerate(content, 1))


def _parquet_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Row]:
    from cliplet.data.parquet import parquet_rows

    return starmap(Row, parquet_rows(path, start, stop))


def _arrow_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Row]:
    from cliplet.data.arrow import arrow_rows

    return starmap(Row, arrow_rows(path, start, stop))


TABLES: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
"""Who reads tables of a suffix; every other file has a header and cells parted by a separator."""


def sliced_rows(path: Path, start: int, stop: int | None) -> Iterator[Row]:
    """The rows ``start`` to ``stop`` of a file of :data:`SLICED`, without reading those before; as :func:`rows_of`."""
    return SLICED[path.suffix.lower()](path, start, stop)


SLICED: dict[str, Callable[[Path, int, int | None], Iterator[Row]]] = {
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
"""Who reads tables of which any row can be found at once."""


# ---------------------------------------------------------------- columns and cells
def find_column(fields: Iterable[str], names: Iterable[str]) -> str | None:
    """Which of the accepted ``names`` is among a table's fields, the first one wins; case does not count."""
    present = {str(field).lower(): str(field) for field in reversed(list(fields))}
    return next((present[name] for name in names if name in present), None)


def column(rows: Sequence[Row], names: Iterable[str], path: Path, what: str) -> str:
    """As :func:`find_column`, of the first row; raises InputError with the columns there are."""
    found = find_column(rows[0], names)
    if found is None:
        have = ", ".join(rows[0])
        raise InputError(f"{path}: no column for the {what} (any of {', '.join(names)}); it has {have}")
    return found


_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_STRINGS = re.compile(_STRING, re.DOTALL)
_LIST = re.compile(rf"(?:array\()?\[\s*(?:(?:{_STRING})(?:[\s,]+|(?=\])))*\](?:, dtype=\w+\))?", re.DOTALL)
_OPEN = r"""'(?:[^'\\]|\\.)*\\?|"(?:[^"\\]|\\.)*\\?"""
_CUT = re.compile(
    rf"(?:array\()?\[\s*(?:(?:{_STRING})[\s,]*)+(?:{_OPEN})?|\[\s*(?!.*\])(?:{_OPEN})", re.DOTALL
)
_LIST_START = re.compile(r"(?:array\()?\[\s*['\"]")


def cell_list(text: str) -> list[Any] | None:
    """The list that a cell holds as text: JSON, Python's or NumPy's way of writing one; None for plain text.

    Raises:
        ValueError: it begins like a list of strings and is none, or is cut off before the list ends.
    """
    text = text.strip()
    if not _LIST_START.match(text):
        return None
    if not text.endswith(("]", ")")):
        if _CUT.fullmatch(text):
            raise ValueError(f"the cell begins a list and is cut off before its end: {shown(text)}")
        return None
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else None
    except (ValueError, RecursionError):
        with warnings.catch_warnings(action="error"), suppress(ValueError, SyntaxError, Warning):
            if _LIST.fullmatch(text):
                return [ast.literal_eval(found) for found in _STRINGS.findall(text)]
        raise ValueError(f"the cell looks like a list that cannot be read: {shown(text)}") from None


def as_list(value: Any) -> list[Any]:
    """References as they come in cells: a list, one written as text, several parted by ``|||`` or ``|``, or one.

    Raises:
        ValueError: as :func:`cell_list`.
    """
    if value is None:
        return []
    if not isinstance(value, str):
        several = isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping))
        return list(value) if several else [value]
    found = cell_list(value)
    separator = "|||" if "|||" in value else "|"
    return found if found is not None else [part.strip() for part in value.split(separator) if part.strip()]
