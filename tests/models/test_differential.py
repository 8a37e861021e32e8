"""Differential attention: both published forms by hand, their controls, masks, export, what is refused."""

import dataclasses
from math import exp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.export import export
from cliplet.models.config import DualConfig, TextConfig, TransformerConfig, VisionConfig, from_dict, to_dict
from cliplet.models.dual import DualModel
from cliplet.models.inherit import LayerWeights, inherit_layers
from cliplet.models.multiplexed import Attention, Difference, MultiplexedTransformer, rms_norm
from cliplet.training.config import DistillConfig
from cliplet.training.distill.run import Run
from tests.training import make

PLAIN = {"width": 16, "heads": 4, "blocks": 2, "repeats": 1, "mixers": False}
CODED = {**PLAIN, "attention": "differential"}
WRITTEN = {**CODED, "heads": 2, "differential": "written"}


def layer_of(**settings):
    """The attention of one layer with its private parts, random weights of ordinary size."""
    torch.manual_seed(0)
    block = MultiplexedTransformer(TransformerConfig(**settings)).blocks[0]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block.attention, block.repeats[0]


def attend(attention, repeat, x, visible=None):
    return attention(x, visible, difference=repeat.difference, gain=repeat.gain)


def by_hand(attention, repeat, x, maps, hidden=None):
    """The formula, a head at a time, of one sample ``[N, D]``: what is concatenated before the last product."""
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    d = x.shape[1] // maps  # of queries and keys
    lam = (
        torch.exp((repeat.difference.q1 * repeat.difference.k1).sum())
        - torch.exp((repeat.difference.q2 * repeat.difference.k2).sum())
        + repeat.difference.start
    )
    heads = []
    for head in range(maps // 2):
        one, two = (
            F.softmax(
                q[:, s : s + d] @ k[:, s : s + d].T / d**0.5 + (0 if hidden is None else hidden), dim=-1
            )
            for s in (2 * head * d, (2 * head + 1) * d)
        )
        heads.append((one - lam * two) @ v[:, 2 * head * d : 2 * (head + 1) * d])
    return heads


def test_as_coded_whole_heads_are_paired_normalised_and_scaled():
    attention, repeat = layer_of(**CODED)
    x = torch.randn(5, 16)
    heads = by_hand(attention, repeat, x, maps=4)  # d_h = 16 / 4
    assert [h.shape for h in heads] == [(5, 8), (5, 8)]  # half as many, twice as wide
    normed = [0.2 * h / (h.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() for h in heads]
    expected = attention.proj(torch.cat(normed, dim=1))
    torch.testing.assert_close(attend(attention, repeat, x[None])[0], expected)
    assert repeat.difference.q1.shape == (4,)


def test_as_written_the_halves_of_a_head_make_the_difference():
    attention, repeat = layer_of(**WRITTEN)
    x = torch.randn(5, 16)
    heads = by_hand(attention, repeat, x, maps=4)  # two heads of 8, in halves of 4, divided by the root of 4
    assert repeat.gain is None
    assert repeat.difference.q1.shape == (4,)
    expected = attention.proj(torch.cat(heads, dim=1))
    torch.testing.assert_close(attend(attention, repeat, x[None])[0], expected)


def test_the_two_forms_differ_by_norm_and_factor_alone_at_twice_the_heads():
    coded, written = layer_of(**CODED), layer_of(**WRITTEN)
    x = torch.randn(2, 5, 16)
    assert torch.equal(coded[0].qkv.weight, written[0].qkv.weight)
    assert not torch.allclose(attend(*coded, x), attend(*written, x))
    coded[1].gain = None
    torch.testing.assert_close(attend(*coded, x), attend(*written, x))


@pytest.mark.parametrize("settings", [CODED, WRITTEN], ids=["coded", "written"])
def test_with_lambda_0_the_second_map_is_nothing(settings):
    attention, repeat = layer_of(**settings)
    for parameter in repeat.difference.parameters():
        nn.init.zeros_(parameter)
    repeat.difference.start, repeat.gain = 0.0, None
    x = torch.randn(1, 5, 16)
    q, k, v = attention._projected(x)
    first = F.scaled_dot_product_attention(q[:, 0::2], k[:, 0::2], v)  # standard, half the heads, wide values
    expected = attention.proj(first.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attend(attention, repeat, x), expected)


def test_with_equal_maps_1_minus_lambda_of_one_stays():
    attention, repeat = layer_of(**CODED)
    with torch.no_grad():
        for part in attention.qkv.weight.chunk(3)[:2]:  # queries and keys: both of a pair alike
            pairs = part.unflatten(0, (2, 2, 4))
            pairs[:, 1] = pairs[:, 0]
        attention.qkv.bias.zero_()
    repeat.gain = None
    x = torch.randn(1, 5, 16)
    q, k, v = attention._projected(x)
    once = F.scaled_dot_product_attention(q[:, 0::2], k[:, 0::2], v) * (1 - repeat.difference())
    expected = attention.proj(once.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attend(attention, repeat, x), expected)


def test_the_control_has_the_norm_without_the_difference():
    control = {**PLAIN, "heads": 2, "head_norm": True}
    attention, repeat = layer_of(**control)
    assert repeat.difference is None
    x = torch.randn(1, 5, 16)
    heads = F.scaled_dot_product_attention(*attention._projected(x))
    expected = attention.proj((0.2 * rms_norm(heads)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attend(attention, repeat, x), expected)
    with torch.no_grad():
        torch.testing.assert_close(attend(attention, repeat, x), expected)


def parameters(**settings):
    return sum(p.numel() for p in MultiplexedTransformer(TransformerConfig(**settings)).parameters())


def test_the_controls_have_the_same_parameters_but_lambdas():
    standard = parameters(**PLAIN)
    assert parameters(**{**PLAIN, "heads": 2}) == standard
    assert parameters(**{**PLAIN, "heads": 2, "head_norm": True}) == standard
    assert parameters(**CODED) == standard + 2 * 4 * 4  # four vectors of d_h in each of two layers
    assert parameters(**WRITTEN) == standard + 2 * 4 * 4


def test_lambda0_by_depth_counts_executed_layers():
    config = {**CODED, "repeats": 2, "lambda_start": "depth"}
    blocks = MultiplexedTransformer(TransformerConfig(**config)).blocks
    found = [r.difference.start for b in blocks for r in b.repeats]
    assert found == pytest.approx([0.8 - 0.6 * exp(-0.3 * layer) for layer in range(4)])
    assert [r.gain for b in blocks for r in b.repeats] == pytest.approx([1 - s for s in found])
    fixed = MultiplexedTransformer(TransformerConfig(**CODED)).blocks
    assert [r.difference.start for b in fixed for r in b.repeats] == [0.8, 0.8]


def test_lambda_at_its_start():
    torch.manual_seed(0)
    found = torch.stack([Difference(64, 0.8)() for _ in range(200)])
    assert found.mean().item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("settings", [CODED, WRITTEN], ids=["coded", "written"])
def test_masks(settings):
    attention, repeat = layer_of(**settings)
    x = torch.randn(2, 5, 16)
    # causal: what comes later changes nothing, and every map sums to 1 over what is seen
    past = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    whole, short = attend(attention, repeat, x, past), attend(attention, repeat, x[:, :3], past[..., :3, :3])
    torch.testing.assert_close(whole[:, :3], short)
    hidden = torch.zeros(5, 5).masked_fill(~past[0, 0], -1e9)
    heads = by_hand(attention, repeat, x[0], 4, hidden)
    heads = [repeat.gain * rms_norm(h) if repeat.gain is not None else h for h in heads]
    torch.testing.assert_close(whole[0], attention.proj(torch.cat(heads, dim=1)))
    # padding
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])[:, None, None, :] > 0
    padded = attend(attention, repeat, x, mask)
    torch.testing.assert_close(padded[:1, :3], attend(attention, repeat, x[:1, :3]))


# ---------------------------------------------------------------- towers
def towers(mask="padding", **settings):
    image = VisionConfig(
        **{"width": 32, "heads": 4, "blocks": 2, "mixers": False, **settings}, image_size=32, patch_size=8,
        embedding_dim=16,
    )  # fmt: skip
    text = TextConfig(
        **{"width": 32, "heads": 4, "blocks": 1, "mixers": False, **settings}, vocab_size=4 + len(make.WORDS),
        context_length=16, embedding_rank=8, mask=mask, embedding_dim=16,
    )  # fmt: skip
    return DualConfig(image=image, text=text)


@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
@pytest.mark.parametrize("form", ["coded", "written", "control"])
def test_exported_towers_give_the_same(tmp_path, mask, form):
    if form == "control":
        config = towers(mask, head_norm=True, lambda_start="depth")
    else:
        config = towers(mask, attention="differential", differential=form, lambda_start="depth")
    encoder = make.encoder(config)
    photos = [make.drawing(c, s, 1) for c in make.COLOURS for s in make.SHAPES]
    texts = ["a red bar", "the picture of a small yellow frame on grey", ""]
    export(encoder, tmp_path / "out", "fp32", photos=photos, captions=texts)
    onnx = OnnxEncoder(tmp_path / "out")
    np.testing.assert_allclose(onnx.encode_images(photos), encoder.encode_images(photos), atol=1e-5)
    np.testing.assert_allclose(onnx.encode_texts(texts), encoder.encode_texts(texts), atol=1e-5)
    assert abs(onnx.encode_texts(texts)[0] - onnx.encode_texts(texts)[1]).max() > 1e-3


def test_a_folder_of_weights_knows_its_attention(tmp_path):
    config = towers(attention="differential", differential="written")
    assert from_dict(DualConfig, to_dict(config)) == config
    encoder = make.encoder(config)
    assert isinstance(encoder, TorchEncoder)
    with torch.enable_grad():  # lambda learns, in every layer
        model = DualModel(config)
        model.encode_image(torch.randn(2, 3, 32, 32)).square().sum().backward()
    grads = [p.grad.abs().max().item() for n, p in model.image.named_parameters() if ".difference." in n]
    assert len(grads) == 2 * 2 * 4  # blocks, repeats, vectors
    assert min(grads) > 0


def test_a_distilled_models_card_says_which_attention():
    standard = TextConfig(mixers=False, embedding_dim=16)
    config = dataclasses.replace(towers(attention="differential", lambda_start="depth"), text=standard)
    run = SimpleNamespace(config=SimpleNamespace(model=config))
    said = {"attention": {"image": "differential attention as coded, lambda0 by depth"}}
    assert Run._attention(run) == said
    run.config.model = DualConfig()
    assert Run._attention(run) == {}


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": True}, "set mixers=false"),
        ({"heads": 1}, "heads=1 must be even"),
        ({"heads": 16, "differential": "written"}, "width / heads = 1 must be even"),
        ({"head_norm": True}, "head_norm is of standard attention"),
        ({"attention": "standard", "mixers": True, "head_norm": True}, "head_norm has no head mixers"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(InputError, match=message):
        TransformerConfig(**{**CODED, **changes})


def test_layers_of_standard_attention_cannot_be_inherited():
    pair = torch.zeros(1), torch.zeros(1)
    blocks = MultiplexedTransformer(TransformerConfig(**CODED)).blocks
    with pytest.raises(InputError, match="differential attention as coded, lambda0 0.8 cannot inherit"):
        inherit_layers(list(blocks), [LayerWeights(pair, pair, pair, pair, pair, pair)] * 2, [0, 1])
    with pytest.raises(InputError, match="inherit.image_layers"):  # before a teacher is opened
        from_dict(
            DistillConfig,
            {"model": to_dict(towers(attention="differential")), "inherit": {"image_layers": [0, 1]}},
        )


def test_standard_attention_is_as_it_was():
    config = TransformerConfig(**PLAIN)
    assert (config.map_heads, config.value_heads) == (4, 4)
    assert config.attention_in_words == ""
    torch.manual_seed(0)
    attention = Attention(16, 4, True)
    x = torch.randn(2, 5, 16)
    q, k, v = (p.unflatten(2, (4, 4)).transpose(1, 2) for p in attention.qkv(x).chunk(3, dim=-1))
    expected = attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)
    names = {n for n, _ in MultiplexedTransformer(config).named_parameters()}
    assert not any("difference" in n for n in names)
    assert {f.name for f in dataclasses.fields(config)} >= {
        "attention",
        "differential",
        "lambda_start",
        "head_norm",
    }
