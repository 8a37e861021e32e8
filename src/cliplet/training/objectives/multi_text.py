"""Several texts of each photo in every step, instead of one (LaCLIP-MT)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from cliplet.errors import InputError
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.objectives.base import Columns, Drawn, Ints, Objective, Rows, Setup, Step, of, under
from cliplet.training.pairs import PairSet


@dataclass(frozen=True)
class MultiTextSettings:
    """How many texts, and how they are compared."""

    texts: int = 4
    """Texts of each photo in a step, M: its captions and rewrites. A photo that has fewer has some twice."""
    form: Literal["mean", "positive"] = "mean"
    """``mean``: one InfoNCE for each m, averaged; ``positive``: one softmax over all B M texts, a photo's own sharing
    its mass."""

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise InputError(f"multi_text.texts={self.texts} must be at least 1")


class MultiText(Objective):
    """The contrastive loss over M texts of each photo: M text passes a step for one photo pass."""

    help = "Contrastive loss over several texts of each photo, captions and rewrites (LaCLIP-MT)."
    settings_type = MultiTextSettings
    contrastive: ClassVar[bool] = True

    def __init__(self, setup: Setup, settings: MultiTextSettings) -> None:
        super().__init__(setup, settings)
        self.captions, self.captions_of = setup.captions, setup.train.captions_of()
        number: dict[str, int] = {}
        texts = (" ".join(text.split()) for text in setup.train.captions)
        self.ids = np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)

    @classmethod
    def offers(cls, settings: Any, train: PairSet, bare: PairSet, regions: RegionSettings) -> Rows:
        """How many photos have so many captions of their own."""
        counts = [len(rows) for rows in train.captions_of() if len(rows)]
        enough = sum(count >= settings.texts for count in counts)
        return [
            (
                "multi_text",
                f"{enough:,} of {len(counts):,} photos have {settings.texts} captions before rewriting",
            )
        ]

    def further(self, photo: int, first: int, rng: np.random.Generator) -> Ints:
        """M - 1 captions of a photo besides the drawn one, each once before any is there twice."""
        others = self.captions_of[photo][self.captions_of[photo] != first]
        wanted, own = self.settings.texts - 1, np.append(others, first)
        if wanted <= len(others):
            return rng.choice(others, wanted, replace=False)
        return np.concatenate([rng.permutation(others), rng.choice(own, wanted - len(others))])

    def batch(self, drawn: Drawn) -> Columns:
        """The further texts, photo by photo, and the number of each text, the drawn one first ``[B, M]``."""
        pairs = zip(drawn.photos.tolist(), drawn.captions.tolist(), strict=True)
        rows = np.stack([np.append(c, self.further(p, c, drawn.rng)) for p, c in pairs]).astype(np.int64)
        columns: Columns = {"ids": torch.from_numpy(self.ids[rows])}
        if self.settings.texts > 1:
            columns |= under("text_", self.captions.columns(rows[:, 1:].ravel()))
        return columns

    def forward(self, step: Step) -> Tensor:
        """See :func:`cliplet.training.losses.multi_text`."""
        texts, (size, dim) = step.text[:, None], step.text.shape
        if self.settings.texts > 1:
            further = step.texts(of("text_", step.columns))
            texts = torch.cat([texts, further.view(size, -1, dim)], dim=1)
        loss = losses.multi_text if self.settings.form == "mean" else losses.multi_positive
        return loss(step.image, texts, step.scale, step.columns["ids"])
