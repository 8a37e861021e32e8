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
        self, column: "_Column", group: int, row: int, where: str, path: str | None, digest: str
    ) -> None:
        self.column, self.group, self.row, self.where = column, group, row, where
        self.path = path
        """The name that the table gives it."""
        self.digest = digest
        """Of its bytes, so that a photo that stands in several rows is known for one."""

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        return self.column.read(self.group, self.row)

    def __str__(self) -> str:
        return f"{self.column.path}, {self.where}"


class _Column:
    """A column of bytes; the row group used last is kept."""

    def __init__(self, path: Path, name: str, inner: bool = False) -> None:
        self.path, self.name, self.inner = path, name, inner
        self.lock = threading.Lock()
        self.group, self.values = -1, None

    def read(self, group: int, row: int) -> bytes:
        from pyarrow import parquet

        with self.lock:
            if group != self.group:
                with parquet.ParquetFile(self.path) as file:
                    table = file.read_row_group(group, columns=[self.name])
                self.group, self.values = group, table.flatten().column(0)
            value: bytes = self.values[row].as_py()  # type: ignore[index]
            return value


def parquet_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row's fields, and where it stands. Cells with bytes, alone or as Hugging Face's ``{bytes, path}``, come as :class:`TablePhoto`.

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
            columns = {field.name: _bytes_of(field, pyarrow.types, path) for field in file.schema_arrow}
            number = 0
            for group in range(file.num_row_groups):
                start = number
                for batch in file.iter_batches(BATCH, row_groups=[group]):
                    where = [f"row {number + i}" for i in range(1, batch.num_rows + 1)]
                    cells = [
                        _cells(values, columns[name], group, number - start, where)
                        for name, values in zip(batch.schema.names, batch.columns, strict=True)
                    ]
                    for place, row in zip(where, zip(*cells, strict=True), strict=True):
                        yield dict(zip(batch.schema.names, row, strict=True)), place
                    number += batch.num_rows
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not a valid Parquet file: {error}") from error


def _bytes_of(field: Any, types: Any, path: Path) -> _Column | None:
    """Where a column's bytes are, if it holds any."""
    if types.is_binary(field.type) or types.is_large_binary(field.type):
        return _Column(path, field.name)
    if types.is_struct(field.type):
        inner = {f.name: f.type for f in field.type}
        if "bytes" in inner and (types.is_binary(inner["bytes"]) or types.is_large_binary(inner["bytes"])):
            return _Column(path, f"{field.name}.bytes", inner=True)
    return None


def _cells(values: Any, column: _Column | None, group: int, start: int, where: list[str]) -> list[Any]:
    """A column's cells of one batch."""
    if column is None:
        try:
            cells: list[Any] = values.to_pylist()
        except (ValueError, OverflowError):  # such as a time that Python cannot hold
            cells = [str(value) for value in values]
        return cells
    parts = (
        {f.name: part for f, part in zip(values.type, values.flatten(), strict=True)} if column.inner else {}
    )
    content = parts.get("bytes", values)
    paths = parts["path"].to_pylist() if "path" in parts else [None] * len(values)
    found: list[Any] = []
    for i, path in enumerate(paths):
        if not content[i].is_valid:
            found.append(path)
        else:
            digest = hashlib.blake2b(content[i].as_buffer(), digest_size=12).hexdigest()
            found.append(TablePhoto(column, group, start + i, where[i], path, digest))
    return found
