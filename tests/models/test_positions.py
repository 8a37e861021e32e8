"""Learnt positions stretched: exact values, every kind of text tower, and the way out to ONNX."""

import dataclasses
import doctest
import json

import numpy as np
import pytest
import torch

from cliplet.encoders.registry import load
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.export import export
from cliplet.models import positions
from cliplet.models.config import DualConfig, TransformersTextConfig
from cliplet.models.dual import DualModel
from cliplet.models.positions import lengthen_text, lengthened, stretch
from cliplet.training.dclip.trainable import TrainableDual, TrainableOpenClip
from tests.training import make

LONG = " ".join(["a red square on the big grey picture of a small blue corner"] * 24)  # 288 words


def test_examples():
    assert doctest.testmod(positions, extraglobs={"torch": torch}).failed == 0


def test_77_positions_become_248():
    old = torch.randn(77, 8, dtype=torch.float64)
    new = stretch(old, 20, 4)
    assert new.shape == (248, 8)
    torch.testing.assert_close(new[:21], old[:21])

    def at(place):  # between two old positions, or beyond the last
        low = min(int(place), 75)
        return old[low] + (place - low) * (old[low + 1] - old[low])

    expected = [at(20 + n / 4) for n in range(4 * 57)]  # 20, 20.25, ... 76, 76.25, 76.5, 76.75
    torch.testing.assert_close(new[20:], torch.stack(expected))
    torch.testing.assert_close(new[244:], torch.stack([at(76), at(76.25), at(76.5), at(76.75)]))
    torch.testing.assert_close(lengthened(old, 248), new)
    torch.testing.assert_close(lengthened(old, 200), new[:200])


def test_a_short_table_keeps_its_first_half():
    old = torch.randn(32, 4)
    new = lengthened(old, 64)
    assert new.shape == (64, 4)
    torch.testing.assert_close(new[:16], old[:16])
    torch.testing.assert_close(new[19::3][:15], old[17:])  # 16 + 48 = 64: every third one
    with pytest.raises(InputError, match="must be more"):
        lengthened(old, 32)


@pytest.mark.parametrize("mask", ["padding", "causal", "none"])
def test_an_own_tower_reads_longer_texts_and_its_export_too(tmp_path, mask):
    config = dataclasses.replace(
        make.CONFIG, text=dataclasses.replace(make.CONFIG.text, context_length=77, mask=mask)
    )
    encoder = make.encoder(config)
    encoder.card = dataclasses.replace(
        encoder.card, text=dataclasses.replace(encoder.card.text, context_length=77)
    )
    encoder.tokenizer.enable_truncation(77)
    short = encoder.encode_texts(["a red square"])
    old, known = encoder.model.text.positions.detach().clone(), encoder.card.fingerprint
    clip = TrainableDual(encoder)
    clip.lengthen(248)
    torch.testing.assert_close(encoder.model.text.positions.detach(), stretch(old, 20, 4))
    if mask != "none":  # there padding takes part, and there is more of it now
        np.testing.assert_allclose(encoder.encode_texts(["a red square"]), short, atol=1e-6)
    assert encoder.card.fingerprint != known
    assert clip.tokens([LONG])["input_ids"].shape == (1, 248)
    longer = encoder.encode_texts([LONG, LONG[:900]])
    assert abs(longer[0] - longer[1]).max() > 1e-4  # more than 77 words of both

    clip.save(tmp_path / "model", "long", "", {}, {})
    opened = TorchEncoder.from_folder(tmp_path / "model")
    assert opened.card.text.context_length == opened.model.config.text.context_length == 248
    np.testing.assert_allclose(opened.encode_texts([LONG]), longer[:1], atol=1e-6)
    export(opened, tmp_path / "onnx", "fp32")
    exported = load(str(tmp_path / "onnx"))
    assert exported.card.text.context_length == 248
    texts = ["a red square", LONG[:300], LONG[:900], LONG]
    found = exported.encode_texts(texts)
    assert found.shape == (4, 16)
    np.testing.assert_allclose(found, opened.encode_texts(texts), atol=1e-5)
    assert exported.tokenize([LONG])[1].tolist() == [True]


def test_the_same_length_changes_nothing_and_less_is_refused():
    clip = TrainableDual(make.encoder())
    before = clip.encoder.card.fingerprint
    clip.lengthen(16)
    assert clip.encoder.card.fingerprint == before
    with pytest.raises(InputError, match="reads 16 tokens already"):
        clip.lengthen(12)


def bert(**settings):
    text = TransformersTextConfig(
        config={
            "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "vocab_size": 50, **settings,
        },
        context_length=32, embedding_dim=16,
    )  # fmt: skip
    return DualModel(DualConfig(make.CONFIG.image, text)).eval()


@pytest.mark.parametrize("there", [32, 512])
def test_a_text_tower_of_transformers(torchvision, there):
    model = bert(max_position_embeddings=there)
    table = model.text.body.embeddings.position_embeddings.weight.detach().clone()
    lengthen_text(model, 64)
    new = model.text.body.embeddings.position_embeddings.weight.detach()
    torch.testing.assert_close(new, table if there == 512 else lengthened(table, 64))
    ids = torch.randint(5, 50, (2, 64))
    assert model.encode_text(ids, torch.ones_like(ids)).shape == (2, 16)
    assert model.config.text.context_length == 64
    again = DualModel(model.config).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        again.encode_text(ids, torch.ones_like(ids)), model.encode_text(ids, torch.ones_like(ids))
    )


def test_open_clip(torchvision, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    architecture = "tests-long-clip"
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / f"{architecture}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(architecture)
    with torch.no_grad():
        model.positional_embedding.normal_()
    encoder = OpenClipEncoder(model, preprocess, open_clip.get_tokenizer(architecture), name="small")
    old, short = model.positional_embedding.detach().clone(), encoder.encode_texts(["a red square"])
    clip = TrainableOpenClip(encoder, architecture)
    clip.lengthen(248)
    torch.testing.assert_close(model.positional_embedding.detach(), stretch(old, 20, 4))
    np.testing.assert_allclose(encoder.encode_texts(["a red square"]), short, atol=1e-5)
    assert clip.tokens([LONG])["input_ids"].shape == (1, 248)
    texts = [LONG, LONG[:600]]
    found = encoder.encode_texts(texts)
    assert abs(found[0] - found[1]).max() > 1e-4
    clip.save(tmp_path / "model", "long", "", {}, {})
    opened = load(f"open_clip:{tmp_path / 'model'}")
    assert opened.card.text.context_length == 248
    np.testing.assert_allclose(opened.encode_texts(texts), found, atol=1e-5)
    export(opened, tmp_path / "onnx", "fp32")
    exported = load(str(tmp_path / "onnx"))
    np.testing.assert_allclose(exported.encode_texts([*texts, "a red square"])[:2], found, atol=1e-4)
