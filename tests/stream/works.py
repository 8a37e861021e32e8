"""Works for the tests: slow, and such as kill their process. They are importable in worker processes."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.stream.part import Compute, Say
from cliplet.stream.plan import Part
from cliplet.stream.score import score_stream
from cliplet.stream.scores import ScoreWork


@dataclass(frozen=True)
class SlowWork(ScoreWork):
    """Scores whose parts take a while longer, and some of which kill, or raise."""

    seconds: float = 0.0
    kills: int = -1
    kills_once: str = ""
    raises: int = -1

    def begin(self) -> Compute:
        compute = super().begin()

        def slowly(part: Part, say: Say) -> Iterator[Any]:
            if part.number == self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            if part.number == self.raises:
                raise InputError("this part is broken")
            if self.kills_once and part.number == 1 and not Path(self.kills_once).exists():
                Path(self.kills_once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from compute(part, say)
            time.sleep(self.seconds)

        return slowly


if __name__ == "__main__":  # a driver that a test kills
    captions, folder, model, images, engine, workers = sys.argv[1:]
    score_stream([captions], folder, SlowWork(model, images=images, seconds=0.4), engine=engine,
                 workers=int(workers), part_rows=10)  # fmt: skip
