"""Low-rank adapters (LoRA): a matrix that learns only by the product of two thin ones, in whatever module it stands."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

STACKED = ("in_proj_weight", "qkv.weight")
"""How names of queries', keys' and values' projections in one matrix end; each of the three has an adapter of its
own, as where they are three matrices."""


class LowRank(nn.Module):
    """Adapters of some matrices of a model, which itself stays as it is.

    ``W' = W + alpha / rank * B A`` with A ``[rank, in]`` random and B ``[out, rank]`` zero at the start. The sum is put
    in W's place (:meth:`in_place`), so it does not matter how a model uses its matrix: ``nn.Linear``,
    ``nn.MultiheadAttention``'s ``in_proj_weight``, a bare parameter, a 1 x 1 convolution. Only A and B are
    parameters of this module.

    Args:
        model: any module.
        names: of matrices among its parameters.
        rank: of each adapter.
        alpha: weight of the adapters, times ``rank``.

    Source: LoRA (arXiv 2106.09685), equation 3; A starts as Kaiming-uniform, as in the released code.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        own = dict(model.named_parameters())
        self.base = {name: own[name].detach().clone() for name in names}
        self.parameter = {name: own[name] for name in names}
        owners = [(m, key, p) for m in model.modules() for key, p in m._parameters.items() if p is not None]
        self.places = {
            name: [(m, key) for m, key, p in owners if p is own[name]] for name in names
        }  # a tied matrix has several
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name in names:
            (parts, rows), columns = _parts(name, own[name]), own[name].shape[1]
            like: Any = {"device": own[name].device, "dtype": torch.float32}
            a = nn.init.uniform_(
                torch.empty(parts, rank, columns, **like), -1 / sqrt(columns), 1 / sqrt(columns)
            )
            self.a[_key(name)] = nn.Parameter(a)
            self.b[_key(name)] = nn.Parameter(torch.zeros(parts, rows, rank, **like))

    def merged(self) -> dict[str, Tensor]:
        """The model's matrices with their adapters, by name, with gradients to the adapters."""
        found = {}
        for name, base in self.base.items():
            a, b = self.a[_key(name)], self.b[_key(name)]
            with torch.autocast(base.device.type, enabled=False):  # the sum is the saved one to the last bit
                found[name] = base + self.scale * (b @ a).flatten(0, 1).view_as(base)
        return found

    @contextmanager
    def in_place(self, merged: Mapping[str, Tensor]) -> Iterator[None]:
        """The model computes with ``merged`` inside the block."""
        try:
            for name, value in merged.items():
                for module, key in self.places[name]:
                    module._parameters[key] = value  # type: ignore[assignment]
            yield
        finally:
            for name, parameter in self.parameter.items():
                for module, key in self.places[name]:
                    module._parameters[key] = parameter

    @torch.no_grad()
    def merge(self) -> None:
        """Give the model's own parameters the values of :meth:`merged`."""
        for name, value in self.merged().items():
            self.parameter[name].copy_(value)


def is_matrix(weight: Tensor) -> bool:
    """Whether a parameter is a matrix: of two dimensions, or of a convolution over single places."""
    return weight.ndim == 2 or (weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2:] == (1, 1))


def adapter_size(name: str, matrix: Tensor, rank: int) -> int:
    """Parameters of a matrix's adapter."""
    parts, rows = _parts(name, matrix)
    return parts * rank * (rows + matrix.shape[1])


def _parts(name: str, matrix: Tensor) -> tuple[int, int]:
    """How many matrices are stacked in one, and rows of each."""
    parts = 3 if name.endswith(STACKED) else 1
    return parts, matrix.shape[0] // parts


def _key(name: str) -> str:
    """A name as one of a ParameterDict, without dots."""
    return name.replace(".", "/")
