"""Two things at once: a second process of the same run, whose results lie in the run's folder."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cliplet.errors import ClipletError

from .recipe import Settings


@contextmanager
def aside(settings: Settings, part: str) -> Iterator[None]:
    """While the block runs, ``Run.part`` runs in a process of its own; the block's end waits for it.

    With ``settings.processes`` of 1 it runs before the block, in this process.

    Raises:
        ClipletError: the other process failed; its own error has been printed.
    """
    if settings.processes < 2:
        _run(settings, part)
        yield
        return
    other = multiprocessing.get_context("spawn").Process(
        target=_in_process, args=(settings, part, os.getpid()), daemon=True
    )
    other.start()
    try:
        yield
        other.join()
    finally:
        other.terminate()
        other.join()
    if other.exitcode:
        raise ClipletError(
            f"{part} failed in its process (exit status {other.exitcode}); its error stands above"
        )


def share_cores(settings: Settings) -> None:
    """Threads for one of the run's processes."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // settings.processes))


def _in_process(settings: Settings, part: str, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _run(settings, part)


def _run(settings: Settings, part: str) -> Any:
    from .run import Run

    share_cores(settings)
    return getattr(Run(settings, claim=False), part)()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, so that a run that goes on meets no one else."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
