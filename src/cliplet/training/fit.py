"""Stages of training in one folder: from its checkpoint if there is one, with one log, to their best weights."""

import os
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed as dist

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.tensors import write_tensors
from cliplet.training.checkpoint import read_progress, read_weights
from cliplet.training.config import Schedule
from cliplet.training.logs import RunLog
from cliplet.training.loop import Batches, Evaluate, Intervals, Part, RunState, run_stage
from cliplet.training.task import Task, put_weights

BEST = "best.safetensors"
"""What :func:`fit_part` leaves in its folder."""


def make_accelerator(cpu: bool = False, precision: str = "no", some_unused: bool = False) -> Any:
    """Accelerate, as settings and ``accelerate launch`` say.

    Args:
        cpu: although there is an accelerator.
        precision: mixed precision: ``no``, ``bf16`` or ``fp16``.
        some_unused: a step need not use all parameters that learn; else several processes refuse that.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    if not (dist.is_available() and dist.is_initialized()):
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # an earlier run here may have had other settings
    # the other processes wait while the first one computes the teacher's embeddings
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    parallel = DistributedDataParallelKwargs(find_unused_parameters=some_unused)
    return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[patience, parallel])


def fit(
    accelerator: Any,
    folder: Path,
    parts: Sequence[Callable[[], Part]],
    every: Intervals = Intervals(),  # noqa: B008 (frozen)
    tensorboard: bool = False,
) -> None:
    """Train stages one after the other, from where the folder's checkpoint stands.

    Args:
        accelerator: of Accelerate.
        folder: of ``checkpoint`` and ``log.jsonl``.
        parts: make the stages; each is called when its turn comes and starts from what the one before has saved.
            When a run goes on, the checkpoint then puts everything in its place, random numbers too.
        every: evaluations, checkpoints and lines.
        tensorboard: also log for TensorBoard.

    Raises:
        ModelError: the checkpoint is damaged or of another recipe.
    """
    progress = read_progress(folder)
    state = RunState.of(progress)
    log = RunLog(folder, state.step, tensorboard, silent=not accelerator.is_main_process)
    try:
        for index in range(state.stage, len(parts)):
            resume = progress is not None and index == RunState.of(progress).stage
            if not resume:
                state = RunState(stage=index, step=state.step)
            part = parts[index]()
            part.task.begin(part.stage)
            if part.measure_start and part.evaluate is not None and not resume:
                log.write("dev", state.step, {"stage": part.stage.name, "epoch": 0, **part.evaluate()})
            log.watch(part.stage.name, part.watch)
            run_stage(accelerator, part, state, every, log, folder, resume)
    finally:
        log.close()


def fit_part(
    accelerator: Any,
    folder: Path,
    task: Task,
    stage: Schedule,
    data: Batches,
    evaluate: Evaluate | None = None,
    every: Intervals = Intervals(log_every=10),  # noqa: B008 (frozen)
    result: Path | None = None,
) -> None:
    """Train one part in a folder of its own; its best weights end in one file and in the task.

    Where that file is, nothing is trained. A stage of 0 epochs is left out.

    Args:
        accelerator: of Accelerate.
        folder: of checkpoint and log; made when it is not there.
        task: what learns.
        stage: how; a recipe calls it ``NAME_stage``.
        data: from what.
        evaluate: named numbers on dev; the best ``score`` is kept, or the last without one.
        every: evaluations, checkpoints and lines.
        result: the file; ``best.safetensors`` in the folder when left out.

    Raises:
        InputError: less training data than a batch.
        ModelError: the checkpoint or the file is damaged.
    """
    result = result or folder / BEST
    part = folder / "best.part"

    def save(best: bool, _: dict[str, float]) -> None:
        if best:
            write_tensors(task.weights(), part)

    if not stage.epochs:
        return
    if not result.exists():
        if data.batches < 1:
            raise InputError(
                f"the training data does not fill one batch of {stage.batch_size}; lower {stage.name}_stage.batch_size"
            )
        folder.mkdir(parents=True, exist_ok=True)
        fit(accelerator, folder, [lambda: Part(task, stage, data, save, evaluate)], every)
        if accelerator.is_main_process:
            os.replace(part, result)
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        accelerator.wait_for_everyone()
    put_weights(task, read_weights(result))
