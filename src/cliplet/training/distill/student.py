"""The student in training: towers, the map to the teacher's width, the logit scale, and the stage's losses."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.models.dual import DualModel
from cliplet.training.config import DistillStage, Schedule
from cliplet.training.losses import Loss
from cliplet.training.task import Task

MAX_LOGIT_SCALE = 100.0


class Student(Task):
    """A dual model that computes its own distillation loss, so that one call is one step on any number of devices.

    Args:
        model: the towers.
        teacher_dim: width of the teacher's embeddings. Where it differs from the student's, the losses that compare
            embeddings do so through one linear map, which both towers share and which is dropped after training.

    ``frozen`` names the model's parameters that never learn.
    """

    def __init__(self, model: DualModel, teacher_dim: int) -> None:
        super().__init__()
        self.model = model
        same = model.embedding_dim == teacher_dim
        self.map: nn.Module = (
            nn.Identity() if same else nn.Linear(model.embedding_dim, teacher_dim, bias=False)
        )
        self.same_width = same
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))
        self.frozen: frozenset[str] = frozenset()
        self.stage = DistillStage()
        self.losses: dict[str, Loss] = {}

    def begin(self, stage: Schedule) -> None:
        """Prepare for a stage: which parameters learn, where the logit scale starts.

        Raises:
            InputError: the stage compares a student's with a teacher's embedding of another width.
        """
        assert isinstance(stage, DistillStage)
        if not self.same_width and len(stage.towers) == 1 and stage.pairs:
            raise InputError(
                f"stage {stage.name} trains one tower with a loss between both, so the teacher stands in for the "
                f"other; that needs the teacher's width: set model.image.embedding_dim and "
                f"model.text.embedding_dim to it"
            )
        self.stage, self.losses = stage, stage.chosen_losses()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in stage.towers and name not in self.frozen)
        self.map.requires_grad_(any(loss.mapped for loss in self.losses.values()))
        self.logit_scale.requires_grad_(any(loss.scaled for loss in self.losses.values()))
        with torch.no_grad():
            self.logit_scale.fill_(math.log(stage.logit_scale))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses of the stage.

        Args:
            batch: ``pixels`` ``[B, 3, H, W]`` where the image tower learns; ``input_ids`` and ``attention_mask``
                ``[B, T]`` where the text tower does; ``teacher_image`` and ``teacher_text`` ``[B, d_t]`` as far as
                the losses need them.

        Returns:
            ``loss``, the weighted sum, and each loss by name, unweighted.
        """
        towers: dict[str, Tensor] = {}
        if "image" in self.stage.towers:
            towers["image"] = self.model.encode_image(batch["pixels"])
        if "text" in self.stage.towers:
            towers["text"] = self.model.encode_text(batch["input_ids"], batch["attention_mask"])
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            terms = self._terms({name: x.float() for name, x in towers.items()}, batch)
        total = torch.stack([self.stage.losses[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **{name: value.detach() for name, value in terms.items()}}

    def _terms(self, towers: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss of the stage; the teacher stands in for a tower that does not learn."""
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        return distillation_terms(self.losses, towers, batch, self.map, scale, self.stage.teacher_scale)


def distillation_terms(
    losses: Mapping[str, Loss],
    towers: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    to_teacher: nn.Module,
    scale: Tensor | float,
    teacher_scale: float,
) -> dict[str, Tensor]:
    """Each of some losses, unweighted; the teacher stands in for a tower that does not learn.

    Args:
        losses: by name.
        towers: the student's embeddings ``[B, d_s]`` of the towers that learn, ``image`` or ``text`` or both.
        batch: the teacher's, ``teacher_image`` and ``teacher_text`` ``[B, d_t]``, as far as the losses need them.
        to_teacher: ``[B, d_s] -> [B, d_t]``.
        scale: the student's logit scale.
        teacher_scale: the teacher's.

    Raises:
        InputError: a loss gives more than one number.
    """
    pair: dict[str, Any] = {"scale": scale, "teacher_scale": teacher_scale}
    sides = []
    for tower in ("image", "text"):
        teacher = batch.get(f"teacher_{tower}")
        student = towers.get(tower, teacher)
        mapped = to_teacher(towers[tower]) if tower in towers else teacher
        pair |= {f"teacher_{tower}": teacher, f"student_{tower}": student, f"mapped_{tower}": mapped}
        if tower in towers:
            sides.append({"student": mapped, "teacher": teacher})
    terms = {}
    for name, loss in losses.items():
        parts = [
            loss.function(*(found[n] for n in loss.needs)) for found in ([pair] if loss.pairs else sides)
        ]
        if parts[0].ndim:
            raise InputError(f"loss {name} gives {list(parts[0].shape)} numbers; it must give one")
        terms[name] = torch.stack(parts).sum()
    return terms
