"""YOLOX-Nano (Ge et al. 2021, arXiv:2107.08430) as a frozen part of an image tower: what it finds, as features.

The detector knows COCO's 80 kinds of things, and says so from an image tower's own pixels: a tower that reads its
answers needs no boxes. Modules have the names of YOLOX's own code; batch norms are folded into the convolutions, as its
ONNX export does, from which the weights are read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import MissingExtraError, ModelError

CLASSES = 80
"""Kinds of things that it knows."""
BEST = 8
"""Cells whose scores are summed for a class."""
SURE, SOFT = 0.3, 0.05
"""A cell counts as sure from this score on, and over what width it begins to."""
_BOXES = "head.reg_preds."
"""Convolutions of the file that say where things are; no feature reads them."""
_FIRST = "backbone.backbone.stem.conv"
"""The first convolution."""


class Conv(nn.Module):
    """A convolution with bias and its SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` in and out."""
        return F.silu(self.conv(x))


class DepthwiseConv(nn.Module):
    """A depth-wise 3x3 convolution, then a 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = Conv(inputs, inputs, 3, stride, groups=inputs)
        self.pconv = Conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` in and out."""
        return self.pconv(self.dconv(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 1x1 convolution and a depth-wise one, with the input added or not."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = Conv(width, width), DepthwiseConv(width, width), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` in and out."""
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CspLayer(nn.Module):
    """Half of the channels through bottlenecks, half past them."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2, self.conv3 = Conv(inputs, half), Conv(inputs, half), Conv(outputs, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` in and out."""
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))  # type: ignore[no-any-return]


class Pooling(nn.Module):
    """Maxima of ever larger surroundings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width // 2), Conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, h, w]`` in and out."""
        x = self.conv1(x)
        around = [F.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        return self.conv2(torch.cat([x, *around], dim=1))  # type: ignore[no-any-return]


class Darknet(nn.Module):
    """The backbone: maps at an 8th, 16th and 32nd of the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 16, 6, 2)
        self.dark2 = nn.Sequential(DepthwiseConv(16, 32, 2), CspLayer(32, 32, 1, True))
        self.dark3 = nn.Sequential(DepthwiseConv(32, 64, 2), CspLayer(64, 64, 3, True))
        self.dark4 = nn.Sequential(DepthwiseConv(64, 128, 2), CspLayer(128, 128, 3, True))
        self.dark5 = nn.Sequential(DepthwiseConv(128, 256, 2), Pooling(256), CspLayer(256, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[n, 3, h, w]`` -> 64, 128 and 256 channels."""
        third = self.dark3(self.dark2(self.stem(x)))
        fourth = self.dark4(third)
        return third, fourth, self.dark5(fourth)


class Pyramid(nn.Module):
    """Backbone and neck: what is coarse helps what is fine, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Darknet()
        self.lateral_conv0, self.reduce_conv1 = Conv(256, 128), Conv(128, 64)
        self.C3_p4, self.C3_p3 = CspLayer(256, 128), CspLayer(128, 64)
        self.bu_conv2, self.bu_conv1 = DepthwiseConv(64, 64, 2), DepthwiseConv(128, 128, 2)
        self.C3_n3, self.C3_n4 = CspLayer(128, 128), CspLayer(256, 256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``[n, 3, h, w]`` -> the neck's three scales (64, 128, 256 channels) and the backbone's end (256)."""
        third, fourth, last = self.backbone(x)
        coarse = self.lateral_conv0(last)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([_twice(coarse), fourth], dim=1)))
        fine = self.C3_p3(torch.cat([_twice(middle), third], dim=1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), middle], dim=1))
        return fine, middle, self.C3_n4(torch.cat([self.bu_conv1(middle), coarse], dim=1)), last


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Head(nn.Module):
    """How sure it is of each class in each cell of each scale."""

    def __init__(self) -> None:
        super().__init__()
        widths, both = (64, 128, 256), (lambda: nn.Sequential(DepthwiseConv(64, 64), DepthwiseConv(64, 64)))
        self.stems = nn.ModuleList(Conv(width, 64) for width in widths)
        self.cls_convs = nn.ModuleList(both() for _ in widths)
        self.reg_convs = nn.ModuleList(both() for _ in widths)
        self.cls_preds = nn.ModuleList(nn.Conv2d(64, CLASSES, 1) for _ in widths)
        self.obj_preds = nn.ModuleList(nn.Conv2d(64, 1, 1) for _ in widths)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Objectness times class ``[n, classes, cells]``."""
        scores = []
        for i, x in enumerate(maps):
            x = self.stems[i](x)
            sure = self.obj_preds[i](self.reg_convs[i](x)).sigmoid()
            scores.append((self.cls_preds[i](self.cls_convs[i](x)).sigmoid() * sure).flatten(2))
        return torch.cat(scores, dim=2)


class YoloxFeatures(nn.Module):
    """What YOLOX-Nano sees on a photo, as numbers.

    For each class the root of the highest score, ``log(1 + n / 10)`` for about n cells above 0.3, and the root of the
    eight best scores' sum; then the maximum over the photo of every channel of its neck's three scales and its
    backbone's end.

    Args:
        size: side of the square to which pixels are brought, a multiple of 32.
        mean, std: those by which RGB in 0..1 was normalised.
    """

    width = 3 * CLASSES + 64 + 128 + 256 + 256
    """Number of features."""

    black: Tensor

    def __init__(
        self,
        size: int = 320,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.size = size
        self.backbone, self.head = Pyramid(), Head()
        black = torch.tensor(mean) / torch.tensor(std)
        self.register_buffer("black", black[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised RGB ``[n, 3, h, w]`` -> features ``[n, width]``."""
        x = pixels + self.black  # black is 0, as at YOLOX's borders
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        *scales, last = self.backbone(x)
        scores = self.head(tuple(scales))
        count = torch.sigmoid((scores - SURE) / SOFT).sum(dim=2)
        best = scores.topk(BEST, dim=2).values  # falling
        found = [best[:, :, 0].sqrt(), torch.log1p(count / 10), best.sum(dim=2).sqrt()]
        return torch.cat([*found, *(x.amax(dim=(2, 3)) for x in (*scales, last))], dim=1)


def yolox_features(
    path: str | Path,
    size: int = 320,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> YoloxFeatures:
    """:class:`YoloxFeatures` with the weights of YOLOX-Nano's ONNX file, in evaluation mode.

    Raises:
        ModelError: the file cannot be read or is no YOLOX-Nano as YOLOX's own export writes it.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("reading YOLOX-Nano", "train") from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # of protobuf or the file system
        raise ModelError(f"{path} cannot be read as ONNX: {error}") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name = _module_name(node.name)
        if name.startswith(_BOXES):
            continue
        name = _FIRST if name == f"{_FIRST}.conv" else name  # a level deeper in YOLOX's Focus
        for part, value in zip(("weight", "bias"), node.input[1:], strict=False):
            if value in stored:
                weights[f"{name}.{part}"] = torch.from_numpy(onnx.numpy_helper.to_array(stored[value]).copy())
    first = weights.get(f"{_FIRST}.weight")
    if first is not None and first.shape[1:] == (12, 3, 3):
        weights[f"{_FIRST}.weight"] = unfocused(first) * 255 * torch.tensor(std)[:, None, None]
    model = YoloxFeatures(size, mean, std)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path} is no YOLOX-Nano: {str(error).splitlines()[1].strip()[:200]}; take yolox_nano.onnx of YOLOX's "
            "releases"
        ) from error
    return model.eval().requires_grad_(False)


def unfocused(weight: Tensor) -> Tensor:
    """One convolution for YOLOX's Focus: ``[n, 12, 3, 3]`` over four neighbouring BGR pixels as channels of one ->
    ``[n, 3, 6, 6]`` over RGB in steps of two, the same products."""
    column_row_bgr = weight.unflatten(1, (2, 2, 3))  # [n, column, row, colour, 3, 3]
    return column_row_bgr.flip(3).permute(0, 3, 4, 2, 5, 1).reshape(len(weight), 3, 6, 6)


def _module_name(node: str) -> str:
    """``/backbone/backbone/dark2/dark2.0/dconv/conv/Conv`` -> ``backbone.backbone.dark2.0.dconv.conv``."""
    parts: list[Any] = node.strip("/").split("/")[:-1]
    kept = [a for a, b in zip(parts, [*parts[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    return ".".join(kept)
