"""One part: read, computed and written whole; its file is its checkpoint.

:func:`run_part` is the same for every engine. What is computed is a :class:`Work`: scores are one
(:mod:`cliplet.stream.scores`), other rooms may bring theirs.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cliplet.errors import ClipletError, MissingExtraError
from cliplet.files import write_atomically
from cliplet.stream.plan import Part
from cliplet.stream.source import Say

__all__ = [
    "Compute", "Counts", "Say", "Work", "failure_file", "failures", "give_up", "need_pyarrow", "part_file", "reason_of",
    "run_part", "state_file", "tables_of",
]  # fmt: skip

FORMS = ("parquet", "jsonl")
"""Forms of a part's file."""
PARTS = "parts"
"""The folder of the parts' files in the output folder: they alone, so that it can be read as one table."""
FAILED = "failed"
"""The folder of the failure files."""
SAID = 2.0
"""Seconds after which a part says again what it is doing."""

Compute = Callable[[Part, Say], Iterable[Any]]
"""From a part to its rows: pyarrow tables of one schema, block by block."""


class Work(Protocol):
    """What is done with every part. It is pickled to where the parts run."""

    @property
    def threads(self) -> int:
        """Threads that it may use in one process."""

    def schema(self) -> Any:
        """The pyarrow schema of the parts' files, fixed beforehand so that all parts can be read as one table."""

    def begin(self) -> Compute:
        """Called once in each process that runs parts: load what is needed, give the function of a part.

        The rows must depend on nothing but the part, so that any process gives the same bytes.
        """


@dataclass(frozen=True)
class Counts:
    """What a finished part tells of itself."""

    rows: int
    """Its rows."""
    failed: int
    """Those with a reason why they have no score."""
    seconds: float
    """How long it took."""


def part_file(folder: Path, part: Part, form: str) -> Path:
    """Where a part is written: ``parts/part-00012.parquet``; that it is there says that the part is done."""
    return folder / PARTS / f"{part.name}.{form}"


def failure_file(folder: Path, part: Part) -> Path:
    """Where it is said that a part was given up, and why."""
    return folder / FAILED / f"{part.name}.json"


def state_file(folder: Path, part: Part) -> Path:
    """Where a running part says what it is doing."""
    return folder / PARTS / f".{part.name}.running.json"


def run_part(part: Part, folder: Path, form: str, work: Work, compute: Compute) -> Counts:
    """Compute a part and write its file: under a temporary name, flushed to the disk, then renamed.

    Two processes that do the same part write the same bytes.

    Raises:
        InputError: the part's source cannot be read whole; nothing is left behind.
        OSError: a disk or a network drive failed, which may pass.
    """
    started = time.time()
    last, kind = 0.0, ""

    def say(doing: str) -> None:
        nonlocal last, kind
        if time.monotonic() - last > SAID or doing.partition(" ")[0] != kind:
            last, kind = time.monotonic(), doing.partition(" ")[0]
            about = {"part": part.number, "pid": os.getpid(), "started": started, "doing": doing}
            write_atomically(state_file(folder, part), json.dumps(about))

    say("reading")
    path = part_file(folder, part, form)
    temporary = path.with_name(f".{part.name}.{secrets.token_hex(4)}.tmp")
    try:
        rows, failed = _WRITERS[form](temporary, work.schema(), compute(part, say))
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        state_file(folder, part).unlink(missing_ok=True)
    return Counts(rows, failed, time.time() - started)


def give_up(part: Part, folder: Path, reason: str, attempts: int) -> None:
    """Write the failure file of a part."""
    about = {"part": part.number, "source": part.source.name, "start": part.start, "stop": part.stop}
    failure_file(folder, part).parent.mkdir(exist_ok=True)
    content = json.dumps(about | {"attempts": attempts, "reason": reason}, indent=1)
    write_atomically(failure_file(folder, part), content + "\n")


def failures(folder: Path) -> dict[int, str]:
    """The parts that were given up, and why."""
    found = {}
    for path in sorted((folder / FAILED).glob("part-*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        found[int(about["part"])] = f"{about['source']}: {about['reason']}"
    return found


def _sync_folder(folder: Path) -> None:
    """Make a renaming last through a loss of power, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError:
            pass
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------- files
def _write_parquet(path: Path, schema: Any, tables: Iterable[Any]) -> tuple[int, int]:
    from pyarrow import parquet

    rows = failed = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            rows, failed = rows + table.num_rows, failed + _failed(table)
    return rows, failed


def _write_jsonl(path: Path, schema: Any, tables: Iterable[Any]) -> tuple[int, int]:
    rows = failed = 0
    with open(path, "w", encoding="utf-8") as stream:
        for table in tables:
            for row in table.to_pylist():
                stream.write(json.dumps(_json_row(row), ensure_ascii=True) + "\n")
            rows, failed = rows + table.num_rows, failed + _failed(table)
    return rows, failed


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON Lines: six decimals, and the other fields beside the rest; JSON takes a value of any type."""
    more = row.pop("extra", None)
    plain = {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}
    return plain | {
        name: v for name, v in (json.loads(more) if more else {}).items() if plain.get(name) is None
    }


def _failed(table: Any) -> int:
    reasons = table.column("reason") if "reason" in table.column_names else None
    return 0 if reasons is None else table.num_rows - int(reasons.null_count)


_WRITERS = {"parquet": _write_parquet, "jsonl": _write_jsonl}


def tables_of(path: Path, columns: list[str] | None = None) -> Iterator[Any]:
    """The rows of a part's file as pyarrow tables, one after the other."""
    import pyarrow

    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(8192, columns=columns):
                yield pyarrow.Table.from_batches([batch])
        return
    with open(path, encoding="utf-8") as stream:
        lines = iter(stream)
        while block := [json.loads(line) for line, _ in zip(lines, range(8192), strict=False)]:
            names = columns or list(dict.fromkeys(name for row in block for name in row))
            yield pyarrow.table({name: _typed([row.get(name) for row in block]) for name in names})


def _typed(values: list[Any]) -> Any:
    """A pyarrow column; values of several types, or that none holds, as their JSON."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        return pyarrow.array([None if value is None else json.dumps(value) for value in values])


def need_pyarrow() -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:  # it is imported where the parts are: it takes memory
        raise MissingExtraError("a stream of parts", "parquet")


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, ClipletError):
        return str(error)
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
