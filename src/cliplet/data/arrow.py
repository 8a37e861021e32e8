"""Arrow files of Hugging Face ``datasets``: a folder of ``save_to_disk``, or one ``.arrow``; memory-mapped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cliplet.data.parquet import BATCH, TablePhoto, cell_bytes, plain_cells
from cliplet.errors import InputError, MissingExtraError

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_arrow_folder(folder: Path) -> bool:
    """Whether ``save_to_disk`` made this folder."""
    return (folder / SPLITS).is_file() or ((folder / STATE).is_file() and any(folder.glob("*.arrow")))


def arrow_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row's fields, and where it stands, of a file or folder; as :func:`cliplet.data.parquet.parquet_rows`.

    ``start`` and ``stop`` are rows of a file; of a folder there are none.

    Raises:
        InputError: damaged, or a folder of several splits.
        MissingExtraError: pyarrow is not installed.
    """
    number = 0
    for file in saved_files(path) if path.is_dir() else [path]:
        columns: dict[str, _Column] = {}
        table = _table(file)
        last = table.num_rows if stop is None else min(stop, table.num_rows)
        number += start
        for begin in range(start, last, BATCH):
            batch = table.slice(begin, min(BATCH, last - begin))
            cells = [plain_cells(values) for values in batch.columns]
            for at, row in enumerate(zip(*cells, strict=True), begin):
                number += 1
                where, fields = f"row {number}", dict(zip(table.column_names, row, strict=True))
                for name, value in fields.items():
                    content, given = cell_bytes(value)
                    if content is not None:
                        column = columns.setdefault(name, _Column(path, table.column(name)))
                        fields[name] = TablePhoto(column, 0, at, where, given, content)
                yield fields, where


class _Column:
    """A column with bytes; they stay in the mapped file."""

    def __init__(self, path: Path, cells: Any) -> None:
        self.path, self.cells = path, cells

    def read(self, group: int, row: int) -> bytes:
        found: bytes = cell_bytes(self.cells[row].as_py())[0]  # type: ignore[assignment]
        return found


def saved_files(folder: Path) -> list[Path]:
    """The files of a folder of ``save_to_disk``, in order; raises InputError for one of several splits."""
    if (folder / SPLITS).is_file():
        splits = ", ".join(str(inner.parent) for inner in sorted(folder.glob(f"*/{STATE}")))
        raise InputError(f"{folder} holds several splits of a data set: name one of {splits or 'them'}")
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return [folder / one["filename"] for one in state["_data_files"]]
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise InputError(f"{folder / STATE} is no state of a saved data set: {error!r}") from error


def arrow_length(file: Path) -> int:
    """Rows of a file; raises as :func:`arrow_rows`."""
    return int(_table(file).num_rows)


def _table(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError:
        raise MissingExtraError(f"reading {file}", "parquet") from None
    try:
        source = pyarrow.memory_map(str(file))
        try:
            table = ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            table = ipc.open_file(source).read_all()
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{file} is not a valid Arrow file: {error}") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{file} has two columns of one name: rename one")
    return table
