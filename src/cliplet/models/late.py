"""An EfficientNet cut in two: early stages that stay, whose maps can be kept, and late stages that learn on them.

Training the last stages alone is cheap where the maps before them are computed once. Batch norms keep their statistics,
so they are folded into the convolutions; 1x1 convolutions are matrix products, which some processors do in bf16.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from cliplet.models.quick_products import has_quick_bf16

POOLED = -1
"""Where the rest of a network begins when none of its stages learns: at the pooled features."""
_PARTS = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
_CONVOLUTIONS = (
    ("expand", "conv_pw", "bn1"),
    ("depthwise", "conv_dw", "bn2"),
    ("project", "conv_pwl", "bn3"),
)
"""A folded block's name of each convolution, timm's, and timm's of the batch norm behind it."""


def can_be_cut(body: nn.Module) -> bool:
    """Whether a network of timm has an EfficientNet's stages."""
    return all(hasattr(body, name) for name in _PARTS)


def first_late_stage(body: Any, learning: Sequence[str]) -> int | None:
    """The first stage of a network in which a parameter learns; None where the stem does.

    Args:
        body: the network, which :func:`can_be_cut`.
        learning: names of the network's parameters that learn, such as ``blocks.6.0.conv_pw.weight``.

    Returns:
        The stage; the number of stages where only the last convolution learns, and :data:`POOLED` where nothing does.
    """
    if any(name.startswith(("conv_stem", "bn1")) for name in learning):
        return None
    stages = [int(name.split(".")[1]) for name in learning if name.startswith("blocks.")]
    return min(stages, default=len(body.blocks) if learning else POOLED)


def early_stages(body: Any, first: int, block: int = 0) -> nn.Module:
    """What comes before a block of stage ``first``, in evaluation mode: pixels ``[n, 3, s, s]`` -> maps.

    For :data:`POOLED` the whole network, pixels -> pooled features ``[n, D]``.
    """
    if first == POOLED:
        return body.eval()  # type: ignore[no-any-return]
    stages = [*body.blocks[:first], *([body.blocks[first][:block]] if block else [])]
    return nn.Sequential(body.conv_stem, body.bn1, *stages).eval()


def late_blocks(body: Any, first: int, block: int = 0) -> list[Any]:
    """The blocks of the stages from ``first`` on, without that stage's first ones."""
    return [part for stage in body.blocks[first:] for part in stage][block:]


class LateTower(nn.Module):
    """The last stages of an EfficientNet-Lite and a linear projection, as a module of their own with folded weights.

    :meth:`write_back` returns the weights to the network.

    Args:
        body: the whole network of timm; what comes before ``blocks[first]`` stays as it is.
        first: first stage that learns.
        dim: width of the embedding.
        dropout: share of pooled features that are left out in training.
        block: first block of that stage that learns.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, body: Any, first: int, dim: int, dropout: float, block: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_LateBlock(part) for part in late_blocks(body, first, block))
        self.last = _folded(body.conv_head, body.bn2)
        width = int(body.num_features)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, dim)

    def last_map(self, maps: Tensor) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> the last feature map ``[n, h', w', width]``."""
        x = maps.float().permute(0, 2, 3, 1).contiguous()  # [n, h, w, C]
        for block in self.blocks:
            x = block(x)
        return F.relu6(_product(x, self.last)).float()

    def features(self, maps: Tensor) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> pooled features ``[n, width]``."""
        return self.last_map(maps).mean(dim=(1, 2))

    def forward(self, maps: Tensor, pooled: bool = True) -> Tensor:
        """``[n, C, h, w] -> [n, dim]``; the last feature map ``[n, width, h', w']`` where it is not to be pooled."""
        if not pooled:
            return self.last_map(maps).permute(0, 3, 1, 2)
        return self.head(self.dropout((self.features(maps) - self.mean) / self.deviation))  # type: ignore[no-any-return]

    @torch.no_grad()
    def write_back(self, body: Any, first: int) -> None:
        """Put the weights into the network they came from; its batch norms keep their statistics."""
        for late, block in zip(self.blocks, late_blocks(body, first), strict=True):
            for part, conv, norm in _CONVOLUTIONS:
                _unfold(getattr(late, part), getattr(block, conv), getattr(block, norm))
        _unfold(self.last, body.conv_head, body.bn2)


class LateStages:
    """The stages from ``first`` on and the pooling, with gradients for the network's own weights.

    Args:
        body: timm's EfficientNet, which :func:`can_be_cut`.
        first: see :func:`first_late_stage`.
        lite: the network is an EfficientNet-Lite, whose stages may be computed as :class:`LateTower` does.
    """

    def __init__(self, body: Any, first: int, lite: bool) -> None:
        self.body, self.first = body, first
        self.tower = None
        if lite and first != POOLED:
            # whoever calls first: later calls may want gradients, and no random number is to be used up
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                self.tower = LateTower(body, first, 1, 0.0).requires_grad_(False)
                self.tower.head = nn.Identity()  # type: ignore[assignment]

    def __call__(self, maps: Tensor, quick: bool = False) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> pooled features ``[n, D]``; pooled features stay as they are.

        Args:
            maps: what :func:`early_stages` gave.
            quick: products may be rounded as bf16 does (EfficientNet-Lite on a CPU).
        """
        if maps.ndim == 2:
            return maps
        if quick and self.tower is not None and maps.device.type == "cpu":
            return functional_call(self.tower, self._folded_weights(), (maps,))  # type: ignore[no-any-return]
        return self.last_map(maps).mean(dim=(2, 3))

    def last_map(self, maps: Tensor, quick: bool = False) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> the last feature map ``[n, D, h', w']``, whose mean are the pooled features."""
        if quick and self.tower is not None and maps.device.type == "cpu":
            return functional_call(self.tower, self._folded_weights(), (maps, False))  # type: ignore[no-any-return]
        x = self.body.blocks[self.first :](maps.contiguous(memory_format=torch.channels_last))
        return self.body.bn2(self.body.conv_head(x))  # type: ignore[no-any-return]

    def _folded_weights(self) -> dict[str, Tensor]:
        """The tower's weights from the network's present ones."""
        weights = _fold_as("last", self.body.conv_head, self.body.bn2)
        for i, block in enumerate(late_blocks(self.body, self.first)):
            for part, conv, norm in _CONVOLUTIONS:
                weights |= _fold_as(f"blocks.{i}.{part}", getattr(block, conv), getattr(block, norm))
        return weights


@torch.inference_mode()
def late_outputs(late: LateTower, maps: NDArray[np.float16], batch: int = 64) -> NDArray[np.float32]:
    """Outputs of a late tower for kept maps ``[n, dim]``, unnormalised."""
    late.eval()
    blocks = [
        late(torch.from_numpy(np.array(maps[i : i + batch]))).numpy() for i in range(0, len(maps), batch)
    ]
    return np.concatenate(blocks)


class _LateBlock(nn.Module):
    """An inverted residual block of EfficientNet-Lite with its batch norms folded; ``[n, h, w, C]`` in and out."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.expand = _folded(block.conv_pw, block.bn1)
        self.depthwise = _folded(block.conv_dw, block.bn2)
        self.project = _folded(block.conv_pwl, block.bn3)
        self.skip = bool(block.has_skip)

    def forward(self, x: Tensor) -> Tensor:
        """Expand, look around, project."""
        y = _look_around(F.relu6(_product(x, self.expand)).float(), self.depthwise)
        y = _product(F.relu6(y), self.project)
        return x + y if self.skip else y


def _look_around(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A depth-wise convolution of ``[n, h, w, C]`` with "same" padding.

    The kernel's gradient, which is slow in PyTorch on a CPU, is one matrix of all places to all places for each
    channel: the maps of late stages are so small that it costs a third.
    """
    assert conv.bias is not None
    return _DepthWise.apply(x, conv.weight, conv.stride[0]) + conv.bias  # type: ignore[no-untyped-call, no-any-return]


class _DepthWise(torch.autograd.Function):
    """A depth-wise convolution with "same" padding, without its bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """``[n, h, w, C], [C, 1, k, k] -> [n, h', w', C]``."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        around = _around(x.shape[1], weight.shape[2], stride), _around(x.shape[2], weight.shape[3], stride)
        ctx.padding = [before for before, _ in around]
        ctx.more = [after - before for before, after in around]
        y = torch.convolution(
            _filled(x, ctx.more), weight, None, [stride] * 2, ctx.padding, [1, 1], False, [0, 0], len(weight)
        )
        return y.permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """``[n, h', w', C] -> [n, h, w, C], [C, 1, k, k]``."""
        x, weight = ctx.saved_tensors
        n, h, w, channels = x.shape
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.aten.convolution_backward(
                grad.permute(0, 3, 1, 2), _filled(x, ctx.more), weight, None, [ctx.stride] * 2, ctx.padding, [1, 1],
                False, [0, 0], channels, [True, False, False],
            )[0].permute(0, 2, 3, 1)[:, :h, :w]  # fmt: skip
        if ctx.needs_input_grad[1]:
            _, rows, columns, _ = grad.shape
            seen = x.reshape(n, h * w, channels).permute(2, 1, 0).contiguous()  # [C, places, n]
            wanted = (
                grad.reshape(n, rows * columns, channels).permute(2, 0, 1).contiguous()
            )  # [C, n, places']
            places = torch.bmm(seen, wanted).flatten(1)  # [C, places * places']
            to_weight = (places @ _which_tap(h, w, weight.shape[2], ctx.stride)).reshape(weight.shape)
        return to_x, to_weight, None


def _filled(x: Tensor, more: list[int]) -> Tensor:
    """``[n, h, w, C]`` as ``[n, C, h, w]``, with zeros at the end where the padding has more there."""
    x = F.pad(x, (0, 0, 0, more[1], 0, more[0])) if any(more) else x
    return x.permute(0, 3, 1, 2)


def _around(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """ "Same" padding before and after, the odd one after."""
    both = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return both // 2, both - both // 2


@cache
def _which_tap(h: int, w: int, kernel: int, stride: int) -> Tensor:
    """1 where a weight leads from a place to a result ``[h * w * results, kernel * kernel]``."""
    taps, _ = _taps(h, w, kernel, stride)
    with torch.inference_mode(False):
        return F.one_hot(taps.flatten(), kernel * kernel + 1)[:, :-1].float()


@cache
def _taps(h: int, w: int, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Which of the kernel's weights leads from each place to each result ``[h * w, results]``, and the result's shape.

    ``kernel * kernel`` where none does. The padding is "same", the odd one at the end.
    """

    def along(size: int) -> tuple[Tensor, int]:
        count = -(-size // stride)
        before = max(0, (count - 1) * stride + kernel - size) // 2
        offset = torch.arange(size)[:, None] - torch.arange(count) * stride + before
        return torch.where((offset >= 0) & (offset < kernel), offset, -1), count

    with torch.inference_mode(False):  # kept: the next call may want gradients
        (vertical, rows), (horizontal, columns) = along(h), along(w)
        down, right = vertical[:, None, :, None], horizontal[None, :, None, :]  # [h, w, rows, columns]
        taps = torch.where((down >= 0) & (right >= 0), down * kernel + right, kernel * kernel)
    return taps.reshape(h * w, rows * columns), (rows, columns)


def _fold(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm behind it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _fold_as(name: str, conv: Any, norm: Any) -> dict[str, Tensor]:
    """The same as a folded convolution's parameters, with gradients."""
    weight, bias = _fold(conv, norm)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _folded(conv: Any, norm: Any) -> nn.Conv2d:
    """A convolution and the batch norm behind it as one convolution with a bias."""
    result = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups, bias=True
    )
    with torch.no_grad():
        for own, value in zip((result.weight, result.bias), _fold(conv, norm), strict=True):
            own.copy_(value)  # type: ignore[union-attr]
    return result


def _unfold(folded: nn.Module, conv: Any, norm: Any) -> None:
    """The inverse of :func:`_folded`: a batch norm that changes nothing but adds the bias."""
    conv.weight.copy_(folded.weight)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(folded.bias + norm.running_mean)


def _product(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of ``[n, h, w, C]``."""
    weight, bias = conv.weight[:, :, 0, 0], conv.bias
    assert bias is not None
    if x.device.type == "cpu" and has_quick_bf16():
        return F.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    return F.linear(x.float(), weight, bias)
