"""A student that starts from its teacher."""

import dataclasses

import pytest
import torch

from cliplet.errors import InputError, ModelError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import TextConfig, VisionConfig
from cliplet.models.inherit import (
    inherit,
    read_open_clip,
    read_transformers_bert,
    read_transformers_clip,
)
from cliplet.models.text import TextTower
from cliplet.models.vision import VisionTower

prepare_torchvision()
transformers = pytest.importorskip("transformers")

VISION = VisionConfig(
    width=32, heads=4, blocks=2, repeats=1, mixers=False, image_size=32, patch_size=16, embedding_dim=8
)
TEXT = TextConfig(
    width=32, heads=4, blocks=2, repeats=1, mixers=False, qkv_bias=True, mask="causal", vocab_size=60,
    context_length=10, embedding_rank=0, embedding_dim=8,
)  # fmt: skip
LAYERS = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128}


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **LAYERS, "vocab_size": 60, "max_position_embeddings": 10, "hidden_act": "gelu", "eos_token_id": 59
        },
        vision_config={**LAYERS, "image_size": 32, "patch_size": 16, "hidden_act": "gelu"},
        projection_dim=8,
    )  # fmt: skip
    return transformers.CLIPModel(config).eval()


def test_text_tower_that_inherits_all_equals_its_teacher(teacher):
    _, weights = read_transformers_clip(teacher)
    tower = TextTower(TEXT).eval()
    inherit(tower, weights, ("embedding", "positions", "norm", "head"), layers=(0, 1))
    ids = torch.randint(0, 58, (3, 10))
    ids[:, 6] = 59  # end of text
    mask = (torch.arange(10) <= 6).long().expand(3, -1)
    with torch.no_grad():
        expected = teacher.text_projection(teacher.text_model(input_ids=ids).pooler_output)
    torch.testing.assert_close(tower(ids, mask), expected, rtol=1e-4, atol=1e-5)


def test_image_layers_patches_and_positions_equal_the_teacher(teacher):
    weights, _ = read_transformers_clip(teacher)
    tower = VisionTower(VISION).eval()
    inherit(tower, weights, ("patch", "class_token", "positions", "norm", "head"), layers=(0, 1))
    pixels = torch.randn(2, 3, 32, 32)
    vision = teacher.vision_model
    with torch.no_grad():
        embedded = vision.embeddings(pixels)
        ours = tower.patch(pixels).flatten(2).transpose(1, 2)
        ours = torch.cat([tower.class_token.expand(2, 1, -1), ours], dim=1) + tower.positions
        torch.testing.assert_close(ours, embedded, rtol=1e-4, atol=1e-5)
        expected = vision.encoder(inputs_embeds=embedded).last_hidden_state
    torch.testing.assert_close(tower.transformer(ours), expected, rtol=1e-4, atol=1e-5)


def test_multiplexed_student_takes_one_layer_a_block_and_freezes(teacher):
    weights, text_weights = read_transformers_clip(teacher)
    tower = VisionTower(dataclasses.replace(VISION, blocks=1, repeats=2, mixers=True))
    names = inherit(tower, weights, layers=(1,), freeze=True)
    assert names == ["patch.weight", "patch.bias", "class_token", "positions"]
    frozen = [name for name, p in tower.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == sorted(names)
    last = teacher.vision_model.encoder.layers[1]
    for repeat in tower.transformer.blocks[0].repeats:
        assert torch.equal(repeat.norm2.weight, last.layer_norm2.weight)
    assert torch.equal(tower.transformer.blocks[0].mlp.fc1.weight, last.mlp.fc1.weight)
    text = TextTower(dataclasses.replace(TEXT, embedding_rank=16, qkv_bias=False))
    inherit(text, text_weights, ("embedding", "positions"), layers=(0, 1))
    ids = torch.arange(60)[None]
    full = teacher.text_model.embeddings.token_embedding.weight
    assert (text.embedding(ids)[0] - full).var() < 0.5 * full.var()


def test_wrong_shapes_are_named(teacher):
    weights, text_weights = read_transformers_clip(teacher)
    tower = VisionTower(dataclasses.replace(VISION, image_size=64))
    with pytest.raises(InputError, match=r"positions: the student's is \[17, 32\]"):
        inherit(tower, weights)
    with pytest.raises(InputError, match="choose one for each"):
        inherit(VisionTower(VISION), weights, layers=(0,))
    with pytest.raises(InputError, match="layers 0 to 1"):
        inherit(VisionTower(VISION), weights, layers=(0, 5))
    with pytest.raises(InputError, match="cannot inherit 'patch'"):
        inherit(TextTower(TEXT), text_weights, ("patch",))
    with pytest.raises(ModelError, match="CLIPModel"):
        read_transformers_clip(tower)


def test_open_clip_reads_the_same_layout():
    prepare_torchvision()
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 32, "head_width": 8, "layers": 2},
        text_cfg={"context_length": 10, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2},
    ).eval()
    _, weights = read_open_clip(model)
    tower = TextTower(TEXT).eval()
    inherit(tower, weights, ("embedding", "positions", "norm", "head"), layers=(0, 1))
    ids = torch.randint(1, 58, (3, 10))
    ids[:, 6:] = 0
    ids[:, 5] = 59  # the highest id marks the end
    with torch.no_grad():
        expected = model.encode_text(ids)
    torch.testing.assert_close(
        tower(ids, (torch.arange(10) <= 5).long().expand(3, -1)), expected, rtol=1e-4, atol=1e-5
    )


def test_post_norm_tower_that_inherits_bert_equals_it():
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    tower = TextTower(
        dataclasses.replace(TEXT, norm="post", mask="padding", pooling="mean", embedding_dim=32)
    ).eval()
    inherit(tower, read_transformers_bert(bert), ("embedding", "positions", "norm", "head"), layers=(0, 1))
    ids = torch.randint(0, 60, (3, 10))
    mask = (torch.arange(10) <= torch.tensor([[9], [4], [6]])).long()
    with torch.no_grad():
        states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    # BERT's LayerNorm has an epsilon of 1e-12, ours PyTorch's 1e-5
    torch.testing.assert_close(tower(ids, mask), expected, rtol=1e-2, atol=2e-3)
    with pytest.raises(ModelError, match="BertModel"):
        read_transformers_bert(tower)
