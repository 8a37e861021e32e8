"""Texts through a text tower of open_clip at their own length."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def encode_short(model: Any, ids: Tensor) -> Tensor:
    """``model.encode_text(ids)`` without the places behind the longest text's end, where nothing depends on them.

    CLIP's text towers are causal and read their result at the end token, so what stands behind it changes nothing: a
    caption of 13 tokens costs 13 of 77 places. Other towers (masked, of Transformers, with a class token) get all.

    Args:
        model: of open_clip.
        ids: ``[n, context_length]``.

    Returns:
        ``[n, d]``, unnormalised.
    """
    inner = getattr(model, "text", None)
    owner = model if inner is None else inner
    pool = getattr(owner, "text_pool_type" if inner is None else "pool_type", "")
    causal = getattr(owner, "attn_mask", None) is not None and not getattr(owner, "use_pad_mask", False)
    length = int(ids.argmax(dim=-1).max()) + 1 if len(ids) else ids.shape[1]
    if (
        pool != "argmax"
        or not causal
        or length >= ids.shape[1]
        or getattr(owner, "cls_emb", None) is not None
    ):
        return model.encode_text(ids)  # type: ignore[no-any-return]
    ids = ids[:, :length]
    dtype = owner.transformer.get_cast_dtype()
    x = owner.token_embedding(ids).to(dtype) + owner.positional_embedding[:length].to(dtype)
    x = owner.transformer(x, attn_mask=owner.attn_mask[:length, :length])
    x = owner.ln_final(x[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)])
    projection = owner.text_projection
    if projection is None:
        return x  # type: ignore[no-any-return]
    if isinstance(projection, Tensor):
        return x @ projection
    return F.linear(x, projection.weight, projection.bias)
