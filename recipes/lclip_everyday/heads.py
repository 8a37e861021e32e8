"""Heads of the packaged model's towers: how they split into halves, and class-name anchoring."""

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.text import TextTower

from .student import TwinTower


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
def class_inputs(tower: TwinTower, classifier: Tensor, photos: Tensor, confidence: float = 0.85) -> Tensor:
    """What the head would read from a typical photo of each class ``[classes, inputs]``.

    Known features lie along the classifier's weights, at a photo's usual length; the class has most of the
    probability; what the learnt features and the detector's are, the known ones let expect, by a ridge regression over
    photos.

    Args:
        tower: the trained tower.
        classifier: ``[classes, width]`` of the network before training.
        photos: the head's input for the training photos ``[photos, inputs]``, standardised.
        confidence: probability of the class.
    """
    width, end = tower.width, 2 * tower.width + tower.classes
    known = F.normalize(classifier * tower.deviation[width : 2 * width], dim=1) * width**0.5
    seen, others = photos[:, width : 2 * width], torch.cat([photos[:, :width], photos[:, end:]], dim=1)
    expected = torch.linalg.solve(seen.T @ seen + 0.1 * len(photos) * torch.eye(width), seen.T @ others)
    learnt, found = (known @ expected).tensor_split((width,), dim=1)
    likely = torch.eye(len(classifier)) * confidence
    likely = (likely - tower.mean[2 * width : end]) / tower.deviation[2 * width : end]
    return torch.cat([learnt, known, likely, found], dim=1)


@torch.no_grad()
def anchor_classes(
    head: nn.Linear, link: nn.Linear, photos: Tensor, classes: Tensor, names: Tensor, weight: float
) -> None:
    """Change the head as little as possible for photos, so that ImageNet's classes lie near their names.

    The change minimises the squared change of the photos' outputs plus ``weight`` times the classes' squared errors.

    Args:
        head: of the trained tower.
        link: matching half of a caption's target.
        photos: the head's input for the training photos ``[photos, inputs]``.
        classes: its input for typical photos of classes ``[classes, inputs]``, from :func:`class_inputs`.
        names: the teacher's targets of the classes' names ``[classes, D]``, unit norm.
        weight: of the classes.
    """
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
