"""Records on disk, parted by a key, so that records of one key meet in memory whatever their number.

A sort or a join of more rows than memory holds: every record goes to one of a few files by its key, then each file is
read alone. Memory is one file's, about :data:`HELD`, unless one key alone has more records than that.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELD = 16 << 20
"""Bytes of records that are read together."""
MOST = 2048
"""Files, at most."""

Records = NDArray[Any]
"""A structured array."""


class Spill:
    """Records parted over files by a number."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], expected: int) -> None:
        """A new, empty one in ``folder``, for about ``expected`` records."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.dtype = folder, dtype
        self.files = int(np.clip(-(-expected * dtype.itemsize // HELD), 1, MOST))
        self.count = 0

    def add(self, places: NDArray[np.integer[Any]], records: Records) -> None:
        """Append records; those of one place (0 to ``files`` - 1) keep their order."""
        self.count += len(records)
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(self.files + 1))
        for place in np.unique(places):
            chosen = records[order[bounds[place] : bounds[place + 1]]]
            with open(self.folder / str(place), "ab") as file:
                file.write(chosen.tobytes())

    def by_hash(self, hashes: NDArray[np.uint64], records: Records) -> None:
        """Append records, parted by an evenly spread number."""
        self.add((hashes % np.uint64(self.files)).astype(np.int64), records)

    def by_range(self, numbers: NDArray[np.int64], total: int, records: Records) -> None:
        """Append records, parted by a number below ``total`` so that each file holds a range."""
        self.add(numbers * self.files // max(total, 1), records)

    def read(self, place: int) -> Records:
        """The records of one file."""
        path = self.folder / str(place)
        return np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)

    def __iter__(self) -> Iterator[Records]:
        for place in range(self.files):
            records = self.read(place)
            if len(records):
                yield records

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Ranged:
    """What :meth:`Spill.by_range` parted, read in growing order of the number by ranges: one file at a time."""

    def __init__(self, spill: Spill, field: str, total: int) -> None:
        self.spill, self.field, self.total = spill, field, total
        self.place, self.held = -1, np.empty(0, spill.dtype)

    def between(self, start: int, stop: int) -> Records:
        """The records whose number is in [start, stop), in its order."""
        total, files = max(self.total, 1), self.spill.files
        found = []
        for place in range(start * files // total, max(start, stop - 1) * files // total + 1):
            if place != self.place:
                self.place, self.held = place, self.spill.read(place)
                self.held.sort(order=self.field, kind="stable")
            low, high = np.searchsorted(self.held[self.field], [start, stop])
            found.append(self.held[low:high])
        return np.concatenate(found)


def groups(keys: NDArray[Any], above: int = 1) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of more than ``above`` equal keys, in sorted ``keys``."""
    if len(keys) <= above:
        return
    edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(keys)]
    several = stops - starts > above
    yield from zip(starts[several].tolist(), stops[several].tolist(), strict=True)
