"""Pretraining of the shared encoder in a folder of its own, from its checkpoint if there is one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cliplet.errors import InputError
from cliplet.models.multimodal import MultimodalAutoencoder
from cliplet.models.multimodal_config import MultimodalConfig
from cliplet.training.config import Schedule
from cliplet.training.diffclip.task import MaskedDenoising, batch_of
from cliplet.training.fit import fit_part
from cliplet.training.loop import Batch, Intervals, StageData


@dataclass(frozen=True)
class PretrainConfig:
    """Masked and noised pretraining without labels."""

    hidden: float = 0.5
    """Share of the tokens of each modality that is hidden; 0.7 as published."""
    noise: float = 0.1
    """Highest noise step, as a share of all; 1 as published, 0 for masking alone."""
    hidden_weight: float = 1.0
    """Weight of the error on hidden tokens; 0.1 as released."""
    visible_weight: float = 0.1
    """Weight of the error on visible tokens; 1 as released."""
    stage: Schedule = field(
        default_factory=lambda: Schedule(name="pretraining", epochs=60, batch_size=128, lr=2e-3, warmup=0.1)
    )
    """Its training; a batch counts samples."""

    def __post_init__(self) -> None:
        if not (0 <= self.hidden < 1 and 0 <= self.noise <= 1):
            raise InputError("hidden must be in 0..1 (below 1) and noise in 0..1")


def shuffled_batches(tokens: Sequence[Tensor], batch_size: int, seed: int) -> StageData:
    """Batches of samples, each epoch in another order; the last samples that fill no batch wait for the next epoch."""
    count = len(tokens[0])

    def load(epoch: int, first: int) -> Iterator[Batch]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
        for start in range(first * batch_size, count - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield batch_of([x[rows] for x in tokens])

    return StageData(count // batch_size, load)


def pretraining_task(model: MultimodalConfig, config: PretrainConfig, seed: int) -> MaskedDenoising:
    """The task from its start: weights of the seed."""
    torch.manual_seed(seed)
    return MaskedDenoising(
        MultimodalAutoencoder(model), config.hidden, config.noise, config.hidden_weight, config.visible_weight
    )


def pretrain(
    accelerator: Any,
    folder: Path,
    model: MultimodalConfig,
    tokens: Sequence[Tensor],
    config: PretrainConfig,
    seed: int,
    save_every: int = 200,
) -> dict[str, Tensor]:
    """Pretrain on samples without labels; a run that was interrupted goes on, a finished one is read.

    Args:
        accelerator: of Accelerate.
        folder: of checkpoint, log and ``best.safetensors``.
        model: sizes.
        tokens: of each modality ``[n, T_m, V_m]``.
        config: how.
        seed: of weights, order, noise and hidden places.
        save_every: steps between checkpoints.

    Returns:
        The state of the :class:`~cliplet.models.multimodal.SharedEncoder`.

    Raises:
        InputError: fewer samples than a batch.
    """
    task = pretraining_task(model, config, seed)
    data = shuffled_batches(tokens, config.stage.batch_size, seed)
    every = Intervals(evaluate_every=10**9, save_every=save_every, log_every=50)
    fit_part(accelerator, folder, task, config.stage, data, None, every)
    return {k: v.detach().cpu().clone() for k, v in task.model.encoder.state_dict().items()}
