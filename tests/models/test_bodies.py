"""Towers from timm and Transformers, mixed with ours."""

import pytest
import torch

from cliplet.errors import InputError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import DualConfig, TextConfig, TimmConfig, TransformersTextConfig
from cliplet.models.dual import DualModel, load_weights, save_weights

prepare_torchvision()
pytest.importorskip("timm")
pytest.importorskip("transformers")

BERT = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_convolutional_image_tower_with_a_multiplexed_text_tower(tmp_path):
    text = TextConfig(
        width=16, heads=4, blocks=1, vocab_size=60, context_length=9, embedding_rank=4, embedding_dim=8
    )
    model = DualModel(DualConfig(image=TimmConfig(embedding_dim=8, image_size=64), text=text)).eval()
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(0, 60, (2, 5))
    image, words = model(pixels, ids, torch.ones_like(ids))
    assert image.shape == words.shape == (2, 8)
    save_weights(model, tmp_path)
    again, _ = load_weights(tmp_path)(pixels)
    assert torch.equal(again, image)


def test_transformers_text_tower_ignores_padding():
    model = DualModel(
        DualConfig(
            image=TimmConfig(embedding_dim=8, image_size=32),
            text=TransformersTextConfig(config=BERT, embedding_dim=8),
        )
    ).eval()
    ids = torch.randint(0, 60, (1, 6))
    mask = torch.ones_like(ids)
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(
        model.encode_text(ids, mask), model.encode_text(padded, padded_mask), rtol=1e-4, atol=1e-5
    )


def test_unknown_bodies_are_named():
    with pytest.raises(InputError, match="no model 'nonet'"):
        DualModel(DualConfig(image=TimmConfig(name="nonet"), text=TextConfig(vocab_size=8)))
    with pytest.raises(InputError, match="model_type"):
        DualModel(DualConfig(text=TransformersTextConfig(config={})))
