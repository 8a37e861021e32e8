"""The last stages of an EfficientNet-Lite in training, fast on a CPU, on feature maps kept from the stages before."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cliplet.training.small.student import LateTower, fold

PARTS = (("expand", "conv_pw", "bn1"), ("depthwise", "conv_dw", "bn2"), ("project", "conv_pwl", "bn3"))


class LateStages:
    """What :class:`~cliplet.training.small.student.LateTower` computes, with gradients for the network's own weights.

    Batch norms, whose statistics stay, are folded into the convolutions anew at every call.

    Args:
        body: timm's EfficientNet-Lite.
        first: first stage that learns, 1 or more; the number of stages for the last convolution alone.
        head: projection of the pooled features.
    """

    def __init__(self, body: Any, first: int, head: nn.Linear) -> None:
        self.body, self.head = body, head
        self.blocks = [block for stage in body.blocks[first:] for block in stage]
        with torch.inference_mode(False):  # whoever calls first, later calls may want gradients
            self.tower = LateTower(body, first, head.out_features, 0.0).requires_grad_(False)

    def __call__(self, maps: Tensor, dropout: float = 0.0) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> embeddings ``[n, d]``, unnormalised.

        Args:
            maps: what the stages before give.
            dropout: share of pooled features that are left out.
        """
        self.tower.dropout.p = dropout
        weights: dict[str, Any] = dict(self.head.named_parameters(prefix="head"))
        weights |= _folded("last", self.body.conv_head, self.body.bn2)
        for i, block in enumerate(self.blocks):
            for part, conv, norm in PARTS:
                weights |= _folded(f"blocks.{i}.{part}", getattr(block, conv), getattr(block, norm))
        return functional_call(self.tower, weights, (maps,))  # type: ignore[no-any-return]


def _folded(name: str, conv: Any, norm: Any) -> dict[str, Tensor]:
    """A convolution and the batch norm behind it as one convolution's weight and bias."""
    weight, bias = fold(conv, norm)
    return {f"{name}.weight": weight, f"{name}.bias": bias}
