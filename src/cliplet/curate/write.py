"""What is kept, written out: a list, Parquet or shards; and every removed pair with its reasons."""

import csv
import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from cliplet.curate.decide import Measured, part_name
from cliplet.curate.shards import copy_sidecars, rewrite_shard, save_json, sidecar_names
from cliplet.errors import InputError
from cliplet.files import whole
from cliplet.stream.plan import Plan
from cliplet.stream.sources import Source

FORMS = ("list", "csv", "parquet", "shards", "none")
"""Forms of what is kept."""
BATCH = 4096
"""Rows of a Parquet file that are copied together."""
WORST = 1000
"""Pairs of ``mismatched.jsonl``."""
OUT = ("source", "where", "image", "caption", "match", "score", "cosine", "width", "height")
"""Columns of a measured pair that outputs have."""
KEPT = pyarrow.schema(
    [("source", pyarrow.string()), ("where", pyarrow.string()), ("image", pyarrow.string()),
     ("caption", pyarrow.string()), ("match", pyarrow.float32()), ("score", pyarrow.float32()),
     ("cosine", pyarrow.float32()), ("width", pyarrow.int32()), ("height", pyarrow.int32()),
     ("extra", pyarrow.string())]
)  # fmt: skip
"""Of the Parquet parts of what is kept, where the source is no Parquet file."""

Row = dict[str, Any]


@dataclass
class Written:
    """What was written."""

    files: list[str] = field(default_factory=list)
    """Relative to the output folder."""
    notes: list[str] = field(default_factory=list)
    """What a user must know of them."""


def check_form(form: str, sources: Sequence[Source]) -> None:
    """Raise InputError where sources cannot be written in a form, before any work."""
    if form not in FORMS:
        raise InputError(f"--write {form}: give one of {', '.join(FORMS)}")
    others = [source.name for source in sources if source.kind != "tar"]
    if form == "shards" and others:
        raise InputError(
            f"--write shards rewrites WebDataset tars, and {others[0]} is none: give --write list or parquet"
        )


def rows_with_verdicts(
    measured: Measured, decided: Path, columns: Sequence[str]
) -> Iterator[tuple[int, list[Row]]]:
    """Number of each part and its rows, with ``kept``, ``reasons`` and their number through all parts as ``row``."""
    for number, (start, table) in enumerate(measured.tables(columns)):
        verdicts = parquet.read_table(decided / part_name(number)).to_pylist()
        rows = table.to_pylist()
        for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
            row |= verdict
            row["row"] = start + i
        yield number, rows


def shown_row(row: Row) -> Row:
    """A row for JSON: rounded scores, its own other fields behind them."""
    found = {name: round(v, 6) if isinstance(v := row[name], float) else v for name in OUT}
    more = json.loads(row["extra"]) if row.get("extra") else {}
    return found | {name: value for name, value in more.items() if name not in found}


def write_lists(
    measured: Measured, decided: Path, folder: Path, form: str, see: Callable[[Row], None]
) -> Written:
    """``removed.jsonl``, ``mismatched.jsonl`` and, for a list, ``kept.jsonl`` or ``kept.csv``, in one pass.

    ``see`` is called with every row.
    """
    worst: list[tuple[float, int, Row]] = []
    kept_name = {"list": "kept.jsonl", "csv": "kept.csv"}.get(form)
    names = ["removed.jsonl", *([kept_name] if kept_name else [])]
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                open(stack.enter_context(whole(folder / name)), "w", encoding="utf-8", newline="")
            )
            for name in names
        }
        table = csv.writer(files["kept.csv"], lineterminator="\n") if form == "csv" else None
        if table is not None:
            table.writerow(OUT)
        for _, rows in rows_with_verdicts(measured, decided, [*OUT, "extra"]):
            for row in rows:
                see(row)
                found = shown_row(row)
                if row["reasons"]:
                    reasons = [
                        {k: v for k, v in reason.items() if v is not None} for reason in row["reasons"]
                    ]
                    files["removed.jsonl"].write(json.dumps(found | {"reasons": reasons}) + "\n")
                elif table is not None:
                    table.writerow(["" if found[name] is None else found[name] for name in OUT])
                elif kept_name:
                    files[kept_name].write(json.dumps(found) + "\n")
                if row["cosine"] is not None:
                    heapq.heappush(worst, (-row["cosine"], -row["row"], found))
                    if len(worst) > WORST:
                        heapq.heappop(worst)
        for file in files.values():
            file.close()
    with whole(folder / "mismatched.jsonl") as part, open(part, "w", encoding="utf-8") as file:
        for _, _, found in sorted(worst, key=lambda item: (-item[0], -item[1])):
            file.write(json.dumps(found) + "\n")
    return Written([*names, "mismatched.jsonl"])


# ---------------------------------------------------------------- by source
def write_kept(
    plan: Plan, measured: Measured, decided: Path, folder: Path, form: str, decision: str
) -> Written:
    """What is kept as Parquet or shards, in ``folder/kept``: a file a source; one that is there is not made again.

    ``decision``: what the verdicts depend on; files of another decision are made again.
    """
    target = folder / "kept"
    target.mkdir(exist_ok=True)
    names = target_names([source.name for source in plan.sources])
    _forget_others(target, names, decision)
    written = Written()
    whole_sources = _whole_sources(plan, measured)
    for i, parts in _by_source(plan, measured, decided):
        source, new = plan.sources[i], target / names[i]
        note = target / note_name(names[i])
        if form == "parquet" and not source.file_name.lower().endswith(".parquet"):
            new = new.with_name(new.name + ".parquet")
        if not (new.exists() and note.exists()):
            new.parent.mkdir(parents=True, exist_ok=True)
            save_json(note, _write_source(source, new, parts, form, i in whole_sources))
        written.files.append(str(new.relative_to(folder)))
        written.notes += json.loads(note.read_text())
    return written


def note_name(name: str) -> str:
    """The file that says a source is done; no two names share one."""
    return f".{name.replace('%', '%25').replace('/', '%2F')}.json"


def target_names(names: Sequence[str]) -> list[str]:
    """Sources' names below their common folder."""
    paths = [Path(name.partition("://")[2] or name) for name in names]
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    parents = [str(path.absolute().parent) for path in paths]
    common = Path(parents[0])
    while not all(Path(parent).is_relative_to(common) for parent in parents):
        common = common.parent
    return [str(path.absolute().relative_to(common)) for path in paths]


def _forget_others(target: Path, names: Sequence[str], decision: str) -> None:
    """Take away the notes that say a file is done where it was done by another decision."""
    mark = target / ".decision"
    if not mark.exists() or mark.read_text() != decision:
        for note in target.glob(".*.json"):
            note.unlink()
        mark.write_text(decision)


def _by_source(plan: Plan, measured: Measured, decided: Path) -> Iterator[tuple[int, Iterator[list[Row]]]]:
    """The rows of each source that has any, in order, part by part."""
    numbers = [int(path.stem.removeprefix("part-")) for path in measured.parts]
    parts = rows_with_verdicts(measured, decided, [*OUT, "extra"])
    for source, group in groupby(parts, lambda part: plan.cuts[numbers[part[0]]][0]):
        yield source, (rows for _, rows in group)


def _whole_sources(plan: Plan, measured: Measured) -> set[int]:
    """The sources all of whose parts were measured."""
    there = {int(path.stem.removeprefix("part-")) for path in measured.parts}
    return set(range(len(plan.sources))) - {plan.cuts[i][0] for i in range(len(plan)) if i not in there}


def _write_source(
    source: Source, new: Path, parts: Iterator[list[Row]], form: str, all_known: bool
) -> list[str]:
    """Write what is kept of a source; returns what a user must know of it. ``all_known``: no part was given up."""
    if form == "shards":
        with local_file(source) as path:
            return _write_shard(source, path, new, parts, all_known)
    if source.kind == "table" and source.file_name.lower().endswith(".parquet"):
        with local_file(source) as path:
            _filter_parquet(path, new, parts)
        return []
    with whole(new) as part, parquet.ParquetWriter(part, KEPT, compression="zstd") as writer:
        for rows in parts:
            writer.write_table(pyarrow.Table.from_pylist([row for row in rows if row["kept"]], KEPT))
    return []


@contextmanager
def local_file(source: Source) -> Iterator[Path]:
    """A source as a local file, itself or a copy of what is remote."""
    if not source.remote:
        yield Path(source.path)
        return
    from cliplet.stream.remote import fetched

    with fetched(source, lambda doing: None) as path:
        yield Path(path)


def _write_shard(
    source: Source, path: Path, new: Path, parts: Iterator[list[Row]], all_known: bool
) -> list[str]:
    kept: dict[str, bool] = {}
    for row in chain.from_iterable(parts):
        if row["where"].startswith("member "):
            name = row["where"].removeprefix("member ")
            kept[name] = kept.get(name, False) or row["kept"]
    found = rewrite_shard(path, new, kept, all_known)
    notes = [f"{source.name}: {found.damage}; what there is was kept or removed"] if found.damage else []
    if found.alone:
        notes.append(f"{source.name}: {found.alone} samples without a caption stay as they are")
    if found.unknown:
        notes.append(f"{source.name}: {found.unknown} samples of parts that were given up are left out")
    if source.remote:
        from cliplet.stream.remote import beside, fetch

        for sidecar in beside(source, sidecar_names(path.name)):
            fetch(sidecar, path.parent / sidecar.file_name, lambda doing: None)
    return notes + [f"{source.name}: {line}" for line in copy_sidecars(path, new, found.keys)]


def _filter_parquet(path: Path, new: Path, parts: Iterator[list[Row]]) -> None:
    """The source's own rows, all its columns, where any of a row's pairs is kept."""
    with parquet.ParquetFile(path) as file, whole(new) as part:
        kept = np.zeros(file.metadata.num_rows, dtype=bool)
        for row in chain.from_iterable(parts):
            kept[int(row["where"].removeprefix("row ")) - 1] |= row["kept"]
        with parquet.ParquetWriter(part, file.schema_arrow, compression="zstd") as writer:
            first = 0
            for batch in file.iter_batches(BATCH):
                mask = pyarrow.array(kept[first : first + batch.num_rows])
                writer.write_batch(batch.filter(mask))
                first += batch.num_rows


def stale_notes(folder: Path, form: str) -> list[str]:
    """What an earlier run with another ``--write`` has left in the folder, which this run does not renew."""
    of = {"kept.jsonl": ("list",), "kept.csv": ("csv",), "kept": ("parquet", "shards")}
    left = [name for name, forms in of.items() if form not in forms and (folder / name).exists()]
    return [
        f"{name} is of an earlier run with another --write: it may not agree with this one" for name in left
    ]
