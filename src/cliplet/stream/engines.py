"""Who runs the parts: this process, worker processes, or Ray; one scheduler for all of them.

A part whose process dies is tried again, at most :data:`ATTEMPTS` times in a run, then given up with a failure file.
A part that fails for a reason that will not change (a broken file) is given up at once.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cliplet.errors import ClipletError
from cliplet.stream.part import Counts, Work, failure_file, give_up, reason_of, run_part
from cliplet.stream.plan import Part

ATTEMPTS = 3
"""How often a part is tried."""
WAIT = 1.0
"""Seconds between two looks at the running parts."""


class Event(NamedTuple):
    """What became of a part that a worker was given."""

    part: Part
    """Which."""
    counts: Counts | None = None
    """Its counts; None where it failed."""
    reason: str = ""
    """Why it failed."""
    final: bool = False
    """Whether trying again is of no use."""


class Pool(Protocol):
    """Workers that run one part at a time each."""

    def free(self) -> bool:
        """Whether a worker waits for a part."""

    def give(self, part: Part) -> None:
        """Let a free worker run a part."""

    def wait(self, seconds: float) -> list[Event]:
        """What became of parts since the last call; waits for something to happen, at most so long.

        Raises:
            ClipletError: the workers cannot begin.
        """

    def waiting_for(self) -> str:
        """Why no worker is free though none runs a part; empty for no special reason."""

    def close(self) -> None:
        """End the workers."""


Tell = Callable[[set[int], str], None]
"""Takes the numbers of the running parts and what the pool waits for, now and then."""


def schedule(
    parts: Iterable[Part],
    pool: Pool,
    folder: Path,
    finished: Callable[[Part, Counts], None],
    tell: Tell,
) -> None:
    """Run parts on a pool until each is finished or given up."""
    queue, attempts = deque(parts), Counter[int]()
    running: dict[int, Part] = {}
    while queue or running:
        while queue and pool.free():
            part = queue.popleft()
            failure_file(folder, part).unlink(missing_ok=True)
            running[part.number] = part
            pool.give(part)
        for event in pool.wait(WAIT):
            running.pop(event.part.number)
            if event.counts is not None:
                finished(event.part, event.counts)
                continue
            attempts[event.part.number] += 1
            if event.final or attempts[event.part.number] >= ATTEMPTS:
                give_up(event.part, folder, event.reason, attempts[event.part.number])
            else:
                queue.append(event.part)  # behind the others: what killed it may be over by then
        tell(set(running), pool.waiting_for())


def outcome(part: Part, folder: Path, form: str, work: Work, compute: Any) -> Event:
    """Run a part; whatever goes wrong is told, not raised."""
    try:
        return Event(part, run_part(part, folder, form, work, compute))
    except ClipletError as error:
        return Event(part, None, reason_of(error), final=True)
    except Exception as error:
        return Event(part, None, reason_of(error))


# ---------------------------------------------------------------- this process
class Here:
    """A pool of one: this process. A part that kills it cannot be counted, so this is for a caller who knows them."""

    def __init__(self, work: Work, folder: Path, form: str) -> None:
        self.work, self.folder, self.form = work, folder, form
        self.compute = work.begin()
        self.event: Event | None = None

    def free(self) -> bool:
        """Between two parts."""
        return self.event is None

    def give(self, part: Part) -> None:
        """Run it."""
        self.event = outcome(part, self.folder, self.form, self.work, self.compute)

    def wait(self, seconds: float) -> list[Event]:
        """What became of it."""
        found, self.event = self.event, None
        return [] if found is None else [found]

    def waiting_for(self) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing."""


# ---------------------------------------------------------------- worker processes
class Processes:
    """Worker processes of this machine, each with a model of its own; one that dies is replaced."""

    def __init__(self, count: int, work: Work, folder: Path, form: str) -> None:
        self.count, self.arguments = count, (work, folder, form)
        self.workers: dict[Any, _Worker] = {}
        self.deaths = 0
        """In a row, before a part was begun."""

    def free(self) -> bool:
        """Whether one waits, or there are fewer than there may be."""
        return any(w.part is None for w in self.workers.values()) or len(self.workers) < self.count

    def give(self, part: Part) -> None:
        """Send the part to one that waits, or to a new one."""
        idle = next((w for w in self.workers.values() if w.part is None), None)
        if idle is None:
            idle = _Worker(self.arguments)
            self.workers[idle.pipe] = idle
        idle.part = part
        with suppress(OSError):  # it has died: wait() says so
            idle.pipe.send(part)

    def wait(self, seconds: float) -> list[Event]:
        """Messages of the workers; a closed pipe is a death."""
        found = []
        for pipe in connection.wait(list(self.workers), seconds):
            worker = self.workers[pipe]
            try:
                message: Any = worker.pipe.recv()
            except (EOFError, OSError):
                del self.workers[pipe]
                found += self._died(worker)
                continue
            if isinstance(message, ClipletError):
                raise message
            if message is None:  # it has begun
                self.deaths, worker.began = 0, True
            else:
                worker.part = None
                found.append(message)
        return found

    def _died(self, worker: "_Worker") -> list[Event]:
        code = worker.end()
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        if not worker.began:
            self.deaths += 1
            if self.deaths >= ATTEMPTS:
                raise ClipletError(
                    f"worker processes end with {how} while they load the model: see what is above"
                )
        return [] if worker.part is None else [Event(worker.part, None, f"its process ended with {how}")]

    def waiting_for(self) -> str:
        """Nothing: a process is always to be had."""
        return ""

    def close(self) -> None:
        """Close the pipes, upon which workers end, and end those that do not."""
        for worker in self.workers.values():
            worker.pipe.close()
        for worker in self.workers.values():
            worker.process.join(5)
            worker.end()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, arguments: tuple[Work, Path, str]) -> None:
        context = get_context("spawn")  # a fork would inherit threads of the model's library
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *arguments, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.part: Part | None = None
        self.began = False

    def end(self) -> int | None:
        """Kill what still runs; its exit code."""
        self.process.join(0.5)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def _work(pipe: Any, work: Work, folder: Path, form: str, parent: int) -> None:
    """A worker process: begin, then run parts until the pipe is closed."""
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    set_threads(work.threads)
    try:
        compute = work.begin()
    except ClipletError as error:
        pipe.send(error)
        return
    try:
        pipe.send(None)
        while True:
            pipe.send(outcome(pipe.recv(), folder, form, work, compute))
    except (EOFError, OSError):
        return


def _end_with(parent: int) -> None:
    """End this process soon after the driver has ended, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def set_threads(threads: int) -> None:
    """Tell libraries that are not imported yet how many threads they may use, and pyarrow not to hoard memory."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own pool keeps what it once had


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
