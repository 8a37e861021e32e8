"""Learnt positions for longer texts: the first ones stay, the others are spread out (Long-CLIP).

Source: Long-CLIP (arXiv 2403.15378), knowledge-preserved stretching; FG-CLIP (arXiv 2505.05071) takes it over.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.models.dual import DualModel
from cliplet.models.text import TextTower

KEPT = 20
"""Positions that stay as they are, of 77."""


def stretch(table: Tensor, keep: int, factor: int) -> Tensor:
    """A table of positions with ``factor`` places for each one after the first ``keep``.

    Place ``keep + factor i + k`` is ``old[keep + i] + k / factor (old[keep + i + 1] - old[keep + i])``; after the last
    old position it goes on with the last difference.

    Args:
        table: ``[T, D]``, at least two positions more than are kept.
        keep: first positions, which stay.
        factor: 1 changes nothing.

    Returns:
        ``[keep + factor (T - keep), D]``; 77 positions with ``keep=20, factor=4`` become 248.

    Example:
        >>> stretch(torch.tensor([[0.0], [1.0], [3.0]]), 1, 2)[:, 0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    if not 0 <= keep <= len(table) - 2 or factor < 1:
        raise InputError(f"a table of {len(table)} positions cannot be stretched {factor} times after {keep}")
    rest = table[keep:]
    steps = torch.cat([rest[1:] - rest[:-1], rest[-1:] - rest[-2:-1]])  # [T - keep, D]
    parts = torch.arange(factor, device=table.device, dtype=table.dtype) / factor
    spread = rest[:, None] + parts[None, :, None] * steps[:, None]  # [T - keep, factor, D]
    return torch.cat([table[:keep], spread.flatten(0, 1)])


def lengthened(table: Tensor, length: int, keep: int | None = None) -> Tensor:
    """The table stretched by the smallest factor that gives ``length`` positions, and cut there.

    Args:
        table: ``[T, D]``.
        length: more than T.
        keep: positions that stay; 20, or half of a table of less than 40.

    Raises:
        InputError: the table is as long already, or has fewer than three positions.
    """
    positions = len(table)
    if length <= positions or positions < 3:
        raise InputError(
            f"the text tower has {positions} positions: context_length={length} must be more, and at least 3 be there"
        )
    keep = min(KEPT, positions // 2) if keep is None else keep
    return stretch(table, keep, math.ceil((length - keep) / (positions - keep)))[:length]


@torch.no_grad()
def lengthen_text(model: DualModel, length: int) -> None:
    """Give one of our own models' text towers more positions, in place.

    A text tower of Transformers with as many positions already (BERT has 512) only takes longer texts; with fewer, its
    table of learnt positions is stretched.

    Raises:
        InputError: the tower reads as much already, or has no learnt positions.
    """
    tower: Any = model.text
    config = tower.config
    if length <= config.context_length:
        raise InputError(
            f"the text tower reads {config.context_length} tokens already: context_length={length} must be more"
        )
    if isinstance(tower, TextTower):
        tower.positions = nn.Parameter(lengthened(tower.positions.detach(), length))
        past = torch.ones(length, length, dtype=torch.bool, device=tower.positions.device).tril()
        tower.register_buffer("past", past, persistent=False)
        config = replace(config, context_length=length)
    else:
        config = replace(
            config, context_length=length, config=_lengthen_library(tower.body, length, config.config)
        )
    tower.config = config
    model.config = replace(model.config, text=config)


def _lengthen_library(body: Any, length: int, config: dict[str, Any]) -> dict[str, Any]:
    """A tower of Transformers; the library's configuration afterwards."""
    embeddings: Any = getattr(body, "embeddings", None)
    known = getattr(embeddings, "position_embeddings", None)
    most = int(getattr(body.config, "max_position_embeddings", 0))
    first = getattr(known, "padding_idx", None)  # RoBERTa counts positions from the padding token
    if most - (0 if first is None else first + 1) >= length:
        return config
    if not isinstance(known, nn.Embedding) or first is not None:
        raise InputError(
            f"{type(body).__name__} has no table of positions that could be stretched to {length}; choose a smaller "
            "context_length"
        )
    table = lengthened(known.weight.detach(), length)
    embeddings.position_embeddings = nn.Embedding.from_pretrained(table, freeze=False)
    for name in ("position_ids", "token_type_ids"):
        old = getattr(embeddings, name, None)
        if isinstance(old, Tensor):
            new = (
                torch.arange(length)[None]
                if name == "position_ids"
                else torch.zeros(1, length, dtype=old.dtype)
            )
            embeddings.register_buffer(name, new.to(old), persistent=False)
    body.config.max_position_embeddings = length
    return {**config, "max_position_embeddings": length}


@torch.no_grad()
def lengthen_open_clip(model: Any, length: int) -> None:
    """The same for the text tower of a model of open_clip, in place.

    Raises:
        InputError: the tower reads as much already, or has no learnt positions of its own.
    """
    owner = model if isinstance(getattr(model, "positional_embedding", None), nn.Parameter) else model.text
    table = getattr(owner, "positional_embedding", None)
    if not isinstance(table, nn.Parameter) or getattr(owner, "cls_emb", None) is not None:
        raise InputError("this text tower of open_clip has no table of positions that could be stretched")
    owner.positional_embedding = nn.Parameter(lengthened(table.detach(), length))
    if getattr(owner, "attn_mask", None) is not None:
        mask = torch.full((length, length), -torch.inf).triu(1)
        owner.register_buffer("attn_mask", mask.to(owner.attn_mask), persistent=False)
    for name in ("context_length", "num_pos"):
        for one in {model, owner}:
            if hasattr(one, name):
                setattr(one, name, length)
