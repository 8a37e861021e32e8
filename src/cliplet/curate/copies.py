"""Copies among all photos: the same pixels first, then near ones, found across parts in bounded memory.

Photos with the same pixels meet in a file parted by their hash. One of each is a *representative*; near copies are
looked for among these alone: embeddings, centred, fall to either side of random planes (Charikar 2002, "Similarity
estimation techniques from rounding algorithms"), and two that agree on all planes of any band are compared, first by
their difference hashes, then by the cosine of their embeddings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.curate.near import EDGE, Vectors, near_pairs
from cliplet.curate.rules import Rules
from cliplet.curate.spill import Spill

SAME_BYTES, SAME_PIXELS, SAME_PAIR, NEAR = range(4)
VERDICT = np.dtype([("row", "i8"), ("of", "i8"), ("kind", "u1"), ("cosine", "f4"), ("bits", "u2")])
"""A pair that gives way to another."""
PHOTO = np.dtype(
    [
        ("pixels", "u8"), ("more", "u8"), ("caption", "u8"), ("photo", "u8"), ("content", "u8"), ("row", "i8"),
        ("cosine", "f4"), ("good", "u1"), ("seen", "u1"), ("look", "u8", 4),
    ]
)  # fmt: skip
"""A pair with a photo: hashes; its row; its cosine (-2: none); whether no other rule removes it; whether it has a
difference hash."""
REP = np.dtype(
    [
        ("row", "i8"), ("start", "i8"), ("count", "i8"), ("best", "i8"), ("caption", "u8"), ("cosine", "f4"),
        ("good", "u1"), ("seen", "u1"), ("look", "u8", 4),
    ]
)  # fmt: skip
"""A representative: its first row, where its rows are listed, its best row, and what ranks it."""


BATCH = 1 << 16
"""Pairs of near copies that are looked at together."""
SPLITS = 1 << 16
"""Representatives whose ranks say how pairs are parted to be sorted."""


class Parts(Protocol):
    """Measured parts, as :class:`cliplet.curate.decide.Measured`."""

    parts: list[Path]

    @property
    def total(self) -> int:
        """All rows."""
        ...

    def tables(self, columns: Sequence[str]) -> Any:
        """First row and some columns of each part."""
        ...


def photo_records(rows: Sequence[Mapping[str, Any]], start: int, good: NDArray[np.bool_]) -> NDArray[Any]:
    """The record of every row whose photo was read."""
    records = np.zeros(len(rows), PHOTO)
    records["row"], records["good"] = start + np.arange(len(rows)), good
    for name, column, at in (
        ("pixels", "pixels", 0), ("more", "pixels", 8), ("caption", "caption_key", 0), ("photo", "photo", 0),
        ("content", "content", 0),
    ):  # fmt: skip
        records[name] = [int.from_bytes((row[column] or b"")[at : at + 8], "little") for row in rows]
    records["cosine"] = [-2 if row["cosine"] is None else row["cosine"] for row in rows]
    records["seen"] = [row["look"] is not None for row in rows]
    looks = b"".join(row["look"] or bytes(32) for row in rows)
    records["look"] = np.frombuffer(looks, dtype="<u8").reshape(-1, 4)  # of no photo too
    return records[[row["pixels"] is not None for row in rows]]


def find_copies(
    measured: Parts,
    records: Spill,
    rules: Rules,
    scratch: Path,
    notes: list[str],
    tell: Callable[[str, int, int], None],
) -> Spill:
    """Every pair that gives way to another pair, as :data:`VERDICT`; removes ``records``."""
    verdicts = Spill(scratch / "verdicts", VERDICT, records.count)
    if rules.duplicates == "keep":
        records.close()
        return verdicts
    reps = Spill(scratch / "reps", REP, records.count)
    with open(scratch / "rows", "wb") as listed:
        for i, found in enumerate(records):
            representatives, gone, rows = exact_copies(found, rules.duplicates == "pairs", listed.tell() // 8)
            listed.write(rows.tobytes())
            reps.by_range(representatives["row"], measured.total, representatives)
            if rules.applies("duplicate"):
                verdicts.by_hash(gone["row"].astype(np.uint64), gone)
            tell("copies", i + 1, records.files)
    records.close()
    if rules.near_duplicates and rules.applies("near"):
        moved = Spill(scratch / "moved", VERDICT, measured.total)
        _near_copies(measured, reps, rules, scratch, verdicts, moved, notes, tell)
        return _followed(verdicts, moved, scratch, measured.total)
    return verdicts


def exact_copies(
    records: NDArray[Any], pairs: bool, offset: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Representatives, verdicts, and the representatives' rows one after another, of photos whose hashes meet here.

    ``pairs``: copies give way only where the caption is the same; ``offset``: rows listed before these.
    """
    keys = ["pixels", "more", "caption"] if pairs else ["pixels", "more"]
    records = records[np.lexsort((records["row"], *(records[key] for key in reversed(keys))))]
    if not len(records):
        return np.empty(0, REP), np.empty(0, VERDICT), np.empty(0, np.int64)
    changed = np.zeros(len(records) - 1, dtype=bool)
    for key in keys:
        changed |= records[key][1:] != records[key][:-1]
    starts = np.r_[0, np.flatnonzero(changed) + 1]
    stops = np.r_[starts[1:], len(records)]
    reps = np.zeros(len(starts), REP)
    verdicts: list[tuple[Any, ...]] = []
    rows: list[NDArray[np.int64]] = []
    at = offset
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        group = records[start:stop]
        kept = group if stop - start == 1 else _settled(group, verdicts)
        best = kept[0] if len(kept) == 1 else kept[_first(kept)]
        rep = reps[i]
        rep["row"], rep["best"], rep["start"], rep["count"] = kept["row"].min(), best["row"], at, len(kept)
        for name in ("cosine", "good", "seen", "caption", "look"):
            rep[name] = best[name]
        rows.append(kept["row"])
        at += len(kept)
    gone = np.array(verdicts, VERDICT) if verdicts else np.empty(0, VERDICT)
    return reps, gone, np.concatenate(rows)


def _first(group: NDArray[Any]) -> int:
    """The row that goes before the others: one that no other rule removes, the best-scored, the first."""
    return int(np.lexsort((group["row"], -group["cosine"], 1 - group["good"]))[0])


def _settled(group: NDArray[Any], verdicts: list[tuple[Any, ...]]) -> NDArray[Any]:
    """The rows of the photo that is kept of a group of copies; verdicts on the others are appended."""
    best = group[_first(group)]
    own = group["photo"] == best["photo"]
    for row in group[~own]:
        kind = SAME_BYTES if row["content"] == best["content"] else SAME_PIXELS
        verdicts.append((row["row"], best["row"], kind, 1.0, 0))
    kept = group[own]
    if len(kept) > 1:
        order = np.lexsort((kept["row"], 1 - kept["good"], kept["caption"]))
        first = kept[order[0]]
        for row in kept[order[1:]]:
            if row["caption"] and row["caption"] == first["caption"]:
                verdicts.append((row["row"], first["row"], SAME_PAIR, 1.0, 0))
            else:
                first = row
    return kept


def _near_copies(
    measured: Parts,
    spilled: Spill,
    rules: Rules,
    scratch: Path,
    verdicts: Spill,
    moved: Spill,
    notes: list[str],
    tell: Callable[[str, int, int], None],
) -> None:
    """Verdicts on rows of representatives that are near better ones; ``moved`` gets one for each, by its best row."""
    n = 0
    with open(scratch / "sorted", "wb") as file:
        for records in spilled:
            records = np.sort(records[records["seen"] > 0], order="row")
            file.write(records.tobytes())
            n += len(records)
    spilled.close()
    if n < 2:
        return
    reps = np.memmap(scratch / "sorted", REP, "r", shape=(n,))
    vectors = _vectors(measured, reps, scratch, tell)
    edges = near_pairs(reps, vectors, rules, scratch, notes, tell)
    listed = np.memmap(scratch / "rows", np.int64, "r")
    for settled in settle(reps, edges, scratch):
        worse, better = reps[settled["a"]], reps[settled["b"]]
        of_each = np.zeros(len(settled), VERDICT)
        of_each["row"], of_each["of"], of_each["kind"] = worse["best"], better["best"], NEAR
        of_each["cosine"], of_each["bits"] = settled["cosine"], settled["bits"]
        moved.by_hash(of_each["row"].astype(np.uint64), of_each)
        found = np.repeat(of_each, worse["count"])
        found["row"] = np.concatenate(
            [
                listed[start : start + count]
                for start, count in zip(worse["start"], worse["count"], strict=True)
            ]
        )
        verdicts.by_hash(found["row"].astype(np.uint64), found)


def _followed(verdicts: Spill, moved: Spill, scratch: Path, total: int) -> Spill:
    """The verdicts, where a copy of a photo that gave way to a near one gives way to that too."""
    by_kept = Spill(scratch / "by_moved", VERDICT, total)  # parted as ``moved`` is, so that both meet
    for records in verdicts:
        by_kept.by_hash(records["of"].astype(np.uint64), records)
    verdicts.close()
    followed = Spill(scratch / "followed", VERDICT, by_kept.count)
    for place in range(by_kept.files):
        records, gone = by_kept.read(place), np.sort(moved.read(place), order="row")
        if len(gone) and len(records):
            at = np.minimum(np.searchsorted(gone["row"], records["of"]), len(gone) - 1)
            hit = (gone["row"][at] == records["of"]) & (records["kind"] != SAME_PAIR)
            for name in ("of", "kind", "cosine", "bits"):
                records[name][hit] = gone[name][at[hit]]
        followed.by_hash(records["row"].astype(np.uint64), records)
    by_kept.close()
    moved.close()
    return followed


def _vectors(
    measured: Parts, reps: NDArray[Any], scratch: Path, tell: Callable[[str, int, int], None]
) -> Vectors:
    """The representatives' embeddings in their order, in a file; zeros where the model gave none."""
    at, width = 0, 0
    with open(scratch / "vectors", "wb") as file:
        for done, (start, table) in enumerate(measured.tables(["embedding"])):
            stop = at + int(np.searchsorted(reps["row"][at:], start + table.num_rows))
            for cell in table["embedding"].take(reps["row"][at:stop] - start).to_pylist():
                if cell is not None and not width:
                    width = len(cell)
                    file.write(bytes(width * at))
                at += 1
                if width:
                    file.write(cell or bytes(width))
            tell("embeddings", done + 1, len(measured.parts))
        if not width:
            width = 2
            file.write(bytes(width * at))
    return Vectors(scratch / "vectors", at, width // 2)


def settle(reps: NDArray[Any], edges: Spill, scratch: Path) -> Iterator[NDArray[Any]]:
    """Who gives way to whom: the best are kept first, and what is near a kept one goes; removes ``edges``.

    Yields:
        :data:`EDGE` with ``a`` the representative that goes and ``b`` the one kept in its place, by position.
    """
    ranked = Spill(scratch / "ranked", EDGE, edges.count)
    some = np.sort(_rank(reps[:: max(1, len(reps) // SPLITS)]))
    splits = some[[len(some) * i // ranked.files for i in range(1, ranked.files)]]
    for found in edges:
        found = np.unique(found)
        for start in range(0, len(found), BATCH):
            block = found[start : start + BATCH]
            a, b = reps[block["a"]], reps[block["b"]]
            swap = _before(a, b)
            block["a"], block["b"] = (
                np.where(swap, block["b"], block["a"]),
                np.where(swap, block["a"], block["b"]),
            )
            ranked.add(np.searchsorted(splits, _rank(np.where(swap, b, a)), side="right"), block)
    edges.close()
    gone = np.memmap(scratch / "gone", np.bool_, "w+", shape=(len(reps),))
    for records in ranked:  # those of the best that may go first
        ranks = np.concatenate(
            [_rank(reps[records["a"][i : i + BATCH]]) for i in range(0, len(records), BATCH)]
        )
        order = np.lexsort((records["b"], -records["cosine"], records["a"], ranks))
        settled = []
        for i, worse, better in zip(
            order.tolist(), records["a"][order].tolist(), records["b"][order].tolist(), strict=True
        ):
            if not gone[worse] and not gone[better]:
                gone[worse] = True
                settled.append(i)
        for start in range(0, len(settled), BATCH):
            yield records[settled[start : start + BATCH]]
    ranked.close()


def _rank(reps: NDArray[Any]) -> NDArray[np.uint64]:
    """A number that is the smaller the better a representative is, but for equals, of which the first is better."""
    bits = np.ascontiguousarray(reps["cosine"]).view(np.uint32)
    growing = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return ((1 - reps["good"].astype(np.uint64)) << np.uint64(32)) | (~growing).astype(np.uint64)


def _before(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of ``a`` ranks before its ``b``."""
    same_good, same_cosine = a["good"] == b["good"], a["cosine"] == b["cosine"]
    by_row = same_cosine & (a["row"] < b["row"])
    return np.asarray((a["good"] > b["good"]) | (same_good & ((a["cosine"] > b["cosine"]) | by_row)))
