"""What a run says: ``log.jsonl``, TensorBoard, and a line with the time left."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cliplet.errors import MissingExtraError


class RunLog:
    """JSON lines on disk, scalars for TensorBoard.

    Args:
        folder: the run's folder.
        last_step: lines after this step are dropped: the run goes on from there, and will write them again.
        tensorboard: also write TensorBoard's files.
        silent: write nothing (all processes but the first).
    """

    def __init__(self, folder: Path, last_step: int, tensorboard: bool = False, silent: bool = False) -> None:
        self.path = folder / "log.jsonl"
        self.silent = silent
        self._writer: Any = None
        self._stage = ""
        self._observe: Callable[[dict[str, Any]], list[str]] | None = None
        if silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= last_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    continue  # the line that was being written when the run was killed
        part = self.path.with_suffix(".part")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(self.path)
        self._stream = self.path.open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError("logging for TensorBoard", "train") from error
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)  # type: ignore[no-untyped-call]

    def watch(self, stage: str, observe: Callable[[dict[str, Any]], list[str]] | None) -> None:
        """Let ``observe`` see each training line of a stage, those of before a resume too.

        What it returns becomes a line of kind ``warning`` and is said on standard error.
        """
        self._stage, self._observe = stage, observe
        if observe is not None and not self.silent:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                values = json.loads(line)
                if values["kind"] == "train" and values.get("stage") == stage:
                    observe(values)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line: ``{"kind": ..., "step": ..., ...}``."""
        if self.silent:
            return
        self._stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._stream.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and name not in ("epoch", "seconds"):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train" and self._observe is not None:
            for text in self._observe(values):
                self.write("warning", step, {"stage": self._stage, "text": text})
                print(f"stage {self._stage}, step {step}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the files."""
        if not self.silent:
            self._stream.close()
        if self._writer is not None:
            self._writer.close()


class Progress:
    """A line on stderr with what is done, the rate and the time left: rewritten on a terminal, else every 30 s."""

    def __init__(self, what: str, total: int, silent: bool = False, start: int = 0) -> None:
        self.what, self.total, self.silent, self.start = what, total, silent, start
        self._began = self._shown = time.perf_counter()
        self._tty = sys.stderr.isatty()

    def update(self, done: int, extra: str = "") -> None:
        """Show that ``done`` of ``total`` are done."""
        now = time.perf_counter()
        last = done >= self.total
        if self.silent or (not last and now - self._shown < (0.2 if self._tty else 30)):
            return
        self._shown = now
        rate = (done - self.start) / max(now - self._began, 1e-9)
        left = (self.total - done) / rate if rate else 0.0
        line = f"{self.what}: {done}/{self.total}, {rate:.1f}/s, {duration(left)} left{extra}"
        end = "\n" if last or not self._tty else ""
        print(("\r\x1b[K" if self._tty else "") + line, end=end, file=sys.stderr, flush=True)

    def done(self, done: int, total: int) -> None:
        """:meth:`update` for callers that also know the total."""
        self.total = total
        self.update(done)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
