"""A stream from its plan to its parts: begin, go on after an interruption, and refuse what is another run."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.files import writable_folder
from cliplet.stream.engines import Here, Pool, Processes, schedule
from cliplet.stream.part import PARTS, Work, failure_file, failures, need_pyarrow, part_file
from cliplet.stream.plan import Part, Plan, check_same, read_plan, write_plan
from cliplet.stream.progress import Progress
from cliplet.stream.sources import Source

LOCK = ".lock"


@dataclass(frozen=True)
class Finished:
    """What a run has left in its folder."""

    folder: Path
    """The output folder."""
    plan: Plan
    """Its parts."""
    form: str
    """Of the parts' files."""
    failed: Mapping[int, str]
    """Parts that were given up, and why."""
    before: int
    """Parts that were there when the run began."""

    def files(self) -> list[Path]:
        """The parts' files that are there, in order."""
        files = (part_file(self.folder, part, self.form) for part in self.plan)
        return [file for file in files if file.exists()]


def run(
    plan: Callable[[], Plan],
    sources: Sequence[Source],
    settings: Mapping[str, Any],
    work: Work,
    folder: str | Path,
    *,
    form: str = "parquet",
    engine: str = "local",
    workers: int = 1,
    retry_failed: bool = False,
    quiet: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Finished:
    """Do a work on all parts that are not done yet.

    Args:
        plan: makes the plan where the folder has none; it must have these sources and settings.
        sources: the files, as :func:`cliplet.stream.sources.find_sources` finds them now.
        settings: what the parts' contents depend on besides, plain JSON; a folder with others is refused.
        work: what is done with a part; picklable.
        folder: the output folder; with Ray one that all its machines share under this path.
        form: ``parquet`` or ``jsonl``.
        engine: ``local`` or ``ray``.
        workers: processes; 0 for this process alone (local) or for one a core (Ray).
        retry_failed: try parts again that an earlier run gave up.
        quiet: no progress.
        prepare: called before parts are done, alone in the folder: makes what they share.

    Raises:
        InputError: the folder holds another run, or another process works in it.
        MissingExtraError: pyarrow or Ray is not installed.
    """
    need_pyarrow()
    folder = writable_folder(folder)
    with alone(folder):
        settings = {**settings, "form": form}
        going_on = begun(folder)
        known = read_plan(folder) if going_on else None
        if known is None and going_on:
            raise InputError(
                f"{folder} holds parts without the plan.json that they belong to: delete {folder / PARTS}, or name "
                "another --out"
            )
        if known is None:
            known = plan()
            known = Plan(known.sources, known.cuts, settings)
            write_plan(known, folder)
        else:
            check_same(known, sources, settings, folder)
            known = Plan(list(sources), known.cuts, known.settings)  # their paths may be others now
        writable_folder(folder / PARTS)
        _clear(folder)
        left = _left(known, folder, form, retry_failed)
        progress = Progress(known, sum(part_file(folder, p, form).exists() for p in known), folder, quiet)
        before = progress.done
        if left:
            if prepare is not None:
                prepare()
            pool = ENGINES[engine](workers, work, folder.absolute(), form, len(left))
            try:
                schedule(left, pool, folder, progress.finished, progress.tell)
            finally:
                pool.close()
                _clear(folder)
            progress.close()
        return Finished(folder, known, form, failures(folder), before)


def begun(folder: Path) -> bool:
    """Whether a run has left something worth keeping; one that could not begin, or was ended at once, has not."""
    return any((folder / PARTS).glob("part-*")) or bool(failures(folder))


def _left(plan: Plan, folder: Path, form: str, retry_failed: bool) -> list[Part]:
    return [
        part
        for part in plan
        if not part_file(folder, part, form).exists()
        and (retry_failed or not failure_file(folder, part).exists())
    ]


def _clear(folder: Path) -> None:
    """Remove what killed processes have left half-written."""
    for path in (folder / PARTS).glob(".part-*"):
        path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two runs do not do the same parts; the system lets go of it when a process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs would do work twice, and write the same files
        yield
        return
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is at work in {folder}: wait for it, or name another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def _processes(workers: int, work: Work, folder: Path, form: str, most: int) -> Pool:
    return Processes(min(workers, most), work, folder, form) if workers else Here(work, folder, form)


def _ray(workers: int, work: Work, folder: Path, form: str, most: int) -> Pool:
    from cliplet.stream.ray import RayPool

    return RayPool(workers, work, folder, form, most)


ENGINES: Mapping[str, Callable[[int, Work, Path, str, int], Pool]] = {"local": _processes, "ray": _ray}
"""Makes a pool of so many workers for so many parts, by the engine's name."""
