"""ReLU conversion with self-distillation: nearly the same text tower from fewer and cheaper operations.

A ReLU without a bias in front of it takes the GELU's place, which in 8 bits makes the activation a part of the product,
and the token at the end is left out. The new tower starts from the old one's weights and learns its block outputs and
embeddings from captions alone.
"""

import copy
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.models.multiplexed import MultiplexedBlock, Repeat
from cliplet.models.quick_products import quick_products
from cliplet.models.text import TextTower
from cliplet.training.task import Task
from cliplet.training.text_distillation import padded

CUT, THINNED = 0.15, 0.15
"""Shares of captions that end early or lose some words, so that more of the function is seen."""
SORTED = 32
"""Batches whose captions are sorted by length together."""


def without_end(tokenizer: Any) -> Any:
    """A copy of a tokeniser that does not put a token behind the text."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    content["post_processor"]["single"].pop()
    return Tokenizer.from_str(json.dumps(content))


@torch.no_grad()
def relu_tower(tower: TextTower) -> TextTower:
    """The tower with ReLUs, before it has learnt.

    ``W + b m^T / |m|^2`` stands for W and the bias b, where m is the mean of what comes in, the LayerNorm's bias.
    """
    new = TextTower(dataclasses.replace(tower.config, activation="relu"))
    new.head = copy.deepcopy(tower.head)
    new.load_state_dict({k: v for k, v in tower.state_dict().items() if not k.endswith("mlp.fc1.bias")})
    for old, block in zip(tower.transformer.blocks, new.transformer.blocks, strict=True):
        assert isinstance(old, MultiplexedBlock)
        assert isinstance(block, MultiplexedBlock)
        mean = (
            cast(Repeat, old.repeats[0]).norm1.bias if old.post else cast(Repeat, old.repeats[0]).norm2.bias
        )
        block.mlp.fc1.weight += torch.outer(old.mlp.fc1.bias, mean / mean.square().sum().clamp_min(1e-6))
    return new


class ReluStudent(Task):
    """``5 cosine + states``.

    *cosine*: the cosine distances to the old tower's embedding, of the whole and of both halves. *states*: the squared
    error of each block's output, relative to the old one's size. The word embedding stays as it is.

    Args:
        tower: from :func:`relu_tower`.
        old: the tower it came from, which reads one token more.
    """

    def __init__(self, tower: TextTower, old: TextTower) -> None:
        super().__init__()
        self.model = tower
        tower.embedding.table.requires_grad_(False)
        tower.positions.requires_grad_(False)
        self._old = [copy.deepcopy(old).eval().requires_grad_(False)]  # no part of this module's state

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of ``input_ids`` and ``attention_mask`` for the old tower."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        short = mask[:, 1:]  # [B, T - 1]: one token less each, the last
        with quick_products():
            with torch.no_grad():
                target, wanted = _with_states(self._old[0], ids, mask)
            said, found = _with_states(self.model, ids[:, :-1], short)
        weight = short[:, :, None].float()
        states = [
            ((x - y[:, :-1]).square() * weight).sum() / (y[:, :-1].square() * weight).sum()
            for x, y in zip(found, wanted, strict=True)
        ]
        half = said.shape[1] // 2
        parts = (slice(None), slice(0, half), slice(half, None))
        cosines = [(1 - F.cosine_similarity(said[:, p], target[:, p], dim=1)).mean() for p in parts]
        terms = {"cosine": torch.stack(cosines).sum(), "states": torch.stack(states).sum()}
        loss = 5 * terms["cosine"] + terms["states"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}


def _with_states(tower: TextTower, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The embedding and the output of each block, fp32."""
    states: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: states.append(output.float()))
        for block in tower.transformer.blocks
    ]
    try:
        return tower(ids, mask).float(), states
    finally:
        for hook in hooks:
            hook.remove()


class LengthBatches:
    """``size`` token sequences of like length a batch, some of them cut or thinned."""

    def __init__(self, tokens: Sequence[Sequence[int]], size: int, seed: int) -> None:
        self.tokens, self.size, self.seed = tokens, size, seed
        self.batches = len(tokens) // size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.tokens))[: self.batches * self.size]
        batches: list[list[list[int]]] = []
        for start in range(0, len(order), SORTED * self.size):
            block = [shortened(self.tokens[i], rng) for i in order[start : start + SORTED * self.size]]
            block.sort(key=len)
            groups = [block[i : i + self.size] for i in range(0, len(block), self.size)]
            batches.extend(groups[i] for i in rng.permutation(len(groups)))
        for batch in batches[first:]:
            yield padded(batch)


def shortened(tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A caption between its first and last token, sometimes cut or thinned."""
    first, words, last = tokens[0], list(tokens[1:-1]), tokens[-1]
    kind = rng.random()
    if len(words) > 4 and kind < CUT:
        words = words[: rng.integers(1, len(words))]
    elif len(words) > 4 and kind < CUT + THINNED:
        words = [word for word in words if rng.random() > 0.15]
    return [first, *words, last]
