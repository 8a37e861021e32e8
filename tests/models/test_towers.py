"""Towers: published sizes, what multiplexing shares, masks, pooling, saving."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from cliplet.errors import InputError, ModelError
from cliplet.models.config import (
    PRESETS,
    DualConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
    from_dict,
    to_dict,
)
from cliplet.models.dual import DualModel, count_parameters, load_weights, preset, save_weights
from cliplet.models.embedding import FactorisedEmbedding
from cliplet.models.multiplexed import MultiplexedTransformer
from cliplet.models.text import TextTower, pool
from cliplet.models.vision import VisionTower

SMALL = TransformerConfig(width=24, heads=4, blocks=2, repeats=2)
TEXT = TextConfig(
    width=24, heads=4, blocks=1, vocab_size=50, context_length=12, embedding_rank=6, embedding_dim=8
)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, so that identities and zeros hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return module.eval()


def test_published_sizes():
    with torch.device("meta"):
        assert count_parameters(VisionTower(VisionConfig())) == 24_074_240
        assert count_parameters(TextTower(TextConfig())) == 27_478_656
        assert count_parameters(TextTower(TextConfig(embedding_rank=0))) == 52_578_176
        assert count_parameters(DualModel(PRESETS["lclip"])) == 51_552_896


def test_plain_transformer_equals_pytorch():
    config = dataclasses.replace(SMALL, repeats=1, mixers=False)
    ours = randomise(MultiplexedTransformer(config))
    layer = nn.TransformerEncoderLayer(
        24, 4, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    x = torch.randn(3, 7, 24)
    expected = x
    for block in ours.blocks:
        repeat = block.repeats[0]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.attention.qkv.weight,
                "self_attn.in_proj_bias": block.attention.qkv.bias,
                "self_attn.out_proj.weight": block.attention.proj.weight,
                "self_attn.out_proj.bias": block.attention.proj.bias,
                "linear1.weight": block.mlp.fc1.weight,
                "linear1.bias": block.mlp.fc1.bias,
                "linear2.weight": block.mlp.fc2.weight,
                "linear2.bias": block.mlp.fc2.bias,
                "norm1.weight": repeat.norm1.weight,
                "norm1.bias": repeat.norm1.bias,
                "norm2.weight": repeat.norm2.weight,
                "norm2.bias": repeat.norm2.bias,
            }
        )
        expected = layer.train()(expected)  # train() keeps to the plain path; dropout is 0
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_identity_mixers_change_nothing():
    mixed = randomise(MultiplexedTransformer(SMALL))
    plain = MultiplexedTransformer(dataclasses.replace(SMALL, mixers=False)).eval()
    plain.load_state_dict(mixed.state_dict(), strict=False)
    x = torch.randn(2, 5, 24)
    assert (mixed(x) - plain(x)).abs().max() > 1e-3
    with torch.no_grad():
        for block in mixed.blocks:
            for repeat in block.repeats:
                repeat.before.weight.copy_(torch.eye(4))
                repeat.after.weight.copy_(torch.eye(4))
    torch.testing.assert_close(mixed(x), plain(x), rtol=1e-4, atol=1e-4)


def test_mixers_follow_the_formula():
    model = randomise(MultiplexedTransformer(dataclasses.replace(SMALL, blocks=1, repeats=1)))
    attention, repeat = model.blocks[0].attention, model.blocks[0].repeats[0]
    x = torch.randn(1, 5, 24)
    q, k, v = attention.qkv(x)[0].view(5, 3, 4, 6).permute(1, 2, 0, 3)  # each [4, 5, 6]
    logits = torch.stack([q[h] @ k[h].T / 6**0.5 for h in range(4)])
    f, g = repeat.before.weight, repeat.after.weight
    mixed = torch.stack([sum(f[a, b] * logits[b] for b in range(4)) for a in range(4)])
    maps = mixed.softmax(-1)
    maps = torch.stack([sum(g[a, b] * maps[b] for b in range(4)) for a in range(4)])
    expected = attention.proj(torch.cat([maps[h] @ v[h] for h in range(4)], dim=1))
    torch.testing.assert_close(attention(x, None, repeat.before, repeat.after)[0], expected)


def test_repeats_share_the_matrices_and_keep_their_own_norms():
    model = MultiplexedTransformer(SMALL)
    matrices = 24 * 72 + 72 + 24 * 24 + 24 + 24 * 96 + 96 + 96 * 24 + 24
    private = 4 * 24 + 2 * 16
    assert count_parameters(model) == 2 * (matrices + 2 * private)
    model(torch.randn(1, 5, 24)).sum().backward()
    norms = [repeat.norm1.weight.grad for block in model.blocks for repeat in block.repeats]
    assert len(norms) == 4
    assert not torch.equal(norms[0], norms[1])


def test_mlp_transform_starts_as_identity_and_sees_neighbours():
    config = VisionConfig(width=24, heads=4, blocks=1, image_size=64, patch_size=16, embedding_dim=8)
    plain = VisionTower(config).eval()
    tower = VisionTower(dataclasses.replace(config, mlp_transform=True)).eval()
    tower.load_state_dict(plain.state_dict(), strict=False)
    assert count_parameters(tower) - count_parameters(plain) == 2 * 24 * 49
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(tower(pixels), plain(pixels))
    randomise(tower)
    assert (tower(pixels) - plain(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["eot", "cls", "mean"])
@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
def test_text_does_not_depend_on_the_batch_width(mask, pooling):
    tower = randomise(TextTower(dataclasses.replace(TEXT, mask=mask, pooling=pooling)))
    ids = torch.randint(1, 50, (3, 12))
    attention = torch.ones(3, 12, dtype=torch.long)
    attention[:, 7:] = 0
    attention[0, 4:] = 0
    trimmed = tower(ids[:, :7], attention[:, :7])
    torch.testing.assert_close(trimmed, tower(ids, attention), rtol=1e-4, atol=1e-5)
    alone = tower(ids[:1, :4], attention[:1, :4])
    torch.testing.assert_close(alone[0], trimmed[0], rtol=1e-4, atol=1e-5)


def test_published_text_lets_padding_take_part():
    ids = torch.randint(1, 50, (1, 5))
    mask = torch.ones_like(ids)
    results = [randomise(TextTower(dataclasses.replace(TEXT, pad_token_id=pad)))(ids, mask) for pad in (0, 1)]
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_causal_mask_hides_the_future():
    tower = randomise(TextTower(dataclasses.replace(TEXT, mask="causal")))
    ids = torch.randint(1, 50, (1, 8))
    other = ids.clone()
    other[0, 6:] = 3
    mask = torch.ones_like(ids)
    same, _ = tower.states(ids, mask)
    changed, _ = tower.states(other, mask)
    torch.testing.assert_close(same[:, :6], changed[:, :6])
    assert (same[:, 6] - changed[:, 6]).abs().max() > 1e-3


def test_pooling():
    states = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "eot").tolist() == [[2, 3], [10, 11]]
    assert pool(states, mask, "cls").tolist() == [[0, 1], [6, 7]]
    assert pool(states, mask, "mean").tolist() == [[1, 2], [8, 9]]


def test_factorised_embedding_from_svd():
    torch.manual_seed(0)
    low = torch.randn(40, 5) @ torch.randn(5, 16) + torch.randn(16)
    embedding = FactorisedEmbedding(40, 16, rank=5)
    assert embedding.init_from(low) == pytest.approx(1.0)
    torch.testing.assert_close(embedding(torch.arange(40)[None])[0], low, rtol=1e-4, atol=1e-4)
    full = torch.randn(40, 16)
    kept = embedding.init_from(full)
    error = ((embedding(torch.arange(40)[None])[0] - full) ** 2).sum() / ((full - full.mean(0)) ** 2).sum()
    assert kept == pytest.approx(1 - error.item(), abs=1e-4)
    assert count_parameters(embedding) == 40 * 5 + 5 * 16 + 16
    plain = FactorisedEmbedding(40, 16, rank=0)
    plain.init_from(full)
    torch.testing.assert_close(plain(torch.tensor([[3]]))[0, 0], full[3])
    with pytest.raises(InputError, match="tokeniser"):
        plain.init_from(full[:10])
    with pytest.raises(InputError, match="embedding_rank"):
        FactorisedEmbedding(40, 16, rank=17)


def test_save_and_load(tmp_path):
    model = randomise(preset("tiny"))
    save_weights(model, tmp_path)
    loaded = load_weights(tmp_path)
    assert loaded.config == model.config
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(0, 1000, (2, 9))
    for ours, theirs in zip(loaded(pixels, ids, ids * 0 + 1), model(pixels, ids, ids * 0 + 1), strict=True):
        assert torch.equal(ours, theirs)
    assert not list(tmp_path.glob("*.part"))


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_weights(tmp_path)
    save_weights(preset("tiny"), tmp_path)
    config = (tmp_path / "model.json").read_text().replace('"width": 32', '"width": 16')
    (tmp_path / "model.json").write_text(config)
    with pytest.raises(ModelError, match="does not fit"):
        load_weights(tmp_path)


def test_a_model_of_an_earlier_version_is_read(tmp_path):
    save_weights(preset("tiny"), tmp_path)
    values = json.loads((tmp_path / "model.json").read_text())
    for tower in values.values():
        tower["gates"] = False
    (tmp_path / "model.json").write_text(json.dumps(values))
    assert load_weights(tmp_path).config == PRESETS["tiny"]
    values["text"]["gates"] = True
    with pytest.raises(InputError, match=r"unknown setting text\.gates"):
        from_dict(DualConfig, values)


def test_every_preset_survives_a_round_trip_through_json():
    for name, config in PRESETS.items():
        assert from_dict(DualConfig, to_dict(config)) == config, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": {"widht": 3}}, r"image\.widht; did you mean width"),
        ({"image": {"kind": "resnet"}}, r"image\.kind='resnet'"),
        ({"image": {"width": "big"}}, r"image\.width='big' must be int"),
        ({"image": {"width": True}}, r"image\.width=True"),
        ({"image": {"heads": 5}}, "does not divide"),
        ({"image": {"mean": [0.5]}}, "3 entries"),
        ({"image": 3}, "table"),
        ({"text": {"mask": "diagonal"}}, r"text\.mask='diagonal' is not one of none, padding, causal"),
        ({"text": {"embedding_dim": 9}}, "same space"),
    ],
)
def test_configuration_errors_name_the_setting(values, message):
    with pytest.raises(InputError, match=message):
        from_dict(DualConfig, values)
