"""PyTorch's attention module in plain operations, while a tower is written as a graph.

``nn.MultiheadAttention`` makes the length of its keys a constant of the traced graph, and moves the batch behind the
tokens and back. The same sums in the order of the batch give a graph for any length, with half the transpositions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_FORWARD = nn.MultiheadAttention.forward


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let every ``nn.MultiheadAttention`` compute in plain operations inside this context."""
    nn.MultiheadAttention.forward = _attend  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.MultiheadAttention.forward = _FORWARD  # type: ignore[method-assign]


def _attend(
    self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Batched attention with at most a mask of tokens by tokens; anything else is left to the library."""
    mask = named.get("attn_mask")
    plain = (
        not others and not named.get("need_weights", True) and named.get("key_padding_mask") is None
        and self.in_proj_weight is not None and self.bias_k is None and not self.add_zero_attn
        and query.dim() == 3 and (mask is None or mask.dim() == 2)
    )  # fmt: skip
    if not plain:
        return _FORWARD(self, query, key, value, *others, **named)
    bias = self.in_proj_bias
    if query is key and key is value:
        q, k, v = F.linear(query, self.in_proj_weight, bias).chunk(3, dim=-1)
    else:
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    if not self.batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    q, k, v = (
        x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v)
    )  # [n, h, t, d]
    scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)  # [n, h, t, t]
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(mask, -math.inf)
    found = self.out_proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    return found if self.batch_first else found.transpose(0, 1), None
