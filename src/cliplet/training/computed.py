"""Rows computed once and kept in a file: goes on after a kill, and several processes may ask for the same."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cliplet.errors import InputError
from cliplet.training.logs import Progress


def computed(
    file: Path,
    rows: int,
    compute: Callable[[int, int], NDArray[Any]],
    step: int,
    dtype: DTypeLike = np.float32,
    what: str = "",
    silent: bool = False,
) -> NDArray[Any]:
    """Rows computed once, ``step`` at a time, into a memory-mapped file; an interrupted computation goes on.

    Where another process computes the same file, this one waits for it, and goes on in its place if it ends early.

    Args:
        file: ``.npy``; its name holds a key that changes whenever a row would.
        rows: how many.
        compute: gives rows ``start`` to ``stop``: ``[stop - start, ...]``.
        step: rows between two savings of the state.
        dtype: of the file.
        what: for the progress line and in errors.
        silent: show no progress.

    Returns:
        ``[rows, ...]``, read-only, on disk.

    Raises:
        InputError: there are no rows, the file is damaged, or its folder knows no locks.
    """
    what = what or file.stem
    if rows < 1:
        raise InputError(f"{what}: there is nothing to compute")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with alone(file.with_suffix(".lock"), what):
            if not file.exists():
                _compute(file, rows, compute, step, dtype, Progress(what, rows, silent))
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file} is damaged ({error}); remove it and run again") from error
    if len(found) != rows:
        raise InputError(f"{file} has {len(found)} rows instead of {rows}; remove it and run again")
    return found


def _compute(file: Path, rows: int, compute: Any, step: int, dtype: DTypeLike, bar: Progress) -> None:
    """Fill the part file from where it stands and give it its name."""
    part, state = file.with_suffix(".part"), file.with_suffix(".json")
    done = _rows_done(part, state)
    bar.start = done
    out: Any = np.lib.format.open_memmap(part, mode="r+") if done else None
    for start in range(done, rows, step):
        stop = min(rows, start + step)
        block = compute(start, stop)
        if out is None:
            out = np.lib.format.open_memmap(part, "w+", np.dtype(dtype), (rows, *block.shape[1:]))
        out[start:stop] = block
        out.flush()
        temporary = state.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": stop}))
        os.replace(temporary, state)
        bar.update(stop)
    del out  # Windows renames no file that is open
    os.replace(part, file)
    state.unlink(missing_ok=True)


def _rows_done(part: Path, state: Path) -> int:
    """Rows of an interrupted computation."""
    if not (part.exists() and state.exists()):
        return 0
    try:
        return int(json.loads(state.read_text())["done"])
    except (ValueError, KeyError):
        return 0


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """One process at a time is inside the block; the system frees the lock when a process dies."""
    while True:
        stream = path.open("ab")
        try:
            if not _lock(stream, wait=False):
                print(f"{what}: another process computes this; waiting for it", file=sys.stderr, flush=True)
                _lock(stream, wait=True)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    break  # else whoever had it has removed the file that we waited for
        except OSError as error:
            stream.close()
            raise InputError(f"{path.parent} knows no locks ({error}); keep it on another disk") from error
        except BaseException:
            stream.close()
            raise
        stream.close()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        stream.close()


def _lock(stream: IO[bytes], wait: bool) -> bool:
    """Lock an open file; False where another process has the lock and this one shall not wait."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_on_windows(stream, wait)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(stream: IO[bytes], wait: bool) -> bool:
    import msvcrt
    import time

    module: Any = msvcrt
    while True:
        try:
            stream.seek(0)
            module.locking(stream.fileno(), module.LK_NBLCK, 1)
            return True
        except OSError:
            if not wait:
                return False
            time.sleep(0.2)
