"""The queue and its workers: one thread a core, each taking what waits, decoding it and running both towers itself.

There is no batcher and no barrier: while one worker is in its last tower, another decodes.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cliplet.encoders.base import BaseEncoder
from cliplet.serve.inference import Done, Inference, Work
from cliplet.serve.metrics import Metrics

TOGETHER = 5
"""Requests that a worker takes at once, at most."""
PHOTOS_TOGETHER = 16
"""Their photos, at most (one request may have more)."""
TEXTS_TOGETHER = 128
"""Their texts, likewise."""


class Overdue(Exception):
    """A request waited longer than it may."""


class Closed(Exception):
    """The service shuts down and takes nothing more."""


@dataclass(eq=False)
class Job:
    """One request in the queue: a batchable ``work``, or a ``call`` that has a worker for itself."""

    loop: asyncio.AbstractEventLoop
    deadline: float
    """When it must be done, by ``time.monotonic``."""
    work: Work | None = None
    call: Callable[[], Any] | None = None
    future: "asyncio.Future[Any]" = field(init=False)
    gone: bool = False
    """Whether nobody waits for the answer any more."""

    def __post_init__(self) -> None:
        self.future = self.loop.create_future()

    @property
    def size(self) -> tuple[int, int]:
        """Photos and texts."""
        if self.work is None:
            return PHOTOS_TOGETHER, TEXTS_TOGETHER
        return len(self.work.photos), len(self.work.texts) + len(self.work.references or ())

    def finish(self, outcome: Any) -> None:
        """Give the outcome, or an exception, to whoever waits; from any thread."""
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self.loop.call_soon_threadsafe(self._set, outcome)

    def _set(self, outcome: Any) -> None:
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Workers:
    """Threads that work on a queue of requests; how many may wait is the admission's affair.

    Args:
        encoder: the model.
        count: threads; 0: as many as the model takes at a time.
        max_pixels: larger photos are refused before they are decoded.
        metrics: where batches are counted.
    """

    def __init__(self, encoder: BaseEncoder, count: int, max_pixels: int, metrics: Metrics) -> None:
        self.encoder, self.metrics, self.max_pixels = encoder, metrics, max_pixels
        self.count = count or encoder.tower_threads
        self._waiting: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for i in range(self.count):
            thread = threading.Thread(target=self._work, name=f"cliplet-worker-{i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Finish what was taken, then end the threads."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    async def do(self, work: Work, seconds: float) -> Done:
        """One request's outcome.

        Raises:
            Overdue: it was not done within ``seconds``.
            InputError: its photo cannot be used.
        """
        return await self._wait(
            Job(asyncio.get_running_loop(), time.monotonic() + seconds, work=work), seconds
        )  # type: ignore[no-any-return]

    async def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """What ``function()`` gives, on a worker of its own turn."""
        return await self._wait(
            Job(asyncio.get_running_loop(), time.monotonic() + seconds, call=function), seconds
        )

    async def _wait(self, job: Job, seconds: float) -> Any:
        with self._ready:
            if self._closed:
                raise Closed
            self._waiting.append(job)
            self._ready.notify()
        try:
            async with asyncio.timeout(seconds):
                return await job.future
        except TimeoutError:
            raise Overdue from None
        finally:
            job.gone = True  # also where the client went away and the task was cancelled

    def _work(self) -> None:
        inference = Inference(self.encoder, self.max_pixels)
        while jobs := self._take():
            self.metrics.batch.observe(len(jobs))
            if jobs[0].call is not None:
                jobs[0].finish(_outcome(jobs[0].call))
            else:
                self._run(inference, jobs)

    def _run(self, inference: Inference, jobs: list[Job]) -> None:
        works = [job.work for job in jobs if job.work is not None]
        outcome = _outcome(lambda: inference.run(works))
        if isinstance(outcome, BaseException):
            if len(jobs) > 1:  # one of them spoils it for the others
                for job in jobs:
                    self._run(inference, [job])
                return
            outcome = [outcome]
        for job, own in zip(jobs, outcome, strict=True):
            job.finish(own)
        self.metrics.photos.inc(sum(len(work.photos) for work in works))
        self.metrics.texts.inc(sum(len(work.texts) for work in works))

    def _take(self) -> list[Job]:
        """The next jobs that go together; none when the service is closed and nothing waits."""
        with self._ready:
            while True:
                taken = self._pop()
                if taken or self._closed:
                    return taken
                self._ready.wait()

    def _pop(self) -> list[Job]:
        taken: list[Job] = []
        photos = texts = 0
        while self._waiting and len(taken) < TOGETHER:
            job = self._waiting[0]
            if job.gone or job.deadline < time.monotonic():
                self._waiting.popleft()
                self.metrics.dropped.labels("gone" if job.gone else "overdue").inc()
                job.finish(Overdue())
                continue
            more_photos, more_texts = job.size
            photos, texts = photos + more_photos, texts + more_texts
            if taken and (photos > PHOTOS_TOGETHER or texts > TEXTS_TOGETHER or job.call or taken[0].call):
                break
            taken.append(self._waiting.popleft())
        return taken


def _outcome(function: Callable[[], Any]) -> Any:
    """What a function gives, or the exception that it raises."""
    try:
        return function()
    except Exception as error:
        return error
