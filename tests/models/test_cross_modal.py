"""DCLIP's teacher against values worked by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.config import CrossModalConfig
from cliplet.models.cross_modal import CrossModalTeacher, pool_by_similarity

D = 8


def inputs(batch=3, spans=4, regions=5, seed=0):
    torch.manual_seed(seed)
    x, y = torch.randn(batch, spans, D), torch.randn(batch, regions, D)
    return x, torch.ones(batch, spans, dtype=torch.bool), y, torch.ones(batch, regions, dtype=torch.bool)


def teacher(**settings):
    torch.manual_seed(1)
    return CrossModalTeacher(CrossModalConfig(heads=2, **settings), D).eval()


def test_pooling_by_hand():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    pooled, weights = pool_by_similarity(x, None, 2.0)
    cosines = np.array([2, 2, 1]) / np.sqrt(5)  # to the mean (2/3, 1/3)
    expected = np.exp(cosines / 2) / np.exp(cosines / 2).sum()
    assert weights[0].numpy() == pytest.approx(expected, abs=1e-6)
    assert pooled[0].numpy() == pytest.approx([expected[0] + expected[1], expected[2]], abs=1e-6)


def test_a_masked_row_takes_no_part_in_pooling():
    x = torch.randn(2, 4, D)
    mask = torch.tensor([[True, True, False, False]] * 2)
    pooled, weights = pool_by_similarity(x, mask, 2.0)
    alone, _ = pool_by_similarity(x[:, :2], None, 2.0)
    assert torch.allclose(pooled, alone, atol=1e-6)
    assert (weights[:, 2:] == 0).all()


def test_a_layer_by_hand():
    """One head at a time, written out: T' = LN(T + MHA(T, P, P)), P' = LN(P + MHA(P, T, T)) from the same inputs."""
    model = teacher()
    x, xm, y, ym = inputs()
    layer = model.layers[0]

    def attend(attention, q, kv):
        wq, wk, wv = attention.in_proj_weight.chunk(3)
        bq, bk, bv = attention.in_proj_bias.chunk(3)
        heads = []
        for h in range(2):
            part = slice(h * D // 2, (h + 1) * D // 2)
            queries, keys, values = (
                a @ w[part].T + b[part] for a, w, b in ((q, wq, bq), (kv, wk, bk), (kv, wv, bv))
            )
            weights = (queries @ keys.transpose(1, 2) / np.sqrt(D // 2)).softmax(dim=-1)
            heads.append(weights @ values)
        return torch.cat(heads, dim=-1) @ attention.out_proj.weight.T + attention.out_proj.bias

    text = F.layer_norm(
        x + attend(layer.text_attention, x, y), (D,), layer.text_norm.weight, layer.text_norm.bias
    )
    image = F.layer_norm(
        y + attend(layer.image_attention, y, x), (D,), layer.image_norm.weight, layer.image_norm.bias
    )
    out = model(x, xm, y, ym)
    assert torch.allclose(out.text, pool_by_similarity(text, None, 2.0)[0], atol=1e-5)
    assert torch.allclose(out.image, pool_by_similarity(image, None, 2.0)[0], atol=1e-5)
    assert torch.allclose(out.fused, (out.text + out.image) / 2, atol=1e-6)
    assert torch.allclose(out.attention.sum(dim=2), torch.ones(3, 4), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_padding_changes_nothing_with_masks(layers):
    model = teacher(layers=layers)
    x, xm, y, ym = inputs()
    plain = model(x, xm, y, ym).fused
    wider = (F.pad(v, (0, 0, 0, 3), value=7.0) for v in (x, y))
    px, py = wider
    masks = (F.pad(m, (0, 3)) for m in (xm, ym))
    pxm, pym = masks
    assert torch.allclose(model(px, pxm, py, pym).fused, plain, atol=1e-5)
    released = teacher(layers=layers, mask=False)
    assert not torch.allclose(released(px, pxm, py, pym).fused, plain, atol=1e-2)


def test_learned_fusion_starts_as_the_fixed_one_and_gives_a_share_a_pair():
    x, xm, y, ym = inputs()
    model = teacher(fusion="learned")
    start = model(x, xm, y, ym)
    assert torch.allclose(start.fused, (start.text + start.image) / 2, atol=1e-6)
    with torch.no_grad():
        model.gate.bias.fill_(30.0)
    assert torch.allclose(model(x, xm, y, ym).fused, start.text, atol=1e-5)


def test_order_of_regions_does_not_matter():
    x, xm, y, ym = inputs()
    model = teacher()
    order = torch.tensor([3, 1, 4, 0, 2])
    a, b = model(x, xm, y, ym), model(x, xm, y[:, order], ym)
    assert torch.allclose(a.fused, b.fused, atol=1e-5)
    assert torch.allclose(a.region_weights[:, order], b.region_weights, atol=1e-6)


@pytest.mark.parametrize(("change", "message"), [({"heads": 3}, "heads"), ({"layers": 0}, "layer")])
def test_wrong_settings(change, message):
    with pytest.raises(InputError, match=message):
        CrossModalTeacher(CrossModalConfig(**{"heads": 2, **change}), D)
