"""``cliplet.load``: every kind of name finds its encoder, and a wrong one is told what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cliplet
from cliplet.encoders import registry
from cliplet.encoders.onnx import OnnxEncoder
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_a_folder_by_path_and_by_string(folder: Path) -> None:
    for name in (folder, str(folder), f"{folder}/"):
        encoder = cliplet.load(name)
        assert isinstance(encoder, OnnxEncoder)
        assert encoder.card.name == "tiny-0"


def test_a_folder_relative_to_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert cliplet.load("tiny").card.name == "tiny-0"
    assert cliplet.load("./tiny").card.name == "tiny-0"


def test_packaged_models_by_name_and_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WEIGHTS", folder.parent)
    assert cliplet.load().card.name == "tiny-0"
    monkeypatch.chdir("/")
    assert cliplet.load("tiny").card.name == "tiny-0"
    with pytest.raises(cliplet.ModelError, match=r"no model 'tinny'.*\(tiny\)"):
        cliplet.load("tinny")


def test_without_a_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    with pytest.raises(cliplet.ModelError, match="no model is packaged"):
        cliplet.load()


def test_the_packaged_model_keeps_the_contract() -> None:
    if not registry.packaged_models():
        pytest.skip("no model is packaged with this checkout")
    encoder = cliplet.load()
    vectors = [
        encoder.encode_texts(["a dog", "a cat"]),
        encoder.encode_images([np.zeros((9, 9, 3), np.uint8)]),
    ]
    for rows in vectors:
        assert rows.dtype == np.float32
        assert rows.shape[1] == encoder.card.embedding_dim
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/model", "no model 'no/such/model'.*open_clip:ARCHITECTURE/TAG or hf:OWNER/NAME"),
        ("", "no model ''"),
        ("openclip:ViT-B-32/openai", "no model 'openclip"),
    ],
)
def test_an_unknown_name_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(cliplet.ModelError, match=message):
        cliplet.load(name)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        cliplet.ModelError, match=r"neither card\.json .* config\.json .* open_clip_config\.json"
    ):
        cliplet.load(tmp_path)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(cliplet.ModelError, match="no model"):
        cliplet.load(folder / "image.onnx")


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("open_clip:ViT-B-32/openai", "open_clip", "open-clip"), ("hf:owner/name", "transformers", "hub")],
)
def test_a_missing_library_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(cliplet.MissingExtraError, match=rf"cliplet\[{extra}\]") as caught:
        cliplet.load(name)
    assert caught.value.extra == extra


@pytest.mark.parametrize(
    ("name", "extra"), [("open_clip:a/b", "open-clip"), ("hf:a/b", "hub"), ("torch:a", "train")]
)
def test_without_pytorch_its_extra_is_named(name: str, extra: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nimport cliplet\n"
        f"try: cliplet.load({name!r})\nexcept cliplet.MissingExtraError as error: print(error.extra)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == (extra, "")


def test_a_folder_without_graphs_goes_to_pytorch(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    copy = shutil.copytree(folder, tmp_path / "towers")
    (copy / "image.onnx").unlink()
    with pytest.raises(cliplet.ModelError, match="model"):
        cliplet.load(copy)
