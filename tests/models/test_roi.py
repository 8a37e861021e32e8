"""RoIAlign to one vector: worked by hand, and against a direct sampling of its points."""

import math

import pytest
import torch

from cliplet.models.roi import roi_means, roi_weights


def sampled(plane, box):
    """RoIAlign to 1x1 as its definition has it: the mean over a grid of points, each by bilinear interpolation."""
    h, w = plane.shape
    left, top, right, bottom = box[0] * w, box[1] * h, box[2] * w, box[3] * h
    rows, columns = max(1, math.ceil(bottom - top)), max(1, math.ceil(right - left))
    total = 0.0
    for i in range(rows):
        for j in range(columns):
            y = min(max(top - 0.5 + (i + 0.5) * (bottom - top) / rows, 0), h - 1)
            x = min(max(left - 0.5 + (j + 0.5) * (right - left) / columns, 0), w - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1, v, u = min(y0 + 1, h - 1), min(x0 + 1, w - 1), y - y0, x - x0
            total += (1 - v) * ((1 - u) * plane[y0, x0] + u * plane[y0, x1])
            total += v * ((1 - u) * plane[y1, x0] + u * plane[y1, x1])
    return total / (rows * columns)


def test_by_hand():
    plane = torch.arange(16.0).reshape(1, 1, 4, 4)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.25, 0.25], [0.25, 0.5, 0.75, 0.75]])
    found = roi_means(plane, torch.zeros(3, dtype=torch.long), boxes)[:, 0]
    # the mean of all; the first place; places (2, 1) and (2, 2), which are 9 and 10
    assert found.tolist() == pytest.approx([7.5, 0.0, 9.5])


def test_as_its_definition():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 7, 5, generator=generator)
    corners = torch.rand(20, 2, 2, generator=generator).sort(dim=1).values  # [20, (first, last), (x, y)]
    boxes = corners.flatten(1)
    owner = torch.arange(20) % 3
    found = roi_means(maps, owner, boxes)
    for n in range(20):
        for c in range(2):
            assert found[n, c].item() == pytest.approx(
                float(sampled(maps[owner[n], c], boxes[n].tolist())), abs=1e-5
            )


def test_as_torchvision(torchvision):
    ops = pytest.importorskip("torchvision.ops")
    if not hasattr(torch.ops.torchvision, "roi_align"):
        pytest.skip("torchvision's compiled operators do not fit this PyTorch")
    maps = torch.rand(2, 3, 7, 7)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]])
    rois = torch.cat([torch.tensor([[0.0], [1.0]]), boxes * 7], dim=1)
    expected = ops.roi_align(maps, rois, 1, aligned=True)[:, :, 0, 0]
    torch.testing.assert_close(roi_means(maps, torch.tensor([0, 1]), boxes), expected, rtol=1e-5, atol=1e-6)


def test_weights_add_up_to_one_and_a_box_without_area_is_its_point():
    weights = roi_weights(torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.9, 0.0, 1.0, 0.1]]), 4, 4)
    assert weights.sum(dim=(1, 2)).tolist() == pytest.approx([1.0, 1.0])
    assert weights[0, 1:3, 1:3].sum().item() == pytest.approx(1.0)
