"""Training of one part of a DCLIP run: from its checkpoint, to its best weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cliplet.training.config import Schedule
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.fit import BEST, fit_part
from cliplet.training.loop import Batches, Intervals
from cliplet.training.task import Task

__all__ = ["BEST", "Fitter"]


class Fitter:
    """Trains with a recipe's intervals.

    Args:
        config: the recipe.
        accelerator: where to train.
    """

    def __init__(self, config: DclipConfig, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.every = Intervals(config.evaluate_every, config.save_every, log_every=10)

    def __call__(
        self,
        folder: Path,
        task: Task,
        stage: Schedule,
        data: Batches,
        evaluate: Callable[[], dict[str, float]],
    ) -> None:
        """As :func:`~cliplet.training.fit.fit_part`."""
        fit_part(self.accelerator, folder, task, stage, data, evaluate, self.every)
