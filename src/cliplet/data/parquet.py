"""Parquet: rows with named fields; photos inside cells stay in the file until they are needed."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cliplet.errors import InputError, MissingExtraError

BATCH = 256
"""Rows read together."""


class TablePhoto:
    """A photo (or other bytes) inside a table's cell, read when it is needed; safe in threads."""

    def __init__(
        self, column: Any, group: int, row: int, where: str, path: str | None, content: bytes
    ) -> None:
        self.column, self.group, self.row, self.where = column, group, row, where
        self.path = path
        """The name that the table gives it."""
        self.digest = hashlib.blake2b(content, digest_size=12).hexdigest()
        """Of its bytes, so that a photo that stands in several rows is known for one."""

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        return self.column.read(self.group, self.row)

    def __str__(self) -> str:
        return f"{self.column.path}, {self.where}"


class _Column:
    """A column with bytes; the row group used last is kept."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.lock = threading.Lock()
        self.group, self.cells = -1, None

    def read(self, group: int, row: int) -> bytes:
        from pyarrow import parquet

        with self.lock:
            if group != self.group:
                with parquet.ParquetFile(self.path) as file:
                    self.group, self.cells = group, file.read_row_group(group, columns=[self.name]).column(0)
            found: bytes = cell_bytes(self.cells[row].as_py())[0]  # type: ignore[index, assignment]
            return found


def parquet_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row's fields, and where it stands; of the rows ``start`` to ``stop`` alone where these are given.

    Cells with bytes, alone or as Hugging Face's ``{bytes, path}``, come as :class:`TablePhoto`. Row groups that hold
    none of the rows are not read.

    Raises:
        InputError: not a Parquet file, or damaged.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(f"reading {path}", "parquet") from None
    try:
        with parquet.ParquetFile(path) as file:
            if len(set(file.schema_arrow.names)) < len(file.schema_arrow.names):
                raise InputError(f"{path} has two columns of one name: rename one")
            columns = {name: _Column(path, name) for name in file.schema_arrow.names}
            first = 0
            for group in range(file.num_row_groups):
                number, first = first, first + file.metadata.row_group(group).num_rows
                if first <= start or (stop is not None and number >= stop):
                    continue
                begin = number
                for batch in file.iter_batches(BATCH, row_groups=[group]):
                    low = max(0, start - number)
                    high = batch.num_rows if stop is None else min(batch.num_rows, stop - number)
                    cells = [plain_cells(values) for values in batch.slice(low, max(0, high - low)).columns]
                    for at, row in enumerate(zip(*cells, strict=True), number + low):
                        where, fields = f"row {at + 1}", dict(zip(batch.schema.names, row, strict=True))
                        for name, value in fields.items():
                            content, given = cell_bytes(value)
                            if content is not None:
                                place = (columns[name], group, at - begin)
                                fields[name] = TablePhoto(*place, where, given, content)
                        yield fields, where
                    number += batch.num_rows
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not a valid Parquet file: {error}") from error


def parquet_groups(path: Path) -> list[int]:
    """Rows of each row group; raises as :func:`parquet_rows`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(f"reading {path}", "parquet") from None
    try:
        with parquet.ParquetFile(path) as file:
            return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is not a valid Parquet file: {error}") from error


def cell_bytes(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes in a cell, if there are any, and the name beside them."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"], value.get("path")
    return (value if isinstance(value, bytes) else None), None


def plain_cells(values: Any) -> list[Any]:
    """A column's cells as Python's values; as text where Python cannot hold one, such as a time in nanoseconds."""
    try:
        cells: list[Any] = values.to_pylist()
        return cells
    except (ValueError, OverflowError):
        return [str(value) for value in values]
