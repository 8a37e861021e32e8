"""DCLIP's teacher: regions of a photo and spans of its caption attend to each other and become one embedding.

Source: DCLIP (arXiv 2505.21549), with what its public code does where the paper could not be read.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.config import CrossModalConfig


class CrossModalOutput(NamedTuple):
    """What the teacher makes of a batch."""

    fused: Tensor
    """``[B, d]``: the embedding to be learned, unnormalised."""
    text: Tensor
    """``[B, d]``: pooled spans."""
    image: Tensor
    """``[B, d]``: pooled regions."""
    span_weights: Tensor
    """``[B, M]``: share of each span in ``text``; rows sum to 1."""
    region_weights: Tensor
    """``[B, N]``: share of each region in ``image``; rows sum to 1."""
    attention: Tensor
    """``[B, M, N]``: how much each span looks at each region in the last layer, mean over heads."""


class CrossAttentionLayer(nn.Module):
    """``T' = LN(T + MHA(T, P, P))`` and ``P' = LN(P + MHA(P, T, T))``: both from the layer's inputs, no MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.text_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.image_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.text_norm = nn.LayerNorm(dim)
        self.image_norm = nn.LayerNorm(dim)

    def forward(
        self, spans: Tensor, regions: Tensor, span_padding: Tensor | None, region_padding: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spans ``[B, M, d]`` and regions ``[B, N, d]`` after looking at each other, and the attention ``[B, M, N]``.

        The paddings, ``[B, M]`` and ``[B, N]``, are True where there is nothing.
        """
        seen, attention = self.text_attention(spans, regions, regions, key_padding_mask=region_padding)
        read, _ = self.image_attention(
            regions, spans, spans, key_padding_mask=span_padding, need_weights=False
        )
        return self.text_norm(spans + seen), self.image_norm(regions + read), attention


def pool_by_similarity(states: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean weighted by similarity to the mean: ``w = softmax(cos(x_i, mean x) / temperature)``, ``g = sum w_i x_i``.

    Args:
        states: ``[B, N, d]``.
        mask: ``[B, N]``, True where there is something, at least once a row; None counts all.
        temperature: above 0.

    Returns:
        Pooled ``[B, d]`` and the weights ``[B, N]``, 0 where masked.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> pooled, weights = pool_by_similarity(x, None, 2.0)
        >>> [round(w, 4) for w in weights[0].tolist()]
        [0.3573, 0.3573, 0.2855]
    """
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)
    mean = (states * mask[:, :, None]).sum(dim=1) / count  # [B, d]
    likeness = F.cosine_similarity(states, mean[:, None], dim=2) / temperature  # [B, N]
    weights = likeness.masked_fill(~mask, float("-inf")).softmax(dim=1)
    return (weights[:, :, None] * states).sum(dim=1), weights


class CrossModalTeacher(nn.Module):
    """Regions and spans in, one embedding a pair out.

    With zero attention output (``out_proj`` zero) and one region and one span it returns the mean of their
    LayerNorms: the attention refines, it does not start from nothing.

    Args:
        config: the settings.
        dim: width of the region and span embeddings.
    """

    def __init__(self, config: CrossModalConfig, dim: int) -> None:
        super().__init__()
        config.check(dim)
        self.config = config
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, config.heads) for _ in range(config.layers))
        self.gate = nn.Linear(2 * dim, 1) if config.fusion == "learned" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(
        self, spans: Tensor, span_mask: Tensor, regions: Tensor, region_mask: Tensor
    ) -> CrossModalOutput:
        """Fuse a batch of pairs.

        Args:
            spans: ``[B, M, d]``.
            span_mask: ``[B, M]``, True where there is a span, at least once a row.
            regions: ``[B, N, d]``.
            region_mask: ``[B, N]``, True where there is a region, at least once a row.
        """
        masked = self.config.mask
        span_padding, region_padding = (~span_mask, ~region_mask) if masked else (None, None)
        attention = spans.new_zeros(0)
        for layer in self.layers:
            spans, regions, attention = layer(spans, regions, span_padding, region_padding)
        temperature = self.config.pool_temperature
        text, span_weights = pool_by_similarity(spans, span_mask if masked else None, temperature)
        image, region_weights = pool_by_similarity(regions, region_mask if masked else None, temperature)
        share: Tensor | float = 0.5
        if self.gate is not None:
            share = self.gate(torch.cat([text, image], dim=1)).sigmoid()  # [B, 1]
        fused = share * text + (1 - share) * image
        return CrossModalOutput(fused, text, image, span_weights, region_weights, attention)
