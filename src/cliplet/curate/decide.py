"""From measured parts to a verdict on every pair, in bounded memory whatever their number.

Rows are numbered through all parts. What needs other rows to be seen (repeats, copies, shares) goes through
:mod:`~cliplet.curate.spill`: records on disk, parted by hash, each file read alone.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from cliplet.curate.copies import (
    NEAR,
    SAME_BYTES,
    SAME_PAIR,
    SAME_PIXELS,
    VERDICT,
    find_copies,
    photo_records,
)
from cliplet.curate.rules import COLUMNS, Reason, Rules, own_reasons
from cliplet.curate.spill import Ranged, Spill, groups
from cliplet.files import whole

BINS = 1 << 20
"""Cells of the cosine, from -1 to 1, in which the top share is counted: exact to two millionths."""
MATCHES = tuple(i / 10 for i in range(1, 10))
SHARES = tuple(i / 10 for i in range(1, 10))
_REPEAT = np.dtype([("key", "u8"), ("more", "u8"), ("photo", "u8"), ("row", "i8")])
_ROW = np.dtype([("row", "i8"), ("n", "i8")])
_SAME = {
    SAME_BYTES: "the same bytes", SAME_PIXELS: "the same pixels", SAME_PAIR: "the same photo and caption",
}  # fmt: skip
_NAMED = np.dtype([*VERDICT.descr, ("name", "S480")])
DECIDED = pyarrow.schema(
    [
        ("kept", pyarrow.bool_()),
        (
            "reasons",
            pyarrow.list_(
                pyarrow.struct(
                    [
                        ("rule", pyarrow.string()),
                        ("why", pyarrow.string()),
                        ("of", pyarrow.string()),
                        ("row", pyarrow.int64()),
                    ]
                )
            ),
        ),
    ]
)
"""A verdict, in the order of the measured part."""

Progress = Callable[[str, int, int], None]


@dataclass
class Counts:
    """What was decided."""

    pairs: int = 0
    """All pairs."""
    kept: int = 0
    """Those that are kept."""
    rules: Counter[str] = field(default_factory=Counter)
    """Pairs that each rule removes, those that others remove too included."""
    only: Counter[str] = field(default_factory=Counter)
    """Pairs that this rule alone removes."""
    matches: dict[float, list[int]] = field(default_factory=dict)
    """Match to: pairs at or above it, and those of them that no other rule removes."""
    shares: dict[float, list[float]] = field(default_factory=dict)
    """Share to: its lowest cosine, its lowest match (NaN without one), and pairs that no other rule removes."""
    scored: int = 0
    """Pairs with a score."""
    clean: int = 0
    """Pairs that no rule but threshold and share removes."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know."""


class Measured:
    """Measured parts, their rows numbered through."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts = list(parts)
        sizes = [parquet.read_metadata(part).num_rows for part in self.parts]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def total(self) -> int:
        """All rows."""
        return int(self.starts[-1])

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, pyarrow.Table]]:
        """Number of the first row, and some columns, of each part."""
        for part, start in zip(self.parts, self.starts, strict=False):
            yield int(start), parquet.read_table(part, columns=list(columns))

    def place(self, row: int) -> tuple[int, int]:
        """Part and row in it."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return part, row - int(self.starts[part])


def decide(
    measured: Measured, rules: Rules, folder: Path, scratch: Path, progress: Progress | None = None
) -> Counts:
    """Write a verdict on every pair: ``part-00000.parquet`` of :data:`DECIDED` in ``folder`` for each measured part.

    Args:
        measured: the parts.
        rules: what is removed.
        folder: for the verdicts; made whole or not at all.
        scratch: folder for what is spilled; removed at the end.
        progress: called with (what is done, parts done, parts in all).
    """
    counts = Counts(pairs=measured.total)
    tell = progress or (lambda what, done, total: None)
    try:
        cells, repeated = _first_pass(measured, rules, scratch, tell)
        least = _share_cell(cells, rules.top_share)
        records = _photo_pass(measured, rules, least, repeated, scratch, tell)
        verdicts = find_copies(measured, records, rules, scratch, counts.notes, tell)
        named = _named(measured, verdicts, scratch, tell)
        with whole(folder) as part:
            part.mkdir(parents=True)
            _last_pass(measured, rules, (least, cells), repeated, named, part, counts, tell)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def part_name(number: int) -> str:
    """The file of a part's verdicts."""
    return f"part-{number:05d}.parquet"


def cells_of(cosine: NDArray[Any]) -> NDArray[np.int64]:
    """The cell of each cosine, -1 for NaN."""
    cells = np.clip((np.nan_to_num(cosine, nan=-1).astype(np.float64) + 1) / 2 * BINS, 0, BINS - 1)
    return np.where(np.isnan(cosine), -1, cells.astype(np.int64))


def _share_cell(cells: NDArray[np.int64], share: float | None) -> int:
    """The lowest cell that belongs to the top share: as many pairs as that, and those that equal the last."""
    if share is None or not cells.sum():
        return 0
    wanted = max(1, round(share * int(cells.sum())))
    return int(BINS - 1 - np.searchsorted(np.cumsum(cells[::-1]), wanted))


def _words(values: Any, start: int = 0) -> NDArray[np.uint64]:
    """8 bytes of each binary cell as a number, 0 for none."""
    return np.array([int.from_bytes(v[start : start + 8], "little") if v else 0 for v in values], np.uint64)


def _first_pass(
    measured: Measured, rules: Rules, scratch: Path, tell: Progress
) -> tuple[NDArray[np.int64], Spill]:
    """How many pairs stand in each cell of the cosine, and the rows whose captions repeat too often."""
    cells = np.zeros(BINS, dtype=np.int64)
    looked = rules.max_repeats and rules.applies("repeated")
    keys = Spill(scratch / "captions", _REPEAT, measured.total if looked else 0)
    for done, (start, table) in enumerate(measured.tables(["cosine", "caption_key", "photo"])):
        cosine = table["cosine"].to_numpy(zero_copy_only=False).astype(np.float32)
        found = cells_of(cosine)
        cells += np.bincount(found[found >= 0], minlength=BINS)
        if looked:
            captions = table["caption_key"].to_pylist()
            records = np.zeros(table.num_rows, _REPEAT)
            records["key"], records["more"] = _words(captions), _words(captions, 8)
            records["photo"] = _words(table["photo"].to_pylist())
            records["row"] = start + np.arange(table.num_rows)
            records = records[[key is not None for key in captions]]
            keys.by_hash(records["key"], records)
        tell("captions", done + 1, len(measured.parts))
    repeated = Spill(scratch / "repeated", _ROW, keys.count)
    for records in keys:
        records.sort(order=["key", "more", "photo"])
        both = records[["key", "more"]]
        for low, high in groups(both):
            n = len(np.unique(records["photo"][low:high]))
            if n > rules.max_repeats:
                rows = np.zeros(high - low, _ROW)
                rows["row"], rows["n"] = records["row"][low:high], n
                repeated.by_range(rows["row"], measured.total, rows)
    keys.close()
    return cells, repeated


def _photo_pass(
    measured: Measured, rules: Rules, least: int, repeated: Spill, scratch: Path, tell: Progress
) -> Spill:
    """A record of every pair whose photo was read, parted by the hash of its pixels."""
    columns = [*COLUMNS, "photo", "content", "pixels", "look", "caption_key"]
    records: Spill | None = None
    ranged = Ranged(repeated, "row", measured.total)
    for done, (start, table) in enumerate(measured.tables(columns)):
        rows = table.to_pylist()
        again = {int(row) for row in ranged.between(start, start + len(rows))["row"]}
        cells = cells_of(table["cosine"].to_numpy(zero_copy_only=False).astype(np.float32))
        good = np.array(
            [
                start + i not in again and (cells[i] >= least) and not own_reasons(row, rules)
                for i, row in enumerate(rows)
            ],
            dtype=bool,
        )
        found = photo_records(rows, start, good)
        if records is None:
            records = Spill(scratch / "photos", found.dtype, measured.total)
        records.by_hash(found["pixels"], found)
        tell("rules", done + 1, len(measured.parts))
    assert records is not None
    return records


def _named(measured: Measured, verdicts: Spill, scratch: Path, tell: Progress) -> Spill:
    """Verdicts with the names of what is kept in each pair's place, parted by the pair."""
    by_kept = Spill(scratch / "by_kept", VERDICT, verdicts.count)
    for records in verdicts:
        by_kept.by_range(records["of"], measured.total, records)
    named = Spill(scratch / "named", _NAMED, verdicts.count)
    ranged = Ranged(by_kept, "of", measured.total)
    if verdicts.count:
        for done, (start, table) in enumerate(measured.tables(["source", "image"])):
            found = ranged.between(start, start + table.num_rows)
            if len(found):
                records = np.zeros(len(found), _NAMED)
                for name in VERDICT.names or ():
                    records[name] = found[name]
                chosen = table.take(found["of"] - start).to_pylist()
                records["name"] = [pair_name(row).encode()[:480] for row in chosen]
                named.by_range(records["row"], measured.total, records)
            tell("names", done + 1, len(measured.parts))
    by_kept.close()
    return named


def pair_name(row: dict[str, Any]) -> str:
    """A pair's photo for people: its source and its name in it."""
    source, image = row["source"] or "", row["image"] or ""
    return image if not source or image.startswith(source) else f"{source}: {image}"


def _copy_reason(verdict: Any) -> Reason:
    name = bytes(verdict["name"]).decode("utf-8", "ignore")
    kind, row = int(verdict["kind"]), int(verdict["of"])
    if kind != NEAR:
        return Reason("duplicate", f"{_SAME[kind]} as {name}", name, row)
    how = f"cosine {verdict['cosine']:.3f}, {verdict['bits']} of 256 bits differ"
    return Reason("near", f"nearly {name} ({how})", name, row)


def _last_pass(
    measured: Measured,
    rules: Rules,
    share: tuple[int, NDArray[np.int64]],
    repeated: Spill,
    named: Spill,
    folder: Path,
    counts: Counts,
    tell: Progress,
) -> None:
    """Write every part's verdicts, and count."""
    least, all_cells = share
    again, copies = Ranged(repeated, "row", measured.total), Ranged(named, "row", measured.total)
    counts.scored = int(all_cells.sum())
    counts.matches = {value: [0, 0] for value in MATCHES}
    edges = {value: _share_cell(all_cells, value) for value in SHARES}
    counts.shares = {value: [cell * 2 / BINS - 1, float("nan"), 0] for value, cell in edges.items()}
    for number, (start, table) in enumerate(measured.tables(COLUMNS)):
        rows = table.to_pylist()
        cosine = table["cosine"].to_numpy(zero_copy_only=False).astype(np.float32)
        match = table["match"].to_numpy(zero_copy_only=False).astype(np.float32)
        cells = cells_of(cosine)
        reasons = [own_reasons(row, rules) for row in rows]
        for record in again.between(start, start + len(rows)):
            why = f"the same caption stands beside {record['n']} photos, more than {rules.max_repeats}"
            reasons[int(record["row"]) - start].append(Reason("repeated", why))
        for i in np.flatnonzero((cells >= 0) & (cells < least)) if rules.applies("share") else ():
            why = f"cosine {cosine[i]:.3f} is not in the top {rules.top_share:.0%}"
            reasons[i].append(Reason("share", why))
        for record in copies.between(start, start + len(rows)):
            reasons[int(record["row"]) - start].append(_copy_reason(record))
        _count(counts, reasons, match, cells, edges)
        verdicts = pyarrow.Table.from_pydict(
            {
                "kept": [not r for r in reasons],
                "reasons": [[r._asdict() for r in found] for found in reasons],
            },
            DECIDED,
        )
        parquet.write_table(verdicts, folder / part_name(number), compression="zstd")
        tell("verdicts", number + 1, len(measured.parts))


def _count(
    counts: Counts,
    reasons: Sequence[Sequence[Reason]],
    match: NDArray[np.float32],
    cells: NDArray[np.int64],
    edges: dict[float, int],
) -> None:
    names = [{reason.rule for reason in found} for found in reasons]
    for rules in names:
        counts.kept += not rules
        counts.rules.update(rules)
        if len(rules) == 1:
            counts.only.update(rules)
    clean = np.array([not rules - {"threshold", "share"} for rules in names], dtype=bool)
    counts.clean += int(clean.sum())
    for least, found in counts.matches.items():
        above = match >= least
        found[0] += int(above.sum())
        found[1] += int((above & clean).sum())
    for value, edge in edges.items():
        inside, row = cells >= edge, counts.shares[value]
        row[2] += int((inside & clean & (cells >= 0)).sum())
        lowest = match[inside & (match > 0)]
        if len(lowest):
            row[1] = float(np.nanmin([row[1], lowest.min()]))
