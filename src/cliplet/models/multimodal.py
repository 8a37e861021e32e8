"""The few-shot multimodal classifier: a shared encoder, a decoder a modality, a head into a sentence encoder's space.

Source: DiffCLIP, "Few-shot Language-driven Multimodal Classifier" (arXiv 2412.07119); not the differential attention
of the same name. The sizes and the tokens are this project's own (see docs/diffclip.md).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.multimodal_config import ModalityConfig, MultimodalConfig
from cliplet.models.multiplexed import MultiplexedTransformer, init_weights

START_SCALE = math.log(1 / 0.07)
LARGEST_SCALE = math.log(100)


def sine_positions(places: Tensor, width: int) -> Tensor:
    """Fixed sines and cosines ``[n, width]`` of places (or noise steps) ``[n]``."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=places.device) / half)
    angles = places.float()[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width - 2 * half))


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens ``[n, K, D]`` at ``indices`` ``[n, K]`` of ``[n, T, D]``."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


class ModalityEmbedding(nn.Module):
    """Tokens of one modality as the shared encoder takes them: linear, positions, own class token, own time."""

    def __init__(self, modality: ModalityConfig, width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(modality.values, width)
        self.time = nn.Linear(width, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.register_buffer(
            "positions", sine_positions(torch.arange(modality.tokens), width)[None], persistent=False
        )
        self.positions: Tensor

    def forward(self, tokens: Tensor, step: Tensor, keep: Tensor | None) -> Tensor:
        """``[n, T, V]``, noise steps ``[n]``, kept places ``[n, K]`` -> ``[n, 1 + K, D]`` (all T without ``keep``)."""
        x = self.project(tokens) + self.positions
        x = x if keep is None else take(x, keep)
        time = self.time(sine_positions(step, self.width))[:, None]
        return torch.cat([self.class_token + time, x], dim=1)


class SharedEncoder(nn.Module):
    """One transformer for all modalities."""

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        if not config.modalities:
            raise InputError("a multimodal model needs at least one modality")
        self.joint, self.pool = config.fusion == "joint", config.pool
        self.embeddings = nn.ModuleList(ModalityEmbedding(m, config.width) for m in config.modalities)
        self.transformer = MultiplexedTransformer(config.transformer(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, tokens: Sequence[Tensor], step: Tensor | None = None, keep: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Encode.

        Args:
            tokens: of each modality ``[n, T_m, V_m]``.
            step: noise steps ``[n]``; 0, a clean sample, when left out.
            keep: places of the visible tokens of each modality ``[n, K_m]``; all when left out.

        Returns:
            States of each modality ``[n, 1 + K_m, D]``, the class token first.
        """
        if step is None:
            step = torch.zeros(len(tokens[0]), device=tokens[0].device)
        parts = [
            embed(x, step, None if keep is None else keep[i])
            for i, (embed, x) in enumerate(zip(self.embeddings, tokens, strict=True))
        ]
        if not self.joint:
            return [self.norm(self.transformer(x)) for x in parts]
        states = self.norm(self.transformer(torch.cat(parts, dim=1)))
        return list(states.split([x.shape[1] for x in parts], dim=1))

    def pooled(self, states: Sequence[Tensor]) -> Tensor:
        """One vector a sample ``[n, pooled_dim]``, clean and with nothing hidden."""
        if self.pool == "tokens":
            return torch.cat([s[:, 1:].flatten(1) for s in states], dim=1)
        return torch.cat([s[:, 0] if self.pool == "class" else s[:, 1:].mean(dim=1) for s in states], dim=1)


class Decoder(nn.Module):
    """From the visible states of one modality to the clean values of all its tokens."""

    def __init__(self, modality: ModalityConfig, config: MultimodalConfig) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.register_buffer(
            "positions", sine_positions(torch.arange(modality.tokens), config.width)[None], persistent=False
        )
        self.positions: Tensor
        self.transformer = MultiplexedTransformer(config.transformer(config.decoder_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, modality.values)

    def forward(self, states: Tensor, keep: Tensor) -> Tensor:
        """States ``[n, 1 + K, D]`` of the tokens at places ``keep`` ``[n, K]`` -> values ``[n, T, V]``."""
        n, _, width = states.shape
        places = keep[:, :, None].expand(-1, -1, width)
        x = (
            self.mask.expand(n, self.positions.shape[1], width).scatter(1, places, states[:, 1:])
            + self.positions
        )
        x = self.transformer(torch.cat([states[:, :1], x], dim=1))
        return self.out(self.norm(x[:, 1:]))  # type: ignore[no-any-return]


class MultimodalAutoencoder(nn.Module):
    """What is pretrained: the shared encoder and the decoders."""

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SharedEncoder(config)
        self.decoders = nn.ModuleList(Decoder(m, config) for m in config.modalities)
        self.apply(init_weights)

    def forward(self, tokens: Sequence[Tensor], step: Tensor, keep: Sequence[Tensor]) -> list[Tensor]:
        """Noised tokens, their steps and visible places -> the clean values of each modality ``[n, T_m, V_m]``."""
        states = self.encoder(tokens, step, keep)
        return [decode(s, k) for decode, s, k in zip(self.decoders, states, keep, strict=True)]


class MultimodalClassifier(nn.Module):
    """The shared encoder and a linear head into the space of frozen class vectors.

    Args:
        config: sizes.
        classes: class vectors ``[C, embedding_dim]``, from :func:`~cliplet.classification.multimodal.class_vectors`.
    """

    def __init__(self, config: MultimodalConfig, classes: Tensor) -> None:
        super().__init__()
        self.config = config
        self.encoder = SharedEncoder(config)
        self.head = nn.Linear(config.pooled_dim, config.embedding_dim)
        self.log_scale = nn.Parameter(torch.tensor(START_SCALE))
        self.register_buffer("classes", F.normalize(classes.float(), dim=1))
        self.classes: Tensor
        self.apply(init_weights)

    def embed(self, tokens: Sequence[Tensor]) -> Tensor:
        """Unit embeddings ``[n, embedding_dim]`` of clean samples; the noise step is 0, never drawn."""
        return F.normalize(self.head(self.encoder.pooled(self.encoder(tokens))), dim=1)

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Logits ``[n, C]``: scaled cosines to the class vectors."""
        return self.log_scale.clamp(max=LARGEST_SCALE).exp() * self.embed(tokens) @ self.classes.T
