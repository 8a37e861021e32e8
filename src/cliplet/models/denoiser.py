"""A small generator of photos from an embedding: a linear codec of patches and a transformer that takes noise away.

Shapes: ``n`` photos, ``T`` patches of a photo, ``C`` numbers of a patch, ``d`` dimensions of the condition.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.multiplexed import MLP, Attention


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of the codec and of the denoiser."""

    size: int = 64
    """Side of the square photo in pixels."""
    patch: int = 8
    """Side of a patch; must divide the size."""
    channels: int = 16
    """Numbers that are kept of a patch."""
    condition: int = 512
    """Dimensions of the embedding that the photo is made from."""
    width: int = 192
    """Channels of every token."""
    heads: int = 6
    """Attention heads; must divide the width."""
    blocks: int = 4
    """Transformer blocks."""

    def __post_init__(self) -> None:
        for name in ("size", "patch", "channels", "condition", "width", "heads", "blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.size % self.patch:
            raise InputError(f"patch={self.patch} does not divide size={self.size}")
        if self.width % self.heads or self.width % 2:
            raise InputError(f"width={self.width} must be even and a multiple of heads={self.heads}")
        if self.channels > 3 * self.patch**2:
            raise InputError(
                f"channels={self.channels} is more than the {3 * self.patch**2} colours of a patch"
            )

    @property
    def tokens(self) -> int:
        """Patches of a photo."""
        return (self.size // self.patch) ** 2


def patches(pixels: Tensor, patch: int) -> Tensor:
    """Photos ``[n, 3, s, s]`` as patches ``[n, T, 3 * patch * patch]``, row by row."""
    return F.unfold(pixels, patch, stride=patch).transpose(1, 2)


class PatchCodec(nn.Module):
    """Photos as few numbers a patch and back, by the principal components of patches (linear, so not a VAE).

    The numbers of all components are divided by one scale, so that together they have variance 1 and the patch's mean
    colour, the first of them, weighs most in a squared error, as in the photo itself.

    Args:
        config: size, patch and channels.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(3 * config.patch**2))
        self.register_buffer("basis", torch.eye(3 * config.patch**2, config.channels))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Find the components in closed form.

        Args:
            pixels: some photos ``[n, 3, s, s]`` in -1..1.
        """
        rows = patches(pixels.double(), self.config.patch).flatten(0, 1)
        mean = rows.mean(dim=0)
        _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # of rising variance
        basis = vectors.flip(1)[:, : self.config.channels]
        largest = basis.abs().argmax(dim=0)
        basis = basis * basis[largest, torch.arange(basis.shape[1])].sign()  # the same on every machine
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(((rows - mean) @ basis).square().mean().sqrt().clamp(min=1e-6))

    def encode(self, pixels: Tensor) -> Tensor:
        """``[n, 3, s, s]`` in -1..1 -> ``[n, T, C]``."""
        return (patches(pixels, self.config.patch) - self.mean) @ self.basis / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """``[n, T, C]`` -> ``[n, 3, s, s]``."""
        rows = latents * self.scale @ self.basis.T + self.mean
        size, patch = self.config.size, self.config.patch
        return F.fold(rows.transpose(1, 2), (size, size), patch, stride=patch)


class DenoiserBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm that time and condition shift and scale, and each weighed by them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads, qkv_bias=True)
        self.mlp = MLP(width, 4 * width)
        self.adapt = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, what: Tensor) -> Tensor:
        """``x`` ``[n, T, D]``, ``what`` ``[n, D]``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adapt(F.silu(what)).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.attention_norm(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.mlp_norm(x) * (1 + scale2) + shift2)  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """A transformer over the patches of a noisy photo; time and condition reach it through its LayerNorms (adaLN).

    Blocks start as the identity (their gates are 0), the output as 0.

    Source: DiT (arXiv 2212.09748), conditioned on an image embedding as the decoder of unCLIP (arXiv 2204.06125).

    Args:
        config: the sizes.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("centre", torch.zeros(config.condition))
        self.register_buffer("spread", torch.ones(config.condition))
        self.patch = nn.Linear(config.channels, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.tokens, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Sequential(nn.Linear(config.condition, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(DenoiserBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.adapt = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.channels)
        for block in self.blocks:
            assert isinstance(block, DenoiserBlock)
            _zero(block.adapt)
        _zero(self.adapt)
        _zero(self.out)

    @torch.no_grad()
    def standardise(self, conditions: Tensor) -> None:
        """Take mean and deviation from some conditions ``[n, d]``: what all have in common tells nothing."""
        self.centre.copy_(conditions.mean(dim=0))
        self.spread.copy_(conditions.std(dim=0).clamp(min=1e-6))

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """What was asked of it in training, of each number.

        Args:
            noisy: photos with noise ``[n, T, C]``.
            time: 0 no noise .. 1 noise alone ``[n]``.
            condition: the photos' embeddings ``[n, d]``.

        Returns:
            ``[n, T, C]``.
        """
        known = self.condition((condition - self.centre) / self.spread)
        what = self.time(time_features(time, self.config.width)) + known
        x = self.patch(noisy) + self.positions
        for block in self.blocks:
            x = block(x, what)
        shift, scale = self.adapt(F.silu(what)).unsqueeze(1).chunk(2, dim=-1)
        return self.out(self.norm(x) * (1 + scale) + shift)  # type: ignore[no-any-return]


def time_features(time: Tensor, width: int) -> Tensor:
    """Cosines and sines of a time in 0..1 ``[n]`` -> ``[n, width]``."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = 1000 * time[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
