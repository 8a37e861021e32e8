"""What a captioner is made of: an image tower whose grid is read, and a small transformer decoder."""

from dataclasses import dataclass, field
from typing import Literal

from cliplet.errors import InputError


@dataclass(frozen=True)
class GridConfig:
    """The image tower; its last feature map is what the decoder looks at."""

    towers: tuple[str, ...] = ("efficientnet_lite0",)
    """``efficientnet_lite0`` to ``efficientnet_lite2`` (ImageNet weights that install with pip), ``lclip:MODEL`` (the
    image tower of a packaged model or of a model folder), or ``timm:NAME``. Several are put side by side, channel
    after channel; their grids must have the same size. ``recap:MODEL+STORE.npz`` alone: what the decoder looks at are
    the captions of a store (``cliplet caption store``) that lie nearest to the photo."""
    pretrained: bool = True
    """Load timm's weights for ``timm:NAME`` (from its hub); False starts it at random."""
    size: int = 224
    """Side of the square input in pixels."""
    resize: Literal["squash", "shortest"] = "squash"
    """How photos become square."""


@dataclass(frozen=True)
class CaptionerConfig:
    """A captioner."""

    grid: GridConfig = field(default_factory=GridConfig)
    """The image tower."""
    width: int = 256
    """Channels of the decoder."""
    heads: int = 4
    """Attention heads; must divide the width."""
    layers: int = 3
    """Blocks of the decoder."""
    mlp_ratio: float = 2.0
    """Hidden channels of the MLP over the width."""
    dropout: float = 0.1
    """Dropout of the decoder in training."""
    feature_dropout: float = 0.1
    """Dropout of the projected grid in training."""
    vocab_size: int = 0
    """Tokens of the tokeniser; 0 takes the trained tokeniser's."""
    max_tokens: int = 40
    """Longest caption in tokens, the end token included."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"heads={self.heads} does not divide width={self.width}; choose heads that do")
        for name in ("width", "heads", "layers", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.grid.towers:
            raise InputError("grid.towers names no image tower; give at least one")
