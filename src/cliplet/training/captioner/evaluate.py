"""How a captioner does on photos with references, during training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.captioner.decoding import DecodeConfig, Decoded, Limits, decode
from cliplet.metrics.registry import word_scores
from cliplet.models.captioner import TorchSteps
from cliplet.rewards import MixedReward
from cliplet.training.captioner.data import CaptionSplit, Reader
from cliplet.training.captioner.shape import shape_of
from cliplet.training.captioner.student import CaptionModel, Say

BATCH = 50
GREEDY = DecodeConfig("greedy")


@torch.no_grad()
def decode_split(
    model: CaptionModel, read: Reader, count: int, limits: Limits, config: DecodeConfig
) -> list[Decoded]:
    """Captions of the first ``count`` photos that ``read`` knows."""
    model.eval()
    steps = TorchSteps(model.decoder)
    device = next(model.parameters()).device
    found: list[Decoded] = []
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        memory = model.memory(read(rows, np.zeros_like(rows)).to(device))
        found += decode(steps, memory, limits, config, keys=rows.tolist())
    return found


class DevCheck:
    """Greedy captions of the dev photos after each epoch: n-gram metrics, measured rewards, shape.

    Args:
        split: photos with plain captions.
        read: their grids or pixels.
        limits: special tokens.
        say: tokens to captions.
        measured: rewards that are measured on dev's photos (none: only n-gram metrics).
    """

    def __init__(
        self, split: CaptionSplit, read: Reader, limits: Limits, say: Say, measured: MixedReward | None = None
    ) -> None:
        self.split, self.read, self.limits, self.say, self.measured = split, read, limits, say, measured
        self.words = [[caption.split() for caption in group] for group in split.captions]

    def captions(self, model: CaptionModel, config: DecodeConfig) -> tuple[list[str], list[bool]]:
        """Best caption of each photo, and whether it ended."""
        found = decode_split(model, self.read, len(self.split.names), self.limits, config)
        return self.say([f.tokens[0] for f in found]), [f.ended[0] for f in found]

    def __call__(self, model: CaptionModel, config: DecodeConfig = GREEDY) -> dict[str, float]:
        """Named numbers: BLEU-4, ROUGE-L, CIDEr-D (0 to 10, as ``score`` too), measured rewards, shape."""
        texts, ended = self.captions(model, config)
        scores = word_scores([text.split() for text in texts], self.words, ("bleu", "rouge", "cider"))
        cider, rouge = (float(scores.per_caption[name].mean()) for name in ("CIDEr-D", "ROUGE-L"))
        bleu = scores.statistics["BLEU-4"].corpus()
        values = {"score": cider, "CIDEr-D": cider, "BLEU-4": bleu, "ROUGE-L": rouge}
        if self.measured is not None:
            parts = self.measured.parts(self.split.names, texts, update=False)
            values |= {f"reward/{name}": float(v.mean()) for name, v in parts.values.items()}
        return values | shape_of(texts, ended)


def photo_embeddings(encoder: Any, photos: Sequence[Any]) -> NDArray[np.float32]:
    """Unit embeddings of photos by the reward's model."""

    return np.asarray(encoder.encode_images(photos))
