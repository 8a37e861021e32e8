"""CLIP and SigLIP models of Transformers in tuning recipes."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.encoders.registry import load
from cliplet.errors import ModelError
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.trainable import TrainableTransformers, open_trainable
from tests.parity import local_models
from tests.training import make
from tests.training.test_dclip import recipe, write_data

TEXTS = ["a red bar", "the picture of a small yellow frame"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, torchvision, tmp_path_factory):
    pytest.importorskip("transformers")
    made = tmp_path_factory.mktemp(request.param)
    return (local_models.save_clip if request.param == "clip" else local_models.save_siglip)(made)


def test_towers_are_the_encoders(folder):
    clip = open_trainable(f"hf:{folder}")
    assert isinstance(clip, TrainableTransformers)
    photos = [make.drawing("red", "bar", 0), make.drawing("blue", "frame", 1)]
    with torch.no_grad():
        image, text = clip.encode_image(clip.pixels(photos)), clip.encode_text(**clip.tokens(TEXTS))
    np.testing.assert_allclose(F.normalize(image, dim=1), clip.encoder.encode_images(photos), atol=1e-5)
    np.testing.assert_allclose(F.normalize(text, dim=1), clip.encoder.encode_texts(TEXTS), atol=1e-5)


def test_token_states(folder):
    clip = open_trainable(str(folder))  # the folder without hf: is the same
    if "siglip" in str(folder):
        with pytest.raises(ModelError, match="spans = 'phrases'"):
            clip.token_states(TEXTS)
        return
    pieces, states = clip.token_states(TEXTS)
    assert pieces == [text.split() for text in TEXTS]
    assert [s.shape for s in states] == [(3, 48), (7, 48)]
    batch = clip.tokens(TEXTS)
    with torch.no_grad():
        ends = clip.projected_states(**batch)[torch.arange(2), batch["attention_mask"].sum(dim=1) - 1]
        torch.testing.assert_close(ends, clip.encode_text(**batch))  # the end token is the embedding


def test_released_is_the_image_towers_attention_and_its_end(folder):
    clip = open_trainable(str(folder))
    names = clip.named(["released"])
    assert all(n.startswith(clip.image_prefix) for n in names)
    end = "vision_model.head.probe" if "siglip" in str(folder) else "visual_projection.weight"
    assert end in names
    assert "vision_model.encoder.layers.1.self_attn.q_proj.weight" in names
    assert not any(".mlp.fc1" in n and ".layers." in n for n in names)


def test_a_recipe_tunes_one_and_the_result_can_be_loaded_and_tuned_again(folder, tmp_path):
    data = write_data(tmp_path)
    config = recipe(
        data, tmp_path / "run", f'base="hf:{folder}"', "student.teacher=text", "student.anchors={}",
        'student.train=["released", "text_model.final_layer_norm.*"]', "student_stage.epochs=1", "zeroshot.photos=''",
    )  # fmt: skip
    dclip(config)
    tuned = tmp_path / "run" / "dclip-seed0" / "model"
    about = json.loads((tuned / "dclip.json").read_text())
    assert about["load"] == str(tuned)
    assert about["training"]["base"] == f"hf:{folder}"
    before, after = open_trainable(str(folder)), open_trainable(about["load"])
    old = dict(before.model.named_parameters())
    changed = {n for n, p in after.model.named_parameters() if not torch.equal(p, old[n])}
    assert changed
    assert changed <= set(before.named(config.student.train))
    assert load(tuned).encode_texts(TEXTS).shape == (2, after.encoder.card.embedding_dim)
    assert after.tokens(TEXTS)["input_ids"].tolist() == before.tokens(TEXTS)["input_ids"].tolist()


def test_images_of_any_size_are_refused(folder):
    encoder = load(folder)
    pixels = encoder.prepare_image
    encoder.prepare_image = lambda image: {**pixels(image), "spatial_shapes": torch.zeros(1, 2)}
    with pytest.raises(ModelError, match="spatial_shapes"):
        TrainableTransformers(encoder)
