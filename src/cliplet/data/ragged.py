"""Rows of which items have different numbers, such as regions of photos and spans of captions: kept, and padded."""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError
from cliplet.files import write_atomically

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ragged:
    """Vectors of all items below each other."""

    rows: NDArray[np.float16]
    """``[R, d]``."""
    starts: NDArray[np.int64]
    """``[items + 1]``: item ``i`` has rows ``starts[i]`` to ``starts[i + 1]``."""

    @classmethod
    def of(cls, rows: NDArray[np.float16], counts: NDArray[np.int64]) -> "Ragged":
        """From the number of rows of each item ``[items]``."""
        return cls(rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def padded(self, items: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of some items ``[B, N, d]`` and which of them count ``[B, N]``.

        An item without any has one zero vector, which counts.
        """
        counts = np.maximum(self.starts[items + 1] - self.starts[items], 1)
        out = np.zeros((len(items), int(counts.max()), self.rows.shape[1]), dtype=np.float32)
        for i, item in enumerate(items):
            own = self.rows[self.starts[item] : self.starts[item + 1]]
            out[i, : len(own)] = own
        return out, np.arange(out.shape[1])[None] < counts[:, None]


def kept_blocks(
    folder: Path,
    items: int,
    step: int,
    compute: Callable[[int, int], Arrays],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Arrays]:
    """Arrays of many items, ``step`` items a file; a second call, or one after a kill, reads what is there.

    Args:
        folder: for the files; its name changes whenever a number would.
        items: how many.
        step: items a file.
        compute: the arrays of items ``start`` to ``stop``, by name.
        progress: called with items done and items in all.

    Raises:
        InputError: a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, items, step):
        stop = min(items, start + step)
        file = folder / f"{start:08d}.npz"
        if not file.exists():
            content = io.BytesIO()
            np.savez(content, **compute(start, stop))  # type: ignore[arg-type]
            write_atomically(file, content.getvalue())
        try:
            with np.load(file, allow_pickle=False) as loaded:
                arrays = dict(loaded)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{file} is damaged ({error}); remove it and run again") from error
        yield arrays
        if progress is not None:
            progress(stop, items)
