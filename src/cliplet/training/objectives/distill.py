"""What a larger CLIP, or several, see in the batch: turned on by ``[objectives.distill]`` with ``teacher.names``."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.training.config import TeacherConfig, loss_help
from cliplet.training.distill.student import distillation_terms
from cliplet.training.distill.targets import TargetFiles
from cliplet.training.distill.teacher import Teacher
from cliplet.training.losses import find_losses
from cliplet.training.objectives.base import Columns, Drawn, Objective, Setup, Step
from cliplet.training.views import view_sources

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DistillSettings:
    """Settings of distillation from a teacher."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Who teaches: ``teacher.names`` as ``cliplet.load`` takes them, and how several become one."""
    losses: dict[str, float] = field(
        default_factory=lambda: {"affinity": 1.0}, metadata={"entries": loss_help}
    )
    """Weight of each loss, by the names of a distillation's stages; your own is named as ``"module:attribute"``."""
    teacher_scale: float = 100.0
    """The teacher's logit scale in ``affinity``; trained CLIPs have 100."""
    keep: bool = True
    """Compute the teacher's embeddings of each view and caption once and keep them; else the teacher sees each batch
    anew, which costs its time in every epoch, and no disk."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", {name: w for name, w in self.losses.items() if w})
        if not self.losses:
            raise InputError("objectives.distill.losses gives no loss a weight")
        if not self.teacher_scale > 0:
            raise InputError(f"objectives.distill.teacher_scale={self.teacher_scale} must be above 0")
        find_losses(self.losses)


class Distill(Objective):
    """Losses between the model and a frozen teacher on the very same views and captions.

    The teacher's embeddings are computed once, before the training, and kept in ``features`` under names that say what
    they depend on; the teacher then leaves the memory. Embeddings of another width than the model's are compared
    through one linear map, which learns with the model and is dropped at export. The logit scale is that of the
    recipe, ``1 / student.temperature``. A kept map that is mirrored counts as the view it was made from. Needs nothing
    of the data beside pairs.
    """

    help = "Distillation from another CLIP: affinity mimicking and the other losses of kind distill."
    settings_type = DistillSettings

    def __init__(self, setup: Setup, settings: DistillSettings) -> None:
        super().__init__(setup, settings)
        self.losses = find_losses(settings.losses)
        if not settings.teacher.names:
            raise InputError(
                "objectives.distill has no teacher; give objectives.distill.teacher.names, such as "
                '["open_clip:ViT-B-32/openai"]'
            )
        self.rows = _Rows(setup, settings)
        gc.collect()  # a card and its encoder name each other, so the teacher would stay
        width = setup.learner.clip.encoder.card.embedding_dim
        mapped = width != self.rows.dim and any(loss.mapped for loss in self.losses.values())
        self.map = nn.Linear(width, self.rows.dim, bias=False) if mapped else nn.Identity()

    def batch(self, drawn: Drawn) -> Columns:
        """``teacher_image`` and ``teacher_text`` ``[B, d_t]``."""
        images, texts = self.rows.of(drawn)
        return {"teacher_image": torch.from_numpy(images), "teacher_text": torch.from_numpy(texts)}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The weighted sum, and each loss for the log."""
        towers = {"image": step.image, "text": step.text}
        terms = distillation_terms(
            self.losses, towers, step.columns, self.map, step.scale, self.settings.teacher_scale
        )
        total = torch.stack([self.settings.losses[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}


class _Rows:
    """The teacher's embeddings of the training views and captions: kept, or made when they are asked for."""

    def __init__(self, setup: Setup, settings: DistillSettings) -> None:
        self.setup = setup
        self.teacher: Teacher | None = None
        teacher = Teacher.from_config(settings.teacher)
        self.dim = teacher.dim
        if not settings.keep:
            self.teacher = teacher
            return
        folder = setup.folder if not settings.teacher.cache else Path(settings.teacher.cache)
        found = TargetFiles(folder, teacher, setup.augment, 0).of(setup.train, setup.augment.views, True)
        if found.bad:
            photo = min(found.bad)
            raise InputError(f"the teacher cannot read {setup.train.names[photo]}: {found.bad[photo]}")
        assert found.texts is not None
        self.images, self.texts = found.images, found.texts

    def of(self, drawn: Drawn) -> tuple[Floats, Floats]:
        """Rows of a batch's photos and captions ``[B, d_t]``."""
        if self.teacher is None:
            rows = [self.images[v][p] for v, p in zip(drawn.views, drawn.photos, strict=True)]
            return np.stack(rows), np.asarray(self.texts[drawn.captions])
        images, bad = self.teacher.images(self._seen(drawn))
        if bad:
            photo = int(drawn.photos[min(bad)])
            raise InputError(f"the teacher cannot read {self.setup.train.names[photo]}: {bad[min(bad)]}")
        return images, self.teacher.texts([self.setup.train.captions[c] for c in drawn.captions])

    def _seen(self, drawn: Drawn) -> Sequence[Any]:
        """The drawn view of each photo."""
        found: list[Any] = []
        for photo, view in zip(drawn.photos.tolist(), drawn.views.tolist(), strict=True):
            found += view_sources(self.setup.train.photos, self.setup.augment, 0, [photo], view)
        return found
