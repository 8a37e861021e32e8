"""Patches of a vision transformer whose last block does not mix tokens: as a block with the identity as attention."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cliplet.models.config import VisionConfig
from cliplet.models.dense import alone, open_clip_maps, tower_maps
from cliplet.models.vision import VisionTower


@pytest.mark.parametrize("mixers", [False, True])
@pytest.mark.parametrize("repeats", [1, 2])
def test_own_tower(mixers, repeats):
    torch.manual_seed(0)
    config = VisionConfig(
        width=16,
        heads=4,
        blocks=2,
        repeats=repeats,
        mixers=mixers,
        image_size=32,
        patch_size=8,
        embedding_dim=8,
    )
    tower = VisionTower(config).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    pixels = torch.randn(2, 3, 32, 32)
    last = tower.transformer.blocks[-1]

    def attend_to_itself(x, visible=None, before=None, after=None):
        values = last.attention._projected(x)[2]  # [B, h, N, d]
        maps = torch.eye(x.shape[1]).expand(len(x), 4, -1, -1)
        maps = maps if after is None else after(maps)
        mixed = (maps @ values).transpose(1, 2).reshape(x.shape)
        return last.attention.proj(mixed)

    seen = tower.transformer.blocks[0](
        torch.cat([tower.class_token.expand(2, 1, -1), tower.patch(pixels).flatten(2).transpose(1, 2)], dim=1)
        + tower.positions
    )
    for number, repeat in enumerate(last.repeats):
        attend = attend_to_itself if number == repeats - 1 else last.attention
        seen = seen + attend(repeat.norm1(seen), None, repeat.before, repeat.after)
        seen = seen + last.mlp(repeat.norm2(seen))
    expected = tower.norm(seen)[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4)
    torch.testing.assert_close(tower_maps(tower, pixels), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        tower.tokens(pixels)[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4), expected, atol=1e-2
    )


def test_open_clip(torchvision):
    pytest.importorskip("open_clip")
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(0)
    visual = VisionTransformer(
        image_size=32, patch_size=8, width=16, layers=2, heads=4, mlp_ratio=2.0, output_dim=8
    ).eval()
    pixels = torch.randn(2, 3, 32, 32)
    x = visual._embeds(pixels)
    x = visual.transformer.resblocks[0](x)
    block = visual.transformer.resblocks[1]
    weight, bias = block.attn.in_proj_weight[32:], block.attn.in_proj_bias[32:]
    x = x + block.attn.out_proj(F.linear(block.ln_1(x), weight, bias))
    x = x + block.mlp(block.ln_2(x))
    expected = (visual.ln_post(x)[:, 1:] @ visual.proj).transpose(1, 2).reshape(2, 8, 4, 4)
    torch.testing.assert_close(open_clip_maps(visual, pixels), expected, rtol=1e-4, atol=1e-5)
    assert open_clip_maps(nn.Linear(3, 3), pixels) is None


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_block_reads_tokens_alone_and_only_inside(batch_first):
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    x = torch.randn(3, 5, 8)
    given = x if batch_first else x.transpose(0, 1)
    with alone(block, batch_first):
        found = block(given)
    found = found if batch_first else found.transpose(0, 1)
    for n in range(5):
        one = x[:, n : n + 1] if batch_first else x[:, n : n + 1].transpose(0, 1)
        each = block(one) if batch_first else block(one).transpose(0, 1)
        torch.testing.assert_close(found[:, n : n + 1], each)
    mixed = block(given) if batch_first else block(given).transpose(0, 1)
    assert not torch.allclose(mixed, found, atol=1e-3)
