"""Training of one part of a DCLIP run on the house's loop: from its checkpoint, to its best weights."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.training.checkpoint import read_progress
from cliplet.training.config import StageConfig
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.logs import RunLog
from cliplet.training.loop import Hooks, RunState, StageData, run_stage

BEST = "best.safetensors"
"""What a finished training leaves in its folder."""


class Fitter:
    """Trains whatever has ``model`` and gives losses.

    Args:
        config: the recipe, for its intervals.
        accelerator: where to train.
    """

    def __init__(self, config: DclipConfig, accelerator: Any) -> None:
        self.config, self.accelerator = config, accelerator

    def __call__(
        self,
        folder: Path,
        student: Any,
        stage: StageConfig,
        batches: Any,
        evaluate: Callable[[], dict[str, float]],
    ) -> None:
        """Train, from the folder's checkpoint if there is one; the best weights end in ``best.safetensors``.

        Args:
            folder: of checkpoint, log and result; where the result is, nothing is done.
            student: the module, whose ``learned()`` or ``model`` is saved.
            stage: how.
            batches: what ``load(epoch, first)`` gives.
            evaluate: named numbers on dev; the best ``score`` is kept, or the last without one.

        Raises:
            InputError: less training data than a batch holds.
        """
        from safetensors.torch import save_file

        if (folder / BEST).exists():
            return
        if batches.batches < 1:
            raise InputError(
                f"the training photos or captions do not fill one batch of {stage.batch_size}; lower "
                f"{stage.name}_stage.batch_size"
            )
        folder.mkdir(parents=True, exist_ok=True)
        progress = read_progress(folder)
        state = RunState(**{k: v for k, v in (progress or {}).items() if k in RunState.__dataclass_fields__})

        def save(best: bool, _: dict[str, float]) -> None:
            if best:
                learned = student.learned() if hasattr(student, "learned") else student.model.state_dict()
                chosen = {k: v.detach().cpu().contiguous().clone() for k, v in learned.items()}
                save_file(chosen, folder / "best.part")

        log = RunLog(folder, state.step)
        hooks = Hooks(evaluate, save, self.config.evaluate_every, self.config.save_every, log_every=10)
        data = StageData(batches.batches, batches.load)
        try:
            run_stage(self.accelerator, student, stage, data, state, hooks, log, folder, progress is not None)
        finally:
            log.close()
        os.replace(folder / "best.part", folder / BEST)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
