"""The packaged model's image tower in training: an embedding of two halves, and its losses.

The first half, *meaning*, is pulled to the teacher's caption space, where distances follow how people rate captions.
The second half, *matching*, is trained by comparison with all other photos, which finds the right caption among similar
ones. The cosine of the whole is the weighted mean of the halves' cosines.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.late import LateTower
from cliplet.training.task import Task
from cliplet.training.teacher_space import Floats
from cliplet.training.text_distillation import meaning_of

MAX_LOGIT_SCALE = 100.0
SURELY_THERE, SURELY_NOT = 0.5, 0.1
"""Detector's scores from which a thing is on a photo, and below which it is not."""
NAMES_SCALE = 20.0
"""Of cosines between photos and names."""


def halves(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """``[n, 2 d]`` -> meaning and matching, each ``[n, d]`` of length 1."""
    meaning, matching = embedding.float().chunk(2, dim=1)
    return F.normalize(meaning, dim=1), F.normalize(matching, dim=1)


def soft_targets(similarity: Tensor, own: Tensor, share: float, temperature: float = 0.1) -> Tensor:
    """Who should match whom: ``(1 - share) * own + share * softmax(similarity / temperature)``, rows sum to 1.

    A caption of another photo that means nearly the same is no full negative.

    Args:
        similarity: cosines of the photos' targets ``[B, n]``; -1e4 where a photo cannot be compared yet.
        own: column of each row's own photo ``[B]``.
        share: weight of the similar ones, 0..1.
        temperature: of their softmax.
    """
    result = share * (similarity / temperature).softmax(dim=1)
    rows = torch.arange(len(own), device=own.device)
    return result.index_put((rows, own), result.new_tensor(1 - share), accumulate=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the rows of ``logits`` ``[B, n]`` against soft targets, mean over the rows.

    Args:
        logits: scaled cosines.
        targets: ``[B, n]``, rows sum to 1.
        weights: of the rows in the mean ``[B]``; all alike without.
    """
    rows = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    return rows.mean() if weights is None else weighted_mean(rows, weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``[B]`` by weights ``[B]``."""
    return (values * weights).sum() / weights.sum()


class TwinTower(nn.Module):
    """The learning twin of an EfficientNet's last stages, and the head on what both twins see.

    The head reads the learnt pooled features, and what is known of the photo: the classifier's own pooled features, its
    probabilities, and what a detector finds.

    Args:
        late: the last stages, which learn.
        width: of the pooled features.
        classes: of the classifier.
        dim: of the embedding.
        dropout: share of features left out in training.
        alone: share of photos in training whose learnt features are all left out, so that the head can do with what is
            known.
        found: features of the detector; 0 for none.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        late: LateTower,
        width: int,
        classes: int,
        dim: int,
        dropout: float = 0.4,
        alone: float = 0.15,
        found: int = 0,
    ) -> None:
        super().__init__()
        late.head = nn.Identity()  # type: ignore[assignment]
        self.late, self.width, self.classes, self.alone = late, width, classes, alone
        inputs = 2 * width + classes + found
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, dim)

    def features(self, maps: Tensor, known: Tensor) -> Tensor:
        """Maps ``[n, C, h, w]`` and what is known ``[n, known]`` -> the head's input, standardised."""
        seen = torch.cat([self.late.features(maps), known.float()], dim=1)
        return (seen - self.mean) / self.deviation

    def forward(self, maps: Tensor, known: Tensor) -> Tensor:
        """``[n, dim]``, unnormalised."""
        x, width = self.features(maps, known), self.width
        learnt, pooled, likely, found = x.tensor_split((width, 2 * width, 2 * width + self.classes), dim=1)
        if self.training and self.alone:
            learnt = learnt * (torch.rand(len(learnt), 1) >= self.alone)
        learnt, pooled, found = self.dropout(torch.cat([learnt, pooled, found], dim=1)).tensor_split(
            (width, 2 * width), dim=1
        )
        return self.head(torch.cat([learnt, pooled, likely, found], dim=1))  # type: ignore[no-any-return]


@torch.inference_mode()
def head_inputs(
    tower: TwinTower, maps: NDArray[np.float16], known: NDArray[np.float16], batch: int = 64
) -> Floats:
    """What the head of a tower reads for kept maps ``[n, inputs]``, standardised."""
    tower.eval()
    blocks = [
        tower.features(
            torch.from_numpy(np.array(maps[i : i + batch])), torch.from_numpy(np.array(known[i : i + batch]))
        ).numpy()
        for i in range(0, len(maps), batch)
    ]
    return np.concatenate(blocks)


class NearNames(nn.Module):
    """What is surely on a photo, against the names of like things that are not: a cat, no dog and no bear.

    The cross-entropy of the right name's cosine with the photo among those of its nearest names, as the mean over the
    things of all photos. The cosine is that of the whole embedding, the weighted mean of the halves'.

    Args:
        names: the teacher's targets of the things' names ``[K, D]``, unit norm.
        shares: how sure it is that each thing is on each photo ``[P, K]``, 0..1.
        meaning: share of the meaning half in the cosine.
        near: names that each is compared with.
    """

    names: Tensor
    shares: Tensor
    near: Tensor

    def __init__(self, names: Tensor, shares: Tensor, meaning: float, near: int = 10) -> None:
        super().__init__()
        self.meaning = meaning
        cosines = names @ names.T - 2 * torch.eye(len(names))
        chosen = torch.zeros_like(cosines, dtype=torch.bool)
        chosen.scatter_(1, cosines.topk(min(near, len(names) - 1)).indices, True)
        for key, value in (("names", names), ("shares", shares), ("near", chosen)):
            self.register_buffer(key, value, persistent=False)

    def forward(self, photo: Tensor, meaning: Tensor, matching: Tensor, link: nn.Module) -> Tensor:
        """The loss of photos number ``photo`` ``[B]`` with these halves ``[B, d]``; 0 where nothing is sure."""
        names = meaning_of(self.names, meaning.shape[1]), F.normalize(link(self.names), dim=1)
        alike = self.meaning * meaning @ names[0].T + (1 - self.meaning) * matching @ names[1].T  # [B, K]
        shares = self.shares[photo]
        b, k = (shares >= SURELY_THERE).nonzero(as_tuple=True)
        if not len(b):
            return alike.sum() * 0
        others = self.near[k] & (shares[b] < SURELY_NOT)
        others[torch.arange(len(k)), k] = True
        logits = (NAMES_SCALE * alike[b]).masked_fill(~others, -1e4)
        return F.cross_entropy(logits, k)


class PairStudent(Task):
    """Photos against the teacher's captions.

    ``3 image + 10 cosines + contrastive``, and :class:`NearNames` where there are some. *image*: the cosine distance of
    the meaning half to the photo's target. *cosines*: squared differences of the batch's cosines between photos and
    captions to those of the targets.
    *contrastive*: the matching half of a photo against one caption of every training photo, and of a caption against
    all photos as they were when last seen; the matching half of a caption is a linear map of its target, the link,
    which learns too. What is alike counts as partly right (:func:`soft_targets`).

    Args:
        late: the image tower's last stages.
        link: matching half of a caption's target, ``[D] -> [d]``.
        captions: the teacher's targets of all captions ``[N, D]``, unit norm.
        photos: targets of the photos ``[P, d]``, unit norm.
        soft: weight of similar captions in the contrastive targets.
        weights: of the photos in every loss ``[P]``; all alike without.
        names: a further loss.
        names_weight: its weight.
    """

    captions: Tensor
    photos: Tensor
    bank: Tensor
    seen: Tensor
    importance: Tensor

    def __init__(
        self,
        late: nn.Module,
        link: nn.Linear,
        captions: Tensor,
        photos: Tensor,
        soft: float = 0.5,
        weights: Tensor | None = None,
        names: NearNames | None = None,
        names_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.names, self.names_weight = names, names_weight
        self.model = nn.ModuleDict({"image": late, "link": link})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))
        self.soft = soft
        self.register_buffer("captions", captions, persistent=False)
        self.register_buffer("photos", photos, persistent=False)
        alike = torch.ones(len(photos)) if weights is None else weights
        self.register_buffer("importance", alike, persistent=False)
        self.register_buffer("bank", torch.zeros(len(photos), link.out_features))
        self.register_buffer("seen", torch.zeros(len(photos), dtype=torch.bool))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch.

        ``maps`` ``[B, C, h, w]`` of the photos ``photo`` ``[B]``, what the classifier knows of them ``known``
        ``[B, width + classes]``, and one caption of every training photo, ``columns`` ``[P]``.
        """
        rows, dim = batch["photo"], self.bank.shape[1]
        meaning, matching = halves(self.model["image"](batch["maps"], batch["known"]))
        weights = self.importance[rows]
        photo, columns = self.photos[rows], self.captions[batch["columns"]]
        caption = meaning_of(columns[rows], dim)
        dropout = 0.1 if self.training else 0.0
        columns = F.normalize(self.model["link"](F.dropout(columns, dropout)), dim=1)  # [P, d]
        terms = {
            "image": weighted_mean(1 - (meaning * photo).sum(dim=1), weights),
            "cosines": weighted_mean((meaning @ caption.T - photo @ caption.T).square().mean(dim=1), weights),
            "contrastive": self._contrastive(rows, photo, matching, columns),
        }
        loss = 3 * terms["image"] + 10 * terms["cosines"] + terms["contrastive"]
        if self.names is not None:
            terms["names"] = self.names(rows, meaning, matching, self.model["link"])
            loss = loss + self.names_weight * terms["names"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}

    def _contrastive(self, rows: Tensor, photo: Tensor, matching: Tensor, columns: Tensor) -> Tensor:
        """Photos against a caption of every photo, captions against every photo seen so far."""
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        similarity = photo @ self.photos.T  # [B, P]
        weights = self.importance[rows]
        to_text = soft_cross_entropy(
            scale * matching @ columns.T, soft_targets(similarity, rows, self.soft), weights
        )
        with torch.no_grad():
            self.bank[rows] = matching.detach()
            self.seen[rows] = True
        hidden = ~self.seen
        bank = self.bank.clone().index_copy(0, rows, matching)
        logits = (scale * columns[rows] @ bank.T).masked_fill(hidden, -1e4)
        targets = soft_targets(similarity.masked_fill(hidden, -1e4), rows, self.soft)
        return (to_text + soft_cross_entropy(logits, targets, weights)) / 2
