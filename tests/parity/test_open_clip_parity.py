"""Embeddings through cliplet equal a direct call of open_clip, on photos and captions of every kind."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cliplet
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.errors import InputError, ModelError
from tests.parity.local_models import CAPTIONS, random_weights
from tests.photos import as_a_viewer_shows_it

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the library's own
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),  # Pillow's, in the direct call
]
TOLERANCE = 1e-5
SMALL = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


@pytest.fixture(scope="module")
def open_clip(torchvision: None) -> Any:
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def small(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The weights file of ``Small-32``, an architecture added to open_clip for these tests."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "Small-32.json").write_text(json.dumps(SMALL))
    (folder / "Small-32-quickgelu.json").write_text(json.dumps({**SMALL, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    weights = folder / "weights.pt"
    torch.save(random_weights(open_clip.create_model("Small-32")).state_dict(), weights)
    return weights


def direct_images(model: Any, preprocess: Any, paths: list[Path]) -> np.ndarray:
    with torch.no_grad():
        rows = [model.encode_image(preprocess(as_a_viewer_shows_it(p))[None], normalize=True) for p in paths]
    return torch.cat(rows).numpy()


def direct_texts(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([model.encode_text(tokenizer([text]), normalize=True) for text in texts]).numpy()


def test_full_size_vit_b_32_equals_a_direct_call(
    open_clip: Any, tmp_path: Path, photos: dict[str, Path]
) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = cliplet.load(f"open_clip:ViT-B-32/{tmp_path}/weights.pt")

    paths = [
        photos[n] for n in ("plain.jpg", "tall.png", "alpha.png", "palette.png", "grey16.png", "exif6.jpg")
    ]
    assert np.abs(encoder.encode_images(paths) - direct_images(model, preprocess, paths)).max() < TOLERANCE
    texts = [CAPTIONS[0], CAPTIONS[3], CAPTIONS[7], CAPTIONS[-1]]
    theirs = direct_texts(model, open_clip.get_tokenizer("ViT-B-32"), texts)
    assert np.abs(encoder.encode_texts(texts) - theirs).max() < TOLERANCE
    assert encoder.card.embedding_dim == 512


def test_images_of_every_kind_equal_a_direct_call(
    open_clip: Any, small: Path, photos: dict[str, Path]
) -> None:
    model, preprocess = open_clip.create_model_from_pretrained("Small-32", pretrained=str(small))
    ours = cliplet.load(f"open_clip:Small-32/{small}").encode_images(list(photos.values()))
    theirs = direct_images(model.eval(), preprocess, list(photos.values()))
    worst = np.abs(ours - theirs).max(axis=1)
    assert dict(zip(photos, worst, strict=True)) == dict.fromkeys(photos, pytest.approx(0, abs=TOLERANCE))
    assert (ours @ ours.T).min() < 0.5, "embeddings that are all alike cannot tell agreement from its absence"


def test_captions_of_every_kind_equal_a_direct_call(open_clip: Any, small: Path) -> None:
    model, _ = open_clip.create_model_from_pretrained("Small-32", pretrained=str(small))
    ours = cliplet.load(f"open_clip:Small-32/{small}").encode_texts(CAPTIONS)
    theirs = direct_texts(model.eval(), open_clip.get_tokenizer("Small-32"), CAPTIONS)
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert (ours @ ours.T).min() < 0.5


def test_truncation_is_counted_and_keeps_the_end_token(open_clip: Any, small: Path) -> None:
    encoder = OpenClipEncoder.from_name(f"Small-32/{small}")
    tokenizer = open_clip.get_tokenizer("Small-32")
    texts = [*CAPTIONS, "dog " * 75, "dog " * 76]
    tokens, truncated = encoder.tokenize(texts)
    assert truncated.tolist() == [len(tokenizer.encode(text)) + 2 > 77 for text in texts]
    assert truncated[-2:].tolist() == [False, True]
    assert all(int(row.max()) == tokenizer.eot_token_id for row in tokens)


def test_weights_that_need_quickgelu_get_it(
    open_clip: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import pretrained

    tag = {"file": str(small), "quick_gelu": True}
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-32", {"trained_with_quickgelu": tag})
    ours = OpenClipEncoder.from_name("Small-32/trained_with_quickgelu").encode_texts(CAPTIONS)
    tokenizer = open_clip.get_tokenizer("Small-32")
    right, _ = open_clip.create_model_from_pretrained("Small-32-quickgelu", pretrained=str(small))
    wrong, _ = open_clip.create_model_from_pretrained("Small-32", pretrained=str(small))
    assert np.abs(ours - direct_texts(right.eval(), tokenizer, CAPTIONS)).max() < TOLERANCE
    assert np.abs(ours - direct_texts(wrong.eval(), tokenizer, CAPTIONS)).max() > 1e-3


def test_weights_that_must_not_get_quickgelu_warn(
    open_clip: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "Small-32-quickgelu", {"plain": {"file": str(small)}})
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        OpenClipEncoder.from_name("Small-32-quickgelu/plain")


def test_the_fingerprint_follows_weights_and_preprocessing(open_clip: Any, small: Path) -> None:
    name = f"Small-32/{small}"
    encoder = OpenClipEncoder.from_name(name)
    assert encoder.card.fingerprint == OpenClipEncoder.from_name(name).card.fingerprint
    changed = OpenClipEncoder.from_name(name)
    with torch.no_grad():
        changed.model.logit_scale.add_(1e-3)
    assert changed.card.fingerprint != encoder.card.fingerprint
    model, squash = open_clip.create_model_from_pretrained(
        "Small-32", pretrained=str(small), image_resize_mode="squash"
    )
    squashed = OpenClipEncoder(model, squash, open_clip.get_tokenizer("Small-32"))
    assert squashed.card.fingerprint != encoder.card.fingerprint
    assert squashed.card.image.resize == "squash"


def test_a_folder_in_the_hubs_layout(open_clip: Any, small: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": SMALL, "preprocess_cfg": {"interpolation": "bilinear"}})
    )
    from safetensors.torch import save_file

    save_file(torch.load(small, weights_only=True), tmp_path / "open_clip_model.safetensors")
    encoder = OpenClipEncoder.from_name(str(tmp_path))
    assert encoder.card.image.interpolation == "bilinear"
    by_file = OpenClipEncoder.from_name(f"Small-32/{small.parent}")  # a folder with one weights file
    assert np.array_equal(encoder.encode_texts(["a dog"]), by_file.encode_texts(["a dog"]))
    assert OpenClipEncoder.from_name(f"Small/32/{small}").card.embedding_dim == 48


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-33/openai", "no architecture 'ViT-B-33'.*ViT-B-32"),
        ("ViT-B-32", "names no weights.*openai"),
        ("ViT-B-32/opena", "no weights 'opena'.*openai"),
        ("ViT-B-32//no/such/file.pt", "nor is it a file"),
        ("Small-32/{folder}", "holds 0 weights files"),
        ("Small-32/{folder}/broken.pt", "cannot load"),
        ("local-dir:{folder}", "cannot load"),
    ],
)
def test_bad_names_say_what_to_do(small: Path, tmp_path: Path, name: str, message: str) -> None:
    if "broken" in name:
        (tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=message):
        OpenClipEncoder.from_name(name.format(folder=tmp_path))


def test_weights_of_another_architecture_are_an_error(small: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        OpenClipEncoder.from_name(f"RN50/{small}")


def test_a_needle_thin_image_is_refused(small: Path) -> None:
    with pytest.raises(InputError, match="too narrow"):
        OpenClipEncoder.from_name(f"Small-32/{small}").encode_images([np.zeros((100_000, 1), dtype=np.uint8)])


def test_abilities_are_declared_and_survive_pickling(open_clip: Any, small: Path) -> None:
    encoder = OpenClipEncoder.from_name(f"Small-32/{small}")
    assert (encoder.raw, encoder.library, encoder.device) == (True, "open_clip", "cpu")
    raw, _, _ = encoder.encode_texts_safely(CAPTIONS, normalise=False)
    with torch.no_grad():
        theirs = encoder.model.encode_text(encoder.tokenizer(["a dog"]))[0].numpy()
    np.testing.assert_allclose(raw[CAPTIONS.index("a dog")], theirs, atol=1e-5)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode_texts(CAPTIONS[:4]), encoder.encode_texts(CAPTIONS[:4]))
    assert again.card.fingerprint == encoder.card.fingerprint
