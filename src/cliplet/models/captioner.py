"""The captioner in PyTorch: a small pre-LN transformer decoder that looks at the cells of a photo's grid.

Shapes: ``n`` photos, ``N`` cells, ``C`` channels of the grid, ``D`` width, ``L`` layers, ``V`` tokens, ``k``
hypotheses of a photo in decoding, ``S`` tokens of all captions of a photo put end to end in training.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import ModelError
from cliplet.models.captioner_config import CaptionerConfig
from cliplet.models.config import from_dict, to_dict
from cliplet.models.dual import fill
from cliplet.models.tensors import write_tensors

WEIGHTS = "captioner.safetensors"
CONFIG = "captioner_config.json"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention ``[..., T, d]`` of queries to keys and values ``[..., N, d]``, to those where ``mask`` is True.

    As plain products: for captions on a CPU its backward pass takes a third of the time of PyTorch's fused form.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [..., T, N]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention, MLP; each after a LayerNorm and added to its input."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        width, hidden = config.width, round(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.dropout = config.dropout
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.cross_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def split(self, x: Tensor) -> Tensor:
        """``[m, T, D]`` -> ``[m, heads, T, D / heads]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def drop(self, x: Tensor) -> Tensor:
        """Dropout of a branch."""
        return F.dropout(x, self.dropout, self.training)

    def after_self(self, x: Tensor, cells: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-attention to keys and values ``[n, heads, N, D / heads]``, then the MLP; ``x`` is ``[n, T, D]``."""
        q = self.split(self.query(self.cross_norm(x)))
        seen = attend(q, *cells).transpose(1, 2).flatten(2)  # [n, T, D]
        x = x + self.drop(self.cross_out(seen))
        return x + self.drop(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))))

    def forward(self, x: Tensor, cells: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Whole captions: ``x`` ``[n, S, D]``, ``mask`` ``[n, 1, S, S]`` True where a token may look."""
        q, k, v = (self.split(part) for part in self.qkv(self.self_norm(x)).chunk(3, dim=-1))
        seen = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.after_self(x + self.drop(self.self_out(seen)), cells)

    def step(self, x: Tensor, cells: tuple[Tensor, Tensor], past: Tensor) -> tuple[Tensor, Tensor]:
        """One more token of each hypothesis: ``x`` ``[n, k, D]``, ``past`` ``[2, n, k, t, D]``, returned longer."""
        q, k, v = self.qkv(self.self_norm(x)).chunk(3, dim=-1)  # [n, k, D] each
        present = torch.cat([past, torch.stack([k, v]).unsqueeze(3)], dim=3)  # [2, n, k, t + 1, D]
        keys, values = (self.split(part.flatten(0, 1)) for part in (present[0], present[1]))
        query = self.split(q.flatten(0, 1).unsqueeze(1))  # [n k, heads, 1, D / heads]
        seen = attend(query, keys, values)
        x = x + self.self_out(seen.flatten(1).view_as(x))
        return self.after_self(x, cells), present


class CaptionDecoder(nn.Module):
    """Grid features in, logits of the next token out; the output matrix is the embedding.

    Args:
        config: sizes; ``vocab_size`` must be set.
        cells: cells of a grid ``N``.
        channels: channels of a cell ``C``.
    """

    def __init__(self, config: CaptionerConfig, cells: int, channels: int) -> None:
        super().__init__()
        width = config.width
        self.config, self.cells, self.channels = config, cells, channels
        self.reduce = nn.Linear(channels, width)
        self.grid_norm = nn.LayerNorm(width)
        self.grid_positions = nn.Parameter(torch.zeros(cells, width))
        self.keys_values = nn.Linear(width, config.layers * 2 * width)
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.zeros(config.max_tokens, width))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=width**-0.5 if name.startswith("embedding") else 0.02)
        nn.init.xavier_uniform_(self.reduce.weight)

    def memory(self, grid: Tensor, dropout: float | None = None) -> Tensor:
        """What the decoder looks at, once a photo: grid ``[n, N, C]`` -> keys and values ``[n, L, 2, N, D]``.

        ``dropout`` of the projected grid; by default the configuration's in training and none in evaluation.
        """
        x = self.grid_norm(self.reduce(grid.float())) + self.grid_positions
        if dropout is None:
            dropout = self.config.feature_dropout if self.training else 0.0
        x = F.dropout(x, dropout, dropout > 0)
        both = self.keys_values(x).unflatten(-1, (self.config.layers, 2, self.config.width))
        return both.permute(0, 2, 3, 1, 4)  # type: ignore[no-any-return]

    def _cells(self, memory: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        block = self.blocks[layer]
        return block.split(memory[:, layer, 0]), block.split(memory[:, layer, 1])  # type: ignore[operator]

    def states(self, memory: Tensor, tokens: Tensor, caption: Tensor) -> Tensor:
        """States before the output matrix of captions that lie end to end.

        Args:
            memory: ``[n, L, 2, N, D]``.
            tokens: tokens so far ``[n, S]``, each caption from its start token on.
            caption: number of each token's caption ``[n, S]``, rising; negative for padding.

        Returns:
            ``[n, S, D]``; a token sees itself and the earlier ones of its own caption.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        same = caption[:, :, None] == caption[:, None, :]  # [n, S, S]
        mask = same & (position[:, None] >= position[None, :])
        first = same.int().argmax(dim=2)  # [n, S] where each token's caption begins
        at = (position - first).clamp_max(self.config.max_tokens - 1)
        x = self.embedding(tokens) + self.positions[at]
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, self._cells(memory, i), mask[:, None])
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, states: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., V]``."""
        return F.linear(states, self.embedding.weight, self.bias)

    def forward(self, memory: Tensor, tokens: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """One decoding step with a key-value cache; this is ``decoder.onnx``.

        Args:
            memory: ``[n, L, 2, N, D]``.
            tokens: last token of each hypothesis ``[n, k]``.
            past: keys and values of the tokens before ``[L, 2, n, k, t, D]``; t is 0 at the start.

        Returns:
            logits ``[n, k, V]`` and the cache with one more token.
        """
        x = self.embedding(tokens) + self.positions[past.shape[4]]
        presents = []
        for i, block in enumerate(self.blocks):
            x, present = block.step(x, self._cells(memory, i), past[i])  # type: ignore[operator]
            presents.append(present)
        return self.logits(self.norm(x)), torch.stack(presents)


class TorchSteps:
    """A decoder as the decoding code of :mod:`cliplet.captioner.decoding` steps it."""

    def __init__(self, decoder: CaptionDecoder) -> None:
        self.decoder = decoder

    def start(self, memory: Any, hypotheses: int) -> Tensor:
        """An empty cache."""
        config = self.decoder.config
        return memory.new_zeros(config.layers, 2, len(memory), hypotheses, 0, config.width)

    def step(self, memory: Any, tokens: Any, past: Any) -> tuple[Any, Any]:
        """Logits as numpy float32 ``[n, k, V]``, and the longer cache."""
        with torch.no_grad():
            logits, past = self.decoder(memory, torch.from_numpy(tokens).to(memory.device), past)
        return logits.float().cpu().numpy(), past

    def photos(self, memory: Any, past: Any, rows: Any) -> tuple[Any, Any]:
        """Only these photos."""
        chosen = torch.from_numpy(rows).to(memory.device)
        return memory[chosen], past[:, :, chosen]

    def hypotheses(self, past: Any, parents: Any) -> Any:
        """The cache of hypotheses that continue ``parents`` ``[n, k]``."""
        chosen = torch.from_numpy(parents).to(past.device)
        return past[:, :, torch.arange(len(parents), device=past.device)[:, None], chosen]


def save_decoder(decoder: CaptionDecoder, folder: str | Path) -> None:
    """Write the decoder's weights and sizes into ``folder``; each file appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WEIGHTS + ".part")
    write_tensors(decoder.state_dict(), part, {"format": "pt"})
    os.replace(part, folder / WEIGHTS)
    part = folder / (CONFIG + ".part")
    content = {"config": to_dict(decoder.config), "cells": decoder.cells, "channels": decoder.channels}
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / CONFIG)


def load_decoder(folder: str | Path) -> CaptionDecoder:
    """The decoder that :func:`save_decoder` wrote, in evaluation mode.

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the sizes.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}; give a folder that captioner training wrote")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = from_dict(CaptionerConfig, content["config"])
        decoder = CaptionDecoder(config, content["cells"], content["channels"])
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise ModelError(f"{folder / CONFIG} is damaged ({error!r}); train again with --restart") from error
    fill(decoder, folder / WEIGHTS)
    return decoder.eval()
