"""Copies among all photos: the same pixels first, then near ones, found across parts in bounded memory.

Photos with the same pixels meet in a file parted by their hash. One of each is a *representative*; near copies are
looked for among these alone: embeddings, centred, fall to either side of random planes (Charikar 2002, "Similarity
estimation techniques from rounding algorithms"), and two that agree on all planes of any band are compared, first by
their difference hashes, then by the cosine of their embeddings.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.curate.near import Vectors, near_pairs
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


BATCH = 4096
"""Verdicts written together."""


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
        moved = _near_copies(measured, reps, rules, scratch, verdicts, notes, tell)
        return _followed(verdicts, moved, scratch)
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
    notes: list[str],
    tell: Callable[[str, int, int], None],
) -> NDArray[Any]:
    """Verdicts on the rows of representatives that are near better ones; returns one for each by its best row."""
    n = 0
    with open(scratch / "sorted", "wb") as file:
        for records in spilled:
            records = np.sort(records[records["seen"] > 0], order="row")
            file.write(records.tobytes())
            n += len(records)
    spilled.close()
    if n < 2:
        return np.empty(0, VERDICT)
    reps = np.memmap(scratch / "sorted", REP, "r", shape=(n,))
    vectors = _vectors(measured, reps, scratch, tell)
    edges = near_pairs(reps, vectors, rules, scratch, notes, tell)
    listed = np.memmap(scratch / "rows", np.int64, "r")
    settled = settle(reps, edges)
    moved = np.zeros(len(settled), VERDICT)
    gone: list[NDArray[Any]] = []
    for i, (worse, better, cosine, bits) in enumerate(settled):
        rows = listed[reps["start"][worse] : reps["start"][worse] + reps["count"][worse]]
        found = np.zeros(len(rows), VERDICT)
        found["row"], found["of"], found["kind"] = rows, reps["best"][better], NEAR
        found["cosine"], found["bits"] = cosine, bits
        gone.append(found)
        moved[i] = (reps["best"][worse], reps["best"][better], NEAR, cosine, bits)
        if len(gone) == BATCH or i + 1 == len(settled):
            together = np.concatenate(gone)
            verdicts.by_hash(together["row"].astype(np.uint64), together)
            gone = []
    return moved


def _followed(verdicts: Spill, moved: NDArray[Any], scratch: Path) -> Spill:
    """The verdicts, where a copy of a photo that gave way to a near one gives way to that too."""
    moved.sort(order="row")
    followed = Spill(scratch / "followed", VERDICT, verdicts.count)
    for records in verdicts:
        if len(moved):
            at = np.minimum(np.searchsorted(moved["row"], records["of"]), len(moved) - 1)
            hit = (moved["row"][at] == records["of"]) & (records["kind"] != SAME_PAIR)
            for name in ("of", "kind", "cosine", "bits"):
                records[name][hit] = moved[name][at[hit]]
        followed.by_hash(records["row"].astype(np.uint64), records)
    verdicts.close()
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


def settle(reps: NDArray[Any], edges: NDArray[Any]) -> list[tuple[int, int, float, int]]:
    """Who gives way to whom: the best are kept first, and what is near a kept one goes.

    Returns:
        (representative that goes, the one kept in its place, cosine, bits), both by position.
    """
    if not len(edges):
        return []
    a, b = reps[edges["a"]], reps[edges["b"]]
    swap = _before(b, a)
    better, worse = np.where(swap, edges["b"], edges["a"]), np.where(swap, edges["a"], edges["b"])
    ranks = reps[worse]
    order = np.lexsort((-edges["cosine"], ranks["row"], -ranks["cosine"], 1 - ranks["good"]))
    gone: dict[int, tuple[int, int, float, int]] = {}
    for i in order.tolist():
        w, k = int(worse[i]), int(better[i])
        if w not in gone and k not in gone:
            gone[w] = (w, k, float(edges["cosine"][i]), int(edges["bits"][i]))
    return list(gone.values())


def _before(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of ``a`` ranks before its ``b``."""
    same_good, same_cosine = a["good"] == b["good"], a["cosine"] == b["cosine"]
    by_row = same_cosine & (a["row"] < b["row"])
    return np.asarray((a["good"] > b["good"]) | (same_good & ((a["cosine"] > b["cosine"]) | by_row)))
