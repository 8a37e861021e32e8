"""The last stages of an EfficientNet on kept maps: equal to the whole network, quickly, with its gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from cliplet.models.late import (
    POOLED,
    LateStages,
    LateTower,
    _look_around,
    early_stages,
    first_late_stage,
    late_outputs,
)
from cliplet.models.quick_products import has_quick_bf16, quick_products


def trained_body() -> nn.Module:
    """An EfficientNet-Lite0 with statistics and shifts as a trained network has them."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    body = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return body


@pytest.mark.parametrize("side", [64, 224])
def test_a_late_tower_equals_the_whole_network(side, torchvision, monkeypatch):
    monkeypatch.setattr("cliplet.models.late.has_quick_bf16", lambda: False)
    body = trained_body()
    late = LateTower(body, 5, 8, 0.4).eval()
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        maps = early_stages(body, 5)(pixels)
        assert torch.allclose(late.features(maps), body(pixels), atol=1e-4)
        assert np.allclose(late_outputs(late, maps.numpy(), batch=1), late(maps).numpy(), atol=1e-5)
        for parameter in late.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        changed = late.features(maps)
        assert not torch.allclose(changed, body(pixels), atol=1e-2)
        late.write_back(body, 5)
        assert torch.allclose(changed, body(pixels), atol=1e-4)


@pytest.mark.parametrize("quick", [False, True])
def test_late_stages_follow_the_networks_weights(quick, torchvision, monkeypatch):
    monkeypatch.setattr("cliplet.models.late.has_quick_bf16", lambda: False)
    body, pixels = trained_body(), torch.randn(2, 3, 64, 64)
    for first in (POOLED, 5, 7):
        late = LateStages(body, first, lite=True)
        with torch.no_grad():
            maps = early_stages(body, first)(pixels)
            assert torch.allclose(late(maps, quick), body(pixels), atol=1e-4)
            if first != POOLED:
                body.conv_head.weight.mul_(1.01)  # as a step of training does
                assert torch.allclose(late(maps, quick), body(pixels), atol=1e-4)


def test_quick_late_stages_give_the_networks_weights_their_gradients(torchvision):
    body, maps = trained_body(), torch.rand(4, 192, 4, 4)
    late = LateStages(body, 6, lite=True)
    with torch.inference_mode():
        late(maps, quick=True)
    names = ["blocks.6.0.conv_pw.weight", "blocks.6.0.bn2.bias", "conv_head.weight", "bn2.weight"]
    found = []
    for quick in (False, True):
        body.zero_grad()
        late(maps, quick).square().sum().backward()
        found.append([dict(body.named_parameters())[n].grad.flatten().clone() for n in names])
    for plain, fast in zip(*found, strict=True):
        assert torch.nn.functional.cosine_similarity(plain, fast, dim=0).item() > 0.99
        assert fast.norm().item() == pytest.approx(plain.norm().item(), rel=0.05)


def test_the_random_numbers_of_training_stay_as_they_were(torchvision):
    body = trained_body()
    before = torch.get_rng_state()
    LateStages(body, 6, lite=True)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("learning", "first"),
    [
        ([], POOLED),
        (["blocks.6.0.conv_pw.weight", "blocks.5.1.bn1.bias", "conv_head.weight"], 5),
        (["conv_head.weight", "bn2.bias"], 7),
        (["blocks.6.0.conv_pw.weight", "conv_stem.weight"], None),
    ],
)
def test_where_the_late_part_begins(torchvision, learning, first):
    assert first_late_stage(trained_body(), learning) == first


@pytest.mark.skipif(not has_quick_bf16(), reason="the processor has no quick bf16 products")
def test_quick_products_are_near_the_exact_ones(torchvision):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    late = LateTower(timm.create_model("tf_efficientnet_lite0", num_classes=0).eval(), 6, 8, 0.0).eval()
    maps = torch.randn(2, 192, 7, 7)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        quick = late.features(maps)
        patch.setattr("cliplet.models.late.has_quick_bf16", lambda: False)
        exact = late.features(maps)
    assert 0 < (quick - exact).norm() / exact.norm() < 0.02
    with quick_products():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(7, 5, 1), (7, 3, 1), (14, 5, 2), (7, 5, 2), (5, 3, 2)]
)
def test_a_depth_wise_convolution_and_its_gradients_are_pytorchs(side, kernel, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, groups=6)
    x, wanted = torch.randn(3, side, side, 6), None
    for own in (False, True):
        conv.zero_grad()
        given = x.clone().requires_grad_()
        if own:
            y = _look_around(given, conv)
        else:
            both = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            padding = (both // 2, both - both // 2) * 2
            y = conv(nn.functional.pad(given.permute(0, 3, 1, 2), padding)).permute(0, 2, 3, 1)
        (y * y.detach().cos()).sum().backward()
        found = [y.detach(), given.grad, conv.weight.grad.clone(), conv.bias.grad.clone()]
        if wanted is not None:
            for a, b in zip(wanted, found, strict=True):
                assert torch.allclose(a, b, atol=1e-4)
        wanted = found
