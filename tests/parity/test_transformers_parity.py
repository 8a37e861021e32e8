"""Embeddings through cliplet equal a direct call of Transformers, on photos and captions of every kind."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cliplet
from cliplet.encoders.transformers import TransformersEncoder
from cliplet.errors import InputError, ModelError
from tests.parity.local_models import CAPTIONS
from tests.photos import as_a_viewer_shows_it

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.usefixtures("torchvision"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the library's own
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),  # Pillow's, in the direct call
]
TOLERANCE = 1e-5


class Direct:
    """The library called as its documentation shows, one input at a time."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoProcessor

        self.model = AutoModel.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        siglip = self.model.config.model_type == "siglip"
        self.padding = {"padding": "max_length", "max_length": 64} if siglip else {"padding": True}

    def image(self, image: Image.Image) -> np.ndarray:
        return self._unit(self.model.get_image_features, self.processor(images=image, return_tensors="pt"))

    def text(self, text: str) -> np.ndarray:
        inputs = self.processor(text=[text], truncation=True, return_tensors="pt", **self.padding)
        return self._unit(self.model.get_text_features, inputs)

    def _unit(self, tower: Any, inputs: Any) -> np.ndarray:
        with torch.no_grad():
            features = tower(**inputs)
        features = features if torch.is_tensor(features) else features.pooler_output
        return torch.nn.functional.normalize(features, dim=-1)[0].numpy()


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


def test_images_of_every_kind_equal_a_direct_call(folder: Path, photos: dict[str, Path]) -> None:
    encoder, direct = cliplet.load(f"hf:{folder}"), Direct(folder)
    ours = encoder.encode_images(list(photos.values()))
    theirs = np.stack([direct.image(as_a_viewer_shows_it(path)) for path in photos.values()])
    worst = np.abs(ours - theirs).max(axis=1)
    assert dict(zip(photos, worst, strict=True)) == dict.fromkeys(photos, pytest.approx(0, abs=TOLERANCE))
    assert (ours @ ours.T).min() < 0.5, "embeddings that are all alike cannot tell agreement from its absence"


def test_captions_of_every_kind_equal_a_direct_call(folder: Path) -> None:
    encoder, direct = cliplet.load(f"hf:{folder}"), Direct(folder)
    ours = encoder.encode_texts(CAPTIONS)
    theirs = np.stack([direct.text(text) for text in CAPTIONS])
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert (ours @ ours.T).min() < 0.5


def test_truncation_is_counted_and_keeps_the_end_token(folder: Path) -> None:
    encoder = TransformersEncoder.from_name(str(folder))
    length = encoder.card.text.context_length
    end = encoder.tokenizer.eos_token_id
    tokens, truncated = encoder.tokenize(CAPTIONS)
    whole = [len(encoder.tokenizer(text, verbose=False)["input_ids"]) for text in CAPTIONS]
    assert truncated.tolist() == [n > length for n in whole]
    assert truncated.any()
    assert all(ids[-1] == end and len(ids) <= length for ids in tokens)


def test_a_caption_that_just_fits_is_not_truncated(clip_folder: Path) -> None:
    encoder = TransformersEncoder.from_name(str(clip_folder))
    tokens, truncated = encoder.tokenize(["dog " * 75, "dog " * 76])  # and the start and end tokens
    assert [len(ids) for ids in tokens] == [77, 77]
    assert truncated.tolist() == [False, True]


def test_batches_equal_one_by_one(folder: Path, photos: dict[str, Path]) -> None:
    encoder = TransformersEncoder.from_name(str(folder), batch_size=3)
    chosen = list(photos.values())[:8]
    alone = np.concatenate([encoder.encode_images([path]) for path in chosen])
    assert np.abs(encoder.encode_images(chosen) - alone).max() < TOLERANCE


def test_half_precision_weights_compute_in_fp32(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    half = shutil.copytree(clip_folder, tmp_path / "half")
    AutoModel.from_pretrained(clip_folder).half().save_pretrained(half)
    encoder = TransformersEncoder.from_name(str(half))
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    whole = cliplet.load(clip_folder)
    assert np.abs(encoder.encode_texts(["a dog"]) - whole.encode_texts(["a dog"])).max() < 0.01
    assert encoder.card.fingerprint != whole.card.fingerprint


def test_the_fingerprint_follows_weights_processor_and_tokeniser(clip_folder: Path, tmp_path: Path) -> None:
    original = TransformersEncoder.from_name(str(clip_folder)).card.fingerprint
    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    assert TransformersEncoder.from_name(str(copy)).card.fingerprint == original
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 2}))
    bilinear = TransformersEncoder.from_name(str(copy))
    assert bilinear.card.image.interpolation == "bilinear"
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    merges = (copy / "merges.txt").read_text().splitlines()
    (copy / "merges.txt").write_text("\n".join(merges[:100]))
    assert (
        len({original, bilinear.card.fingerprint, TransformersEncoder.from_name(str(copy)).card.fingerprint})
        == 3
    )


def test_scores_do_not_depend_on_the_scale_and_bias_of_the_logits(folder: Path, tmp_path: Path) -> None:
    """Other filters threshold the logits (findings/data-juicer-similarity-is-not-a-cosine.sh)."""
    from transformers import AutoModel

    own = shutil.copytree(folder, tmp_path / "own")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-3.0)
    model.save_pretrained(own)
    photo, caption = Image.new("RGB", (64, 64), (200, 30, 30)), "a red square"
    before, after = (
        encoder.encode_images([photo]) @ encoder.encode_texts([caption]).T
        for encoder in (cliplet.load(folder), cliplet.load(own))
    )
    assert np.allclose(before, after, atol=1e-6)


def test_broken_surrogates_are_encoded(clip_folder: Path) -> None:
    assert np.isfinite(cliplet.load(clip_folder).encode_texts(["a \ud83d dog"])).all()


def test_a_needle_thin_image_is_refused(clip_folder: Path) -> None:
    with pytest.raises(InputError, match="too narrow"):
        cliplet.load(clip_folder).encode_images([np.zeros((1, 100_000), dtype=np.uint8)])


def test_missing_weights_are_an_error(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(clip_folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*visual_projection"):
        TransformersEncoder.from_name(str(broken))


@pytest.mark.parametrize("gone", ["model.safetensors", "preprocessor_config.json", "vocab.json"])
def test_missing_files_are_an_error(clip_folder: Path, tmp_path: Path, gone: str) -> None:
    broken = shutil.copytree(clip_folder, tmp_path / "broken")
    (broken / gone).unlink()
    with pytest.raises(ModelError, match=str(broken)):
        TransformersEncoder.from_name(str(broken))


def test_truncated_weights_are_an_error(clip_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clip_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load"):
        TransformersEncoder.from_name(str(broken))


def test_missing_folder_is_an_error() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        TransformersEncoder.from_name("./no-such-folder")


def test_a_model_without_two_towers_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    tower = shutil.copytree(clip_folder, tmp_path / "tower")
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=49408
    )
    CLIPTextModel(config).save_pretrained(tower)
    with pytest.raises(ModelError, match="both images and texts"):
        TransformersEncoder.from_name(str(tower))


def test_abilities_are_declared_and_survive_pickling(folder: Path) -> None:
    encoder = TransformersEncoder.from_name(str(folder))
    assert (encoder.raw, encoder.library, encoder.device) == (True, "transformers", "cpu")
    raw, _, _ = encoder.encode_texts_safely(["a dog"], normalise=False)
    assert abs(float(np.linalg.norm(raw)) - 1) > 0.01
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode_texts(CAPTIONS[:4]), encoder.encode_texts(CAPTIONS[:4]))
    assert again.card.fingerprint == encoder.card.fingerprint
