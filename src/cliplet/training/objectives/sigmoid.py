"""SigLIP's loss in place of the contrastive one: turned on by ``objectives.sigmoid = 1.0``."""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.training import losses
from cliplet.training.objectives.base import Columns, Drawn, Objective, Setup, Step

HIGHEST = 100.0
"""The logit scale goes no higher."""


@dataclass(frozen=True)
class SigmoidSettings:
    """Settings of the sigmoid loss."""

    scale: float = 10.0
    """Logit scale at the start; it learns, up to 100."""
    bias: float = -10.0
    """Bias of the logits at the start; it learns. About ``-scale`` for pairs of which few match."""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= HIGHEST:
            raise InputError(f"objectives.sigmoid.scale={self.scale} must be above 0 and at most {HIGHEST:g}")


class Sigmoid(Objective):
    """:func:`~cliplet.training.losses.sigmoid` between the batch's photos and captions.

    It has its own logit scale and bias, which learn with the model and are dropped at export. Photos that drew equal
    captions count as matching both ways. Needs nothing of the data beside pairs.
    """

    help = "SigLIP's sigmoid loss in place of the contrastive one."
    settings_type = SigmoidSettings
    contrastive = True

    def __init__(self, setup: Setup, settings: SigmoidSettings) -> None:
        super().__init__(setup, settings)
        self.log_scale = nn.Parameter(torch.tensor(log(settings.scale)))
        self.bias = nn.Parameter(torch.tensor(settings.bias))
        texts = np.array([" ".join(text.split()) for text in setup.train.captions], dtype=object)
        self.number = np.unique(texts, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def batch(self, drawn: Drawn) -> Columns:
        """``texts`` ``[B]``: the number of each drawn caption, equal for equal ones."""
        return {"texts": torch.from_numpy(self.number[drawn.captions])}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The loss, and the learnt ``scale`` and ``bias`` for the log."""
        with torch.no_grad():  # not in the graph: there the gradient would vanish above the limit
            self.log_scale.clamp_(max=log(HIGHEST))
        scale = self.log_scale.exp()
        loss = losses.sigmoid(step.image, step.text, scale, self.bias, step.columns["texts"])
        return {"loss": loss, "scale": scale, "bias": self.bias}
