"""Text distillation: a text tower learns a space of captions that other encoders made, from captions alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.encoders.base import unit_norm
from cliplet.encoders.torch import pad_tokens
from cliplet.models.quick_products import quick_products
from cliplet.models.text import TextTower
from cliplet.training.task import Task
from cliplet.training.teacher_space import Floats, ridge

LONGEST = 26
"""Captions are cut to this many tokens in training; a longer one is rare."""
TEMPERATURE = 0.05
"""Of the similarities among captions that the text tower copies."""


@dataclass
class Captions:
    """Captions with the photo of each (numbered from 0), their tokens and their targets."""

    texts: list[str]
    """``[n]``."""
    photo: NDArray[np.int64]
    """``[n]``."""
    tokens: list[list[int]]
    """``[n]`` lists of ids."""
    target: Floats
    """``[n, d]``, unit norm."""

    def of_photos(self) -> list[NDArray[np.int64]]:
        """Rows of each photo."""
        order = np.argsort(self.photo, kind="stable")
        return np.split(order, np.searchsorted(self.photo[order], np.arange(1, int(self.photo.max()) + 1)))

    def photo_targets(self, dim: int) -> Floats:
        """Mean meaning (first ``dim`` directions) of each photo's captions ``[photos, dim]``, not normalised."""
        meaning = unit_norm(self.target[:, :dim])
        return np.stack([meaning[rows].mean(axis=0) for rows in self.of_photos()])


def padded(sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``."""
    ids, mask = pad_tokens(sequences)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _cut(tokens: Sequence[int]) -> list[int]:
    """At most LONGEST tokens, the last one kept."""
    return list(tokens) if len(tokens) <= LONGEST else [*tokens[: LONGEST - 1], tokens[-1]]


class TextBatches:
    """``size`` captions a batch, with their targets."""

    def __init__(self, captions: Captions, size: int, seed: int) -> None:
        self.captions, self.size, self.seed = captions, size, seed
        self.batches = len(captions.texts) // size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.captions.texts))
        for batch in range(first, self.batches):
            chosen = order[batch * self.size : (batch + 1) * self.size]
            yield {
                **padded([_cut(self.captions.tokens[i]) for i in chosen]),
                "target": torch.from_numpy(self.captions.target[chosen]),
            }


def meaning_of(targets: Tensor, dim: int) -> Tensor:
    """Caption targets ``[n, D]`` -> their first ``dim`` directions, length 1."""
    return F.normalize(targets[:, :dim], dim=1)


def encode_by_length(tower: nn.Module, ids: Tensor, mask: Tensor, chunk: int = 64) -> Tensor:
    """Run a text tower on texts sorted by length, so that little is spent on padding; ``[n, d]`` in their order."""
    lengths = mask.sum(dim=1)
    order = lengths.argsort()
    parts = []
    for rows in order.split(chunk):
        longest = int(lengths[rows].max())
        parts.append(tower(ids[rows, :longest], mask[rows, :longest]).float())
    return torch.cat(parts)[order.argsort()]


@torch.inference_mode()
def encode_all(tower: nn.Module, tokens: Sequence[Sequence[int]]) -> Floats:
    """Outputs of a text tower for many token sequences, unnormalised."""
    tower.eval()
    batch = padded([t[:77] for t in tokens])
    return encode_by_length(tower, batch["input_ids"], batch["attention_mask"], 128).numpy()  # type: ignore[no-any-return]


def start_text_head(tower: TextTower, captions: Captions, seed: int) -> None:
    """Set the text head to a ridge regression from the states of some captions to their targets."""
    rows = np.random.default_rng(seed).permutation(len(captions.texts))[:6000]
    head, tower.head = tower.head, nn.Identity()  # type: ignore[assignment]
    states = encode_all(tower, [captions.tokens[i] for i in rows])
    tower.head = head
    mean = states.mean(axis=0)
    penalty = 1e-3 * len(rows) * float(states.var(axis=0).mean())
    weight = ridge(states - mean, captions.target[rows], penalty)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight.T))
        head.bias.copy_(-head.weight @ torch.from_numpy(mean))


class TextStudent(Task):
    """A text tower that learns a space of captions, from captions alone.

    ``4 cosine + relations``: the cosine distance to the caption's target, over all of its directions and over the
    first ``meaning`` alone, and KL divergences of the similarities among the batch's captions, to each other and to the
    targets.

    Args:
        tower: what learns; its head has the targets' width.
        meaning: directions of the target that must also agree by themselves; all of them for a space without parts.
    """

    def __init__(self, tower: TextTower, meaning: int) -> None:
        super().__init__()
        self.model = tower
        self.meaning = meaning

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of ``input_ids``, ``attention_mask`` and ``target`` ``[B, D]``."""
        with quick_products():
            said = encode_by_length(self.model, batch["input_ids"], batch["attention_mask"])
        student, target = F.normalize(said, dim=1), batch["target"]
        own = torch.eye(len(target), dtype=torch.bool, device=target.device)
        teacher = target @ target.T / TEMPERATURE
        within = (student @ student.T / TEMPERATURE).masked_fill(own, -1e4).log_softmax(dim=1)
        across = (student @ target.T / TEMPERATURE).log_softmax(dim=1)
        whole = (student * target).sum(dim=1)
        short = (meaning_of(said, self.meaning) * meaning_of(target, self.meaning)).sum(dim=1)
        terms = {
            "cosine": (2 - whole - short).mean(),
            "relations": F.kl_div(
                within, teacher.masked_fill(own, -1e4).softmax(dim=1), reduction="batchmean"
            )
            + F.kl_div(across, teacher.softmax(dim=1), reduction="batchmean"),
        }
        loss = 4 * terms["cosine"] + terms["relations"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}
