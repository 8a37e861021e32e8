"""Overlap of boxes and class-aware non-maximum suppression."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def overlap(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box ``[4]`` with many ``[n, 4]``: ``[n]`` in 0..1."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    result: Floats = inside / np.maximum(area - inside, 1e-9)
    return result


def suppress(boxes: Floats, scores: Floats, labels: Ints, iou: float) -> Ints:
    """Rows to keep, the surest first: a box goes when a surer one *of its class* overlaps it by more than ``iou``.

    Args:
        boxes: ``[n, 4]``.
        scores: ``[n]``.
        labels: ``[n]``.
        iou: largest overlap of two kept boxes of one class.

    Returns:
        Row numbers ``[k]``. Of equal scores the earlier row is kept.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        rival = (labels[rest] == labels[best]) & (overlap(boxes[best], boxes[rest]) > iou)
        order = rest[~rival]
    return np.array(kept, dtype=np.int64)
