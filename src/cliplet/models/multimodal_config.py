"""Sizes of the few-shot multimodal classifier (DiffCLIP, arXiv 2412.07119)."""

from dataclasses import dataclass
from typing import Literal

from cliplet.errors import InputError
from cliplet.models.config import TransformerConfig


@dataclass(frozen=True)
class ModalityConfig:
    """One modality: how many tokens a sample has, and how many values a token."""

    name: str
    """Such as ``hsi`` or ``lidar``."""
    tokens: int
    """Tokens of a sample: groups of bands, or patches of a window."""
    values: int
    """Values of a token."""
    patch: int = 0
    """Side of a patch of a window in pixels (1 as published); 0 for single pixels, whose tokens are groups of bands."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.values < 1 or self.patch < 0:
            raise InputError(f"modality {self.name} needs at least one token with at least one value")


def pixel_modality(name: str, bands: int, groups: int) -> ModalityConfig:
    """A modality of single pixels.

    Raises:
        InputError: the groups do not divide the bands.
    """
    if groups < 1 or bands % groups:
        raise InputError(f"{name}: {groups} groups do not divide {bands} bands; choose a number that does")
    return ModalityConfig(name, groups, bands // groups)


def window_modality(name: str, bands: int, side: int, patch: int = 1) -> ModalityConfig:
    """A modality of square windows.

    Raises:
        InputError: the patches do not divide the window.
    """
    if patch < 1 or side % patch:
        raise InputError(
            f"{name}: patches of {patch} do not divide windows of {side}; choose a size that does"
        )
    return ModalityConfig(name, (side // patch) ** 2, patch * patch * bands, patch)


@dataclass(frozen=True)
class MultimodalConfig:
    """A shared encoder, a decoder for each modality and a head into the space of class sentences."""

    modalities: tuple[ModalityConfig, ...] = ()
    """The modalities; two as published. A recipe has them from its data."""
    width: int = 64
    """Channels of every token; 128 as published."""
    heads: int = 4
    """Attention heads; must divide the width. 8 as published."""
    blocks: int = 2
    """Blocks of the shared encoder; 4 as published."""
    decoder_blocks: int = 1
    """Blocks of each decoder; 3 as published."""
    mlp_ratio: float = 2.0
    """Hidden channels of the MLP over the width."""
    fusion: Literal["separate", "joint"] = "separate"
    """Whether the encoder sees one modality at a time, as published, or the tokens of all at once."""
    pool: Literal["class", "mean", "tokens"] = "class"
    """What stands for a modality: its class token, as published, the mean of its tokens, or all of them side by
    side."""
    steps: int = 1000
    """Noise steps of the diffusion; step 0 is a clean sample."""
    embedding_dim: int = 384
    """Dimensions of the class sentences' embeddings."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.embedding_dim < 1 or self.decoder_blocks < 1:
            raise InputError("steps, embedding_dim and decoder_blocks must be at least 1")
        self.transformer(self.blocks)

    @property
    def pooled_dim(self) -> int:
        """Values of a sample's fused vector."""
        tokens = sum(m.tokens for m in self.modalities) if self.pool == "tokens" else len(self.modalities)
        return tokens * self.width

    def transformer(self, blocks: int) -> TransformerConfig:
        """A plain transformer with that many blocks."""
        return TransformerConfig(
            width=self.width,
            heads=self.heads,
            blocks=blocks,
            repeats=1,
            mixers=False,
            mlp_ratio=self.mlp_ratio,
        )
