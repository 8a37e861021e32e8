"""Gathering a batch over processes so that gradients come out as in one process."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums what every process wants of this one's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """``[b, ...] -> [world * b, ...]``, in the order of ranks."""
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.rows = x.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient of the sum of all processes' losses, own rows."""
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, with gradients.

    Each process then computes the loss of the whole batch. The backward pass sums the gradients of all processes'
    (equal) losses, ``world`` times the wanted one, and DistributedDataParallel averages parameter gradients over
    ``world`` processes: together exactly the gradient of one process with the whole batch. Pipelines that gather
    without gradients, or average here too, are off by the world size.

    Args:
        x: ``[b, ...]``, the same ``b`` in every process.

    Returns:
        ``[world * b, ...]``; ``x`` itself when there is one process.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _Gather.apply(x)  # type: ignore[no-untyped-call, no-any-return]


def gather_ragged(x: Tensor) -> Tensor:
    """The rows of all processes, of which each may have another number, with gradients as :func:`gather` gives them.

    Every process must call it in the same place, one without rows too, and where one's rows need gradients all must.

    Args:
        x: ``[b, ...]``, any ``b`` in each process.

    Returns:
        ``[sum of b, ...]``, in the order of ranks; ``x`` itself when there is one process.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    own = torch.tensor([x.shape[0]], device=x.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    numbers = [int(c) for c in counts]
    most = max(numbers)
    if not most:
        return x
    padded = torch.cat([x, x.new_zeros((most - x.shape[0], *x.shape[1:]))])
    there = torch.cat([torch.arange(most, device=x.device) < n for n in numbers])
    return gather(padded)[there]
