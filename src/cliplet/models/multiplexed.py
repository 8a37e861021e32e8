"""Transformers whose blocks are stored once and executed several times (weight multiplexing).

Source: MiniViT (arXiv 2204.07154), used in this form by L-CLIP (arXiv 2507.08710). A stored block holds the
projections of the attention and the MLP; private to each of its repeats are two LayerNorms, two mixers over the
heads and, as an option for images, a depth-wise convolution before the MLP.
"""

from math import exp

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.config import TransformerConfig


class HeadMixer(nn.Module):
    """A linear map over the attention heads, the same for every pair of tokens; starts as the identity.

    ``[B, h, N, M] -> [B, h, N, M]``; ``h * h`` parameters, no bias.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(heads))

    def forward(self, maps: Tensor) -> Tensor:
        """Mix the maps of all heads."""
        mixed = self.weight @ maps.flatten(2)  # [h, h] @ [B, h, N * M]
        return mixed.view_as(maps)


class Difference(nn.Module):
    """The learnt weight of the second map in differential attention, one for all heads of a layer.

    ``lambda = exp(q1 . k1) - exp(q2 . k2) + lambda0``, four vectors of as many channels as a query; they start as
    normal numbers of deviation 0.1.

    Source: Differential Transformer (arXiv 2410.05258), equation 2.
    """

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.q1, self.k1, self.q2, self.k2 = (nn.Parameter(0.1 * torch.randn(dim)) for _ in range(4))

    def forward(self) -> Tensor:
        """lambda, a scalar."""
        return (self.q1 @ self.k1).exp() - (self.q2 @ self.k2).exp() + self.start


def rms_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """``x`` over the root of its mean square along the last axis; no gain, which the product after it has."""
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()


class Attention(nn.Module):
    """Multi-head self-attention whose weights all repeats of a block share.

    The mixers and the weight of a difference come with each call, because they are private to the repeat. Without them
    this is ordinary scaled dot-product attention.

    Args:
        width: channels ``D``.
        heads: softmax maps ``h``; queries and keys have ``D / h`` channels.
        qkv_bias: bias in the projections.
        value_heads: heads ``v`` of the values, of ``D / v`` channels; half of ``heads`` for differential attention, and
            as many when left out.
    """

    def __init__(self, width: int, heads: int, qkv_bias: bool, value_heads: int = 0) -> None:
        super().__init__()
        self.width, self.heads, self.value_heads = width, heads, value_heads or heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        visible: Tensor | None = None,
        before: HeadMixer | None = None,
        after: HeadMixer | None = None,
        difference: Difference | None = None,
        gain: float | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: ``[B, N, D]``.
            visible: broadcastable to ``[B, 1, N, N]``: bool, False hides a key from a query; or what to add.
            before: mixer F of the logits; after: mixer G of the probabilities.
            difference: lambda; of two neighbouring maps the second is taken from the first, lambda times.
            gain: each head's output goes through an RMSNorm and is multiplied by it; None for neither.

        Returns:
            ``[B, N, D]``.
        """
        q, k, v = self._projected(x)
        plain = before is None and after is None and difference is None
        fused = plain and not torch.onnx.is_in_onnx_export()
        if fused and not (torch.is_grad_enabled() and x.device.type == "cpu"):  # its way back is slow there
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        else:
            logits = (q * (self.width // self.heads) ** -0.5) @ k.transpose(-2, -1)  # [B, h, N, N]
            if before is not None:
                logits = before(logits)
            if visible is not None:  # after the mixing, which would spread the minimum to other heads
                logits = logits + visible if visible.is_floating_point() else hide(logits, visible)
            maps = logits.softmax(dim=-1).to(v.dtype)
            if after is not None:
                maps = after(maps)
            if difference is not None:
                maps = maps[:, 0::2] - difference().to(v.dtype) * maps[:, 1::2]  # [B, v, N, N]
            out = maps @ v
        if gain is not None:
            out = gain * rms_norm(out)
        out = out.transpose(1, 2)  # [B, N, h, d]
        return self.proj(out.reshape(*out.shape[:2], self.width))  # type: ignore[no-any-return]

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``[B, N, D]`` queries and keys ``[B, h, N, D / h]`` and values ``[B, v, N, D / v]``."""
        if torch.onnx.is_in_onnx_export():  # ONNX Runtime would split one product's result by copying it
            weights = self.qkv.weight.chunk(3)
            biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
            parts = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        else:
            parts = list(self.qkv(x).chunk(3, dim=-1))
        heads = self.heads, self.heads, self.value_heads
        q, k, v = (
            p.view(*p.shape[:2], h, self.width // h).transpose(1, 2)
            for p, h in zip(parts, heads, strict=True)
        )
        return q, k, v


def hide(logits: Tensor, visible: Tensor) -> Tensor:
    """Logits with the minimum at the keys that are hidden."""
    return logits.masked_fill(~visible, torch.finfo(logits.dtype).min)


class MLP(nn.Module):
    """Linear, exact GELU, linear; or linear without a bias, ReLU, linear."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = F.relu if activation == "relu" else F.gelu
        self.fc1 = nn.Linear(width, hidden, bias=activation != "relu")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class PatchConv(nn.Module):
    """Depth-wise 7x7 convolution over the grid of patches; the class token passes. Starts as the identity.

    ``[B, 1 + G * G, D] -> [B, 1 + G * G, D]``.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        nn.init.dirac_(self.conv.weight, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the patches."""
        first, patches = x[:, :1], x[:, 1:]
        maps = patches.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # [B, D, G, G]
        return torch.cat([first, self.conv(maps).flatten(2).transpose(1, 2)], dim=1)


class Repeat(nn.Module):
    """The private parts of one execution of a stored block."""

    def __init__(self, config: TransformerConfig, grid: int | None, layer: int = 0) -> None:
        super().__init__()
        differential, coded = config.attention == "differential", config.differential == "coded"
        start = 0.8 if config.lambda_start == "fixed" else 0.8 - 0.6 * exp(-0.3 * layer)  # lambda0
        self.gain = 1 - start if config.head_norm or (differential and coded) else None
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.before = HeadMixer(config.heads) if config.mixers else None
        self.after = HeadMixer(config.heads) if config.mixers else None
        self.transform = PatchConv(config.width, grid) if grid is not None else None
        self.difference = Difference(config.width // config.map_heads, start) if differential else None


class MultiplexedBlock(nn.Module):
    """One stored block, executed once for each of its repeats.

    For repeat r: ``x = x + Attn(LN1_r(x); F_r, G_r)``, then ``x = x + MLP(C_r(LN2_r(x)))`` where C_r is the
    optional convolution. With ``norm="post"``: ``x = LN1_r(x + Attn(x))``, then ``x = LN2_r(x + MLP(C_r(x)))``.

    Args:
        config: sizes.
        grid: see :class:`MultiplexedTransformer`.
        first: number of the first executed layer.
    """

    def __init__(self, config: TransformerConfig, grid: int | None = None, first: int = 0) -> None:
        super().__init__()
        self.post = config.norm == "post"
        self.attention_in_words = config.attention_in_words
        self.attention = Attention(config.width, config.map_heads, config.qkv_bias, config.value_heads)
        self.mlp = MLP(config.width, int(config.width * config.mlp_ratio), config.activation)
        self.repeats = nn.ModuleList(Repeat(config, grid, first + r) for r in range(config.repeats))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        for repeat in self.repeats:
            assert isinstance(repeat, Repeat)
            hidden = x if self.post else repeat.norm1(x)
            x = x + self.attention(
                hidden, visible, repeat.before, repeat.after, repeat.difference, repeat.gain
            )
            x = repeat.norm1(x) if self.post else x
            hidden = x if self.post else repeat.norm2(x)
            if repeat.transform is not None:
                hidden = repeat.transform(hidden)
            x = x + self.mlp(hidden)
            x = repeat.norm2(x) if self.post else x
        return x


class MultiplexedTransformer(nn.Module):
    """Stored blocks in order, each executed ``repeats`` times in a row: A A B B C C.

    Args:
        config: sizes; with ``repeats=1`` and ``mixers=False`` this is a plain pre-LN transformer.
        grid: side of the patch grid, to add MiniViT's convolution before the MLP; ``None`` leaves it out.
    """

    def __init__(self, config: TransformerConfig, grid: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            MultiplexedBlock(config, grid, block * config.repeats) for block in range(config.blocks)
        )

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``; ``visible`` as in :class:`Attention`."""
        if visible is not None and torch.onnx.is_in_onnx_export():  # once for all blocks
            visible = hide(x.new_zeros(1), visible.expand(-1, -1, x.shape[1], -1))
        for block in self.blocks:
            x = block(x, visible)
        return x


def init_weights(module: nn.Module) -> None:
    """Truncated normal (0.02) for matrices, zero for biases; call with ``module.apply(init_weights)``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
