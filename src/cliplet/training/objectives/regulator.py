"""The Similarity Regulator of L-CLIP beside a tuning: pairs are pushed no further than the base model has them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliplet.training import losses
from cliplet.training.objectives.base import Columns, Drawn, Objective, Setup, Step


class Regulator(Objective):
    """``objectives.sr``: :func:`~cliplet.training.losses.similarity_regulator` with the base model as the teacher.

    Source: L-CLIPScore (arXiv 2507.08710).
    """

    help = "Similarity Regulator, with the base model as the teacher."

    def __init__(self, setup: Setup, settings: Any) -> None:
        super().__init__(setup, settings)
        self.text = setup.captions.base
        self.image = setup.photos.base(setup.captions.model, setup.folder)

    def batch(self, drawn: Drawn) -> Columns:
        """The base model's embeddings of the pairs ``[B, d]``."""
        seen = np.stack([self.image[v][p] for v, p in zip(drawn.views, drawn.photos, strict=True)])
        return {"image": torch.from_numpy(seen), "text": torch.from_numpy(self.text[drawn.captions])}

    def forward(self, step: Step) -> Tensor:
        """The regulator of the batch."""
        return losses.similarity_regulator(step.image, step.text, step.columns["image"], step.columns["text"])
