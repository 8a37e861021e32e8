"""RoIAlign to one vector a box, as weights of a map's places: no compiled operator is needed.

The points that RoIAlign samples are a grid, so its mean over them is a weighted mean of the map whose weights are the
product of those of rows and of columns. They add up to 1, so a linear map may come before or after it.

Source: Mask R-CNN (arXiv 1703.06870); equal to ``torchvision.ops.roi_align(maps, boxes, 1, aligned=True)`` for boxes
inside the photo.
"""

import torch
from torch import Tensor


def axis_weights(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Weights of the places along one axis.

    Args:
        first: where each box begins ``[N]``, as a share of the axis, 0..1.
        last: where it ends ``[N]``.
        size: places along the axis.

    Returns:
        ``[N, size]``, each row adds up to 1.
    """
    start, length = first * size, (last - first) * size
    points = length.ceil().clamp(1, size)[:, None]  # as many as the places that the box covers
    steps = torch.arange(size, device=first.device, dtype=first.dtype)[None]
    at = start[:, None] + (steps + 0.5) * length[:, None] / points - 0.5  # [N, size]: places of the points
    at = at.clamp(0, size - 1)
    near = (1 - (at[:, :, None] - steps[:, None]).abs()).clamp(
        min=0
    )  # [N, points, size]: linear interpolation
    taken = (steps < points).to(first.dtype)[:, :, None]
    return (near * taken).sum(dim=1) / points


def roi_weights(boxes: Tensor, height: int, width: int) -> Tensor:
    """Weight of each place of a map in each box's mean.

    Args:
        boxes: ``[N, 4]``: left, top, right, bottom as shares of the map's sides.
        height: places down.
        width: places across.

    Returns:
        ``[N, height, width]``; each adds up to 1. The whole map's box weighs all places alike.
    """
    left, top, right, bottom = boxes.clamp(0, 1).unbind(dim=1)
    down, across = axis_weights(top, bottom, height), axis_weights(left, right, width)
    return down[:, :, None] * across[:, None]


def roi_means(maps: Tensor, owner: Tensor, boxes: Tensor) -> Tensor:
    """One vector a box.

    Args:
        maps: ``[B, C, h, w]``.
        owner: which map each box is on ``[N]``.
        boxes: ``[N, 4]``: left, top, right, bottom as shares of the map's sides.

    Returns:
        ``[N, C]``.
    """
    weights = roi_weights(boxes.float(), *maps.shape[2:]).to(maps.dtype)
    return torch.einsum("nchw,nhw->nc", maps[owner], weights)
