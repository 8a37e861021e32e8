"""What a stream says while it runs: parts done, rows a second, time left, the slowest running part and why."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from cliplet.stream.part import Counts, state_file
from cliplet.stream.plan import Part, Plan

EVERY = 10.0
"""Seconds between two lines where standard error is no terminal; on a terminal a line is written over each second."""


class Progress:
    """Lines on standard error."""

    def __init__(self, plan: Plan, done: int, folder: Path, quiet: bool = False) -> None:
        self.plan, self.folder, self.quiet = plan, folder, quiet
        self.total, self.done, self.before = len(plan), done, done
        self.rows = self.failed = 0
        self.start = self.first = time.monotonic()
        self.said = 0.0
        self.terminal = sys.stderr.isatty()
        if done and not quiet:
            self._say(f"{done} of {self.total} parts are there already", "\n")

    def finished(self, part: Part, counts: Counts) -> None:
        """Count a part."""
        self.done, self.rows, self.failed = (
            self.done + 1,
            self.rows + counts.rows,
            self.failed + counts.failed,
        )

    def tell(self, running: set[int], waiting: str) -> None:
        """Say how far it is, if it is time to."""
        if self.quiet or time.monotonic() - self.said < (1.0 if self.terminal else EVERY):
            return
        self.said = time.monotonic()
        self._say(self.line(running, waiting), "" if self.terminal else "\n")

    def line(self, running: set[int], waiting: str) -> str:
        """``12 of 96 parts, 310 rows/s, 5 min left; slowest: ...``."""
        seconds = time.monotonic() - self.start
        said = [f"{self.done} of {self.total} parts"]
        if self.rows:
            said.append(f"{self.rows / seconds:,.0f} rows/s")
            left = (self.total - self.done) * seconds / max(1, self.done - self.before)
            said.append(f"{_span(left)} left")
        slow = self._slowest(running)
        more = f"; {waiting}" if waiting else ""
        return ", ".join(said) + (f"; longest running: {slow}" if slow else "") + more

    def _slowest(self, running: set[int]) -> str:
        states = []
        for number in running:
            try:
                about: dict[str, Any] = json.loads(
                    state_file(self.folder, self.plan.part(number)).read_text()
                )
                states.append((about["started"], number, about["doing"]))
            except (OSError, ValueError, KeyError):
                continue
        if not states:
            return ""
        started, number, doing = min(states)
        return f"{self.plan.part(number)} for {_span(time.time() - started)}: {doing}"

    def close(self) -> None:
        """The last line."""
        if not self.quiet:
            seconds = time.monotonic() - self.start
            rate = f", {self.rows / seconds:,.0f} rows/s" if self.rows else ""
            self._say(f"{self.done} of {self.total} parts{rate}, {_span(seconds)}", "\n")

    def _say(self, line: str, end: str) -> None:
        begin = "\r\x1b[K" if self.terminal else ""
        print(begin + line, end=end, file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
