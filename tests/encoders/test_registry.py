"""``cliplet.load``: every kind of name finds its encoder, and a wrong one is told what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
        (
            "no/such/model",
            "no model 'no/such/model'.*open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME, .*module:attribute",
        ),
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


OWN = """
import numpy as np
from cliplet.encoders.card import ModelCard

class Lengths:
    card = ModelCard("lengths", 2)

    def encode_images(self, images):
        return np.array([[1.0, 0.0]] * len(images))

    def encode_texts(self, texts):
        return np.array([[len(text), 1.0] for text in texts])

made = Lengths()
wrong = 3

def maker():
    return made

class Half:
    card = "a card"
    encode_images = encode_texts = None

def with_arguments(size):
    return made

def half():
    return Half()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working folder."""
    (tmp_path / "users_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "users_own"
    sys.modules.pop("users_own", None)


@pytest.mark.parametrize("attribute", ["Lengths", "made", "maker"])
def test_a_users_own_encoder(own: str, attribute: str) -> None:
    encoder = cliplet.load(f"{own}:{attribute}")
    assert encoder.card.name == "lengths"
    np.testing.assert_allclose(encoder.encode_texts(["a" * 3])[0], [3 / 10**0.5, 1 / 10**0.5], rtol=1e-6)
    result = cliplet.Scorer(f"{own}:{attribute}", "cosine").score([np.zeros((4, 4), np.uint8)], ["a dog"])
    assert result.cosine[0] == pytest.approx(5 / 26**0.5)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("wrong", "type int, which is no encoder and makes none"),
        ("with_arguments", "cannot be made without arguments: TypeError"),
        ("half", "type Half, which is no encoder: it needs a card"),
        ("length", "has no attribute 'length'.*Lengths.*; or name a packaged model"),
    ],
)
def test_what_is_no_encoder_is_told(own: str, attribute: str, message: str) -> None:
    with pytest.raises(cliplet.ModelError, match=message):
        cliplet.load(f"{own}:{attribute}")


def test_no_such_module_lists_the_choices() -> None:
    with pytest.raises(
        cliplet.ModelError, match=r"no module 'nowhere'.*; or name a packaged model .*hf:OWNER"
    ):
        cliplet.load("nowhere:Encoder")


def test_the_command_line_takes_a_users_own_encoder(own: str) -> None:
    from click.testing import CliRunner

    from cliplet.cli.main import cli

    Image.new("RGB", (8, 8)).save("photo.png")
    result = CliRunner().invoke(
        cli, ["score", "photo.png", "a dog", "--model", f"{own}:Lengths", "--preset", "cosine"]
    )
    assert result.exit_code == 0, result.output
    assert "0.98" in result.output
