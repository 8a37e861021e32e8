"""Heads of the packaged model's towers: how they split into halves, and class-name anchoring."""

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.late import LateTower, late_outputs
from cliplet.models.text import TextTower


@torch.no_grad()
def split_text_head(tower: TextTower, link: nn.Linear, dim: int) -> None:
    """From all directions of the space to the two halves: the first ones, and what the link makes of all."""
    head = tower.head
    halved = nn.Linear(head.in_features, 2 * dim)
    halved.weight.copy_(torch.cat([head.weight[:dim], link.weight @ head.weight]))
    halved.bias.copy_(torch.cat([head.bias[:dim], link.weight @ head.bias + link.bias]))
    tower.head = halved
    tower.config = dataclasses.replace(tower.config, embedding_dim=2 * dim)


@torch.no_grad()
def anchor_classes(
    late: LateTower,
    link: nn.Linear,
    classifier: Tensor,
    names: Tensor,
    maps: NDArray[np.float16],
    weight: float,
) -> None:
    """Change the head as little as possible for photos, so that ImageNet's classes lie near their names.

    A class counts as a photo whose standardised features are its classifier's weights, at a photo's usual length.
    The change minimises the squared change of the photos' outputs plus ``weight`` times the classes' squared
    errors.

    Args:
        late: the trained tower.
        link: matching half of a caption's target.
        classifier: ``[classes, width]`` of the network before training.
        names: the teacher's targets of the classes' names ``[classes, D]``, unit norm.
        maps: of the training photos, to know their features.
        weight: of the classes.
    """
    head, late.head = late.head, nn.Identity()  # type: ignore[assignment]
    photos = torch.from_numpy(late_outputs(late, maps))  # [photos, width], standardised
    late.head = head
    classes = F.normalize(classifier * late.deviation, dim=1) * classifier.shape[1] ** 0.5
    usual = head(photos).chunk(2, dim=1)
    target = torch.cat(
        [
            F.normalize(half, dim=1) * known.norm(dim=1).mean()
            for half, known in zip((names[:, : link.out_features], link(names)), usual, strict=True)
        ],
        dim=1,
    )
    left = photos.T @ photos + weight * classes.T @ classes + 2e3 * torch.eye(photos.shape[1])
    head.weight += torch.linalg.solve(left, weight * classes.T @ (target - head(classes))).T


@torch.no_grad()
def joined(head: nn.Linear, embeddings: Tensor, share: float) -> None:
    """Scale a head's two halves so that ``share`` of the squared length is meaning, in place.

    After that the plain cosine of the whole embedding is, up to the spread of the halves' lengths, the mean of the
    halves' cosines with weights ``share`` and ``1 - share``.

    Args:
        head: projection to both halves.
        embeddings: what it gives for typical inputs ``[n, 2 d]``.
        share: weight of meaning, 0..1.
    """
    half = head.out_features // 2
    for rows, weight in ((slice(0, half), share), (slice(half, None), 1 - share)):
        factor = math.sqrt(weight) / float(embeddings[:, rows].norm(dim=1).mean())
        head.weight[rows] *= factor
        head.bias[rows] *= factor
