"""Products in fp32 by oneDNN: the same numbers as PyTorch's own way, forward and back, and only inside the block."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cliplet.models import quick_products
from cliplet.models.quick_products import fp32_products

there = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no such products"
)


@pytest.fixture
def asked(monkeypatch):
    """Every product that can be is oneDNN's, on whatever processor; returns their shapes."""
    shapes, own = [], quick_products._product

    def product(x, weight, bias=None):
        shapes.append((tuple(x.shape), tuple(weight.shape)))
        return own(x, weight, bias)

    monkeypatch.setattr(quick_products, "has_quick_fp32", lambda: True)
    monkeypatch.setattr(quick_products, "LEAST", 0)
    monkeypatch.setattr(quick_products, "_product", product)
    return shapes


def gradients(module, *inputs):
    """The result and the gradients of a sum of squares, for the inputs and the parameters."""
    module.zero_grad()
    inputs = [x.clone().requires_grad_() for x in inputs]
    result = module(*inputs)
    result.square().sum().backward()
    return [result.detach(), *(x.grad for x in inputs), *(p.grad.clone() for p in module.parameters())]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@there
@pytest.mark.parametrize(
    ("module", "shape", "products"),
    [
        (nn.Linear(5, 7), (4, 3, 5), 3),
        (nn.Linear(5, 7, bias=False), (4, 5), 3),
        (nn.Conv2d(3, 6, 4, 4), (2, 3, 8, 12), 3),
        (nn.Conv2d(3, 6, 4, 4), (2, 3, 9, 12), 0),  # a remainder
        (nn.Conv2d(3, 6, 3, 1, 1), (2, 3, 6, 6), 0),  # places overlap
        (nn.Conv2d(4, 4, 2, 2, groups=4), (2, 4, 6, 6), 0),
        (Attention(), (3, 5, 8), 6),
    ],
)
def test_results_and_gradients_are_pytorchs(asked, module, shape, products):
    torch.manual_seed(0)
    x = torch.randn(shape)
    plain = gradients(module, x)
    with fp32_products():
        quick = gradients(module, x)
    assert len(asked) == products
    for a, b in zip(plain, quick, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@there
def test_without_gradients_a_frozen_attention_is_the_same(asked):
    torch.manual_seed(0)
    module, x = Attention().eval(), torch.randn(3, 5, 8)
    with torch.inference_mode():
        plain = module(x)
        with fp32_products():
            assert torch.allclose(plain, module(x), atol=1e-6)
    assert len(asked) == 2


@there
def test_other_precisions_and_small_products_stay_pytorchs(asked, monkeypatch):
    weight = torch.randn(4, 4)
    with fp32_products():
        F.linear(torch.randn(2, 4, dtype=torch.float64), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(torch.randn(2, 4), weight).dtype == torch.bfloat16
        monkeypatch.setattr(quick_products, "LEAST", 33)
        F.linear(torch.randn(2, 4), weight)
        assert not asked
        with pytest.raises(RuntimeError):
            F.linear(torch.randn(50, 5), weight)
    F.linear(torch.randn(50, 4), weight)
    assert not asked


def test_all_is_as_before_after_the_last_block(monkeypatch):
    monkeypatch.setattr(quick_products, "has_quick_fp32", lambda: True)
    before = F.linear, F.conv2d, torch.backends.mha.get_fastpath_enabled()
    outer = fp32_products()
    with outer:
        with pytest.raises(ZeroDivisionError), fp32_products():
            assert 1 // (F.linear is not quick_products.linear)
        assert F.linear is quick_products.linear
    assert (F.linear, F.conv2d, torch.backends.mha.get_fastpath_enabled()) == before
    monkeypatch.setattr(quick_products, "has_quick_fp32", lambda: False)
    with fp32_products():
        assert F.linear is before[0]


@pytest.mark.parametrize(
    ("processor", "quick"),
    [("vendor_id : AuthenticAMD flags : avx2 avx512f", True), ("vendor_id : AuthenticAMD flags : avx2", False),
     ("vendor_id : GenuineIntel flags : avx512f amx_bf16", False), ("", False)],
)  # fmt: skip
def test_it_is_for_amds_wide_vectors(processor, quick, monkeypatch):
    monkeypatch.setattr(quick_products, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert quick_products.has_quick_fp32.__wrapped__() is (
        quick and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
