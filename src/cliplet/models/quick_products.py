"""Matrix products in bf16 where the processor does them many times faster, and in fp32 by the faster library."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QUICK = ("amx_bf16", "avx512_bf16")
"""What a processor that multiplies bf16 natively calls it: Intel's tiles, and vectors (AMD from Zen 4 on, Intel)."""
LEAST = 1 << 21
"""Multiply-adds of a product that is worth the way to oneDNN."""
_linear, _conv2d = F.linear, F.conv2d


@cache
def _processor() -> str:
    """What Linux says of the processor; elsewhere nothing."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def has_quick_bf16() -> bool:
    """Whether the processor multiplies bf16 several times faster than fp32; known on Linux only."""
    return any(name in _processor() for name in QUICK)


def quick_products() -> AbstractContextManager[object]:
    """Autocast to bf16 on such a CPU, nothing elsewhere. Results differ by bf16's rounding, about 0.4 %."""
    return torch.autocast("cpu", torch.bfloat16) if has_quick_bf16() else nullcontext()


@cache
def has_quick_fp32() -> bool:
    """Whether oneDNN multiplies fp32 faster than MKL, which PyTorch asks: on AMD's processors with AVX-512.

    MKL uses vectors of half the width there.
    """
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    return (
        "AuthenticAMD" in _processor()
        and "avx512f" in _processor()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@contextmanager
def fp32_products() -> Iterator[None]:
    """Linear layers and patch embeddings inside the block are computed by oneDNN where that is faster.

    On an AMD processor with AVX-512 their products take half the time, forward and back, and stay fp32: other sums of
    the same numbers, so results differ in the last digits. Elsewhere, in other precisions, and on other devices nothing
    changes. The attention of PyTorch's own transformer layers goes the usual way, not its "fast path", which asks MKL.
    Blocks may be nested, and several threads may be in one.
    """
    if not has_quick_fp32():
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


_lock = Lock()
_inside: list[bool] = []
"""For each block that is being run, whether the fast path was on before it."""


def _enter() -> None:
    with _lock:
        _inside.append(torch.backends.mha.get_fastpath_enabled())
        if len(_inside) == 1:
            F.linear, F.conv2d = linear, conv2d  # type: ignore[assignment]
            torch.backends.mha.set_fastpath_enabled(False)


def _leave() -> None:
    with _lock:
        before = _inside[0]
        _inside.pop()
        if not _inside:
            F.linear, F.conv2d = _linear, _conv2d
            torch.backends.mha.set_fastpath_enabled(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``: by oneDNN where it can, else PyTorch's way."""
    if not _suits(x, weight) or x.numel() * weight.shape[0] < LEAST or x.shape[-1] != weight.shape[1]:
        return _linear(x, weight, bias)
    x = x.contiguous()
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call, no-any-return]
    return _product(x, weight, bias)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """``torch.nn.functional.conv2d``: as one product where its places do not overlap (the patches of a ViT)."""
    kernel = tuple(weight.shape[2:])
    plain = groups == 1 and padding in (0, (0, 0)) and dilation in (1, (1, 1)) and x.ndim == 4
    apart = (
        stride == kernel
        and kernel != (1, 1)
        and not any(s % k for s, k in zip(x.shape[2:], kernel, strict=False))
    )
    if not (plain and apart and _suits(x, weight)):
        return _conv2d(x, weight, bias, stride, padding, dilation, groups)
    n, c, h, w = x.shape
    rows, columns = h // kernel[0], w // kernel[1]
    patches = x.reshape(n, c, rows, kernel[0], columns, kernel[1]).permute(0, 2, 4, 1, 3, 5)
    return linear(patches.reshape(n, rows, columns, -1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether both are plain fp32 tensors in the CPU's memory, and are to be multiplied in that precision."""
    return (
        x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and weight.device.type == "cpu"
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and not torch.is_autocast_enabled("cpu")
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[..., k], [n, k], [n] -> [..., n]``."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``[..., n] -> [..., k], [n, k], [n]``, as far as they are wanted."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()  # that of a mean repeats one number
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _product(grad, weight.t()) if ctx.needs_input_grad[0] else None,
            _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None,
            rows.sum(dim=0) if ctx.needs_input_grad[2] else None,
        )
