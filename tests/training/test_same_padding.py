"""Same padding made constant: the same numbers from a graph without padding nodes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cliplet.export.graph import write
from cliplet.export.same_padding import fix_same_padding
from cliplet.export.towers import PixelTower


class Conv2dSame(nn.Conv2d):
    """As timm's class of this name: pads by TensorFlow's rule at run time."""

    def forward(self, x):
        pads = []
        for side, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            pads.append(max((-(-int(side) // stride) - 1) * stride + kernel - int(side), 0))
        (h, w) = pads
        x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(32, 3, 2), (31, 5, 2), (33, 3, 1)])
def test_constant_padding_equals_padding_at_run_time(
    tmp_path: Path, size: int, kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        Conv2dSame(3, 4, kernel, stride), nn.ReLU(), Conv2dSame(4, 5, 3, 2, bias=False), nn.Flatten()
    ).eval()
    fixed = fix_same_padding(body, size)
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(fixed(x), body(x))
    assert any(type(m) is Conv2dSame for m in body.modules()), "the given tower is left as it was"
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    tower = PixelTower(fixed, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).eval()
    write(tower, {"pixels": pixels}, {"pixels": {0: "n"}}, tmp_path / "image.onnx", "fp32")
    assert "Pad" not in {node.op_type for node in onnx.load(tmp_path / "image.onnx").graph.node}
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "image.onnx", providers=["CPUExecutionProvider"])
    expected = PixelTower(body, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(pixels).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"pixels": pixels.numpy()})[0], expected, atol=1e-5)


def test_a_tower_without_same_padding_is_returned_as_it_is() -> None:
    body = nn.Conv2d(3, 4, 3)
    assert fix_same_padding(body, 8) is body
