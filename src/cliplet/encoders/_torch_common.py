"""What the encoders on PyTorch share."""

from typing import TYPE_CHECKING

from cliplet.encoders.batching import BatchedEncoder

if TYPE_CHECKING:
    import torch

TOKENIZER_PROBE = "A photo depicts Two dogs, it's 12 o'clock: naïve 狗"
"""Its token ids stand for the tokeniser in the fingerprint."""


class TorchModelEncoder(BatchedEncoder):
    """A BatchedEncoder whose towers are a PyTorch module: it gives raw embeddings, and moves to any device."""

    raw = True
    model: "torch.nn.Module"

    @property
    def device(self) -> str:
        """Where the weights are, such as ``cpu`` or ``cuda:0``."""
        return str(next(self.model.parameters()).device)

    def to(self, device: str) -> None:
        """Move the weights."""
        self.model.to(device)
