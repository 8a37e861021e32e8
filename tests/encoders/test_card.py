"""The model card: what is checked when it is read, and that it fits the folder's graphs."""

import json
import shutil
from pathlib import Path

import pytest

from cliplet.data.images import resize_rgb
from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, ModelError
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("card") / "model")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def change(folder: Path, *path: str, value: object) -> None:
    """Set one field of ``card.json``; a float may be NaN or infinity, as Python's JSON allows."""
    content = json.loads((folder / "card.json").read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (folder / "card.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "", "name must be a text, not ''"),
        ("name", 7, "name must be a text, not 7"),
        ("embedding_dim", 0, "embedding_dim must be a whole number from 1 to 65536, not 0"),
        ("embedding_dim", "16", "embedding_dim must be a whole number"),
        ("image.size", 10_000_000, "image.size must be a whole number from 1 to 4096, not 10000000"),
        ("image.size", 32.0, "image.size must be a whole number"),
        ("image.size", True, "image.size must be a whole number"),
        (
            "image.resize",
            "stretch",
            "image.resize must be one of squash, shortest, shortest_floor, not 'stretch'",
        ),
        (
            "image.interpolation",
            "nearest",
            "image.interpolation must be one of bicubic, bilinear, not 'nearest'",
        ),
        ("image", "squash", "'squash' stands where the fields of ImageSpec are expected"),
        ("text.context_length", 0, "text.context_length must be a whole number"),
        ("text.prompt_prefix", None, "text.prompt_prefix must be a text"),
        ("score.w", float("nan"), "score.w must be a finite number, not nan"),
        ("score.w", "2.5", "score.w must be a finite number, not '2.5'"),
        ("score.reference_weight", float("inf"), "score.reference_weight must be a finite number, not inf"),
    ],
)
def test_a_value_that_cannot_be_is_named(copy, path, value, message):
    change(copy, *path.split("."), value=value)
    with pytest.raises(ModelError, match=r"copy/card\.json: ") as caught:
        OnnxEncoder(copy)
    assert message in str(caught.value)


def test_a_card_made_in_python_is_checked_too():
    with pytest.raises(InputError, match=r"image\.size"):
        ImageSpec(size=-1)
    with pytest.raises(InputError, match=r"score\.w"):
        ScoreSpec(w=float("-inf"))
    with pytest.raises(InputError, match="embedding_dim"):
        ModelCard("mine", 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "image.size",
            48,
            r"image\.onnx does not fit its card\.json: pixels is .*32, 32, 3.* but .*48, 48, 3",
        ),
        ("embedding_dim", 8, r"(image|text)\.onnx does not fit its card\.json: embedding is .*16.* but .*8"),
    ],
)
def test_a_card_of_another_models_graphs_is_refused(copy, path, value, message):
    change(copy, *path.split("."), value=value)
    with pytest.raises(ModelError, match=message):
        OnnxEncoder(copy).load()


def test_exchanged_graphs_are_refused(copy):
    (copy / "image.onnx").write_bytes((copy / "text.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"image\.onnx does not fit its card\.json: pixels is missing"):
        OnnxEncoder(copy).load()


def test_a_graph_that_leaves_its_sides_open_fits_the_card(copy):
    import onnx

    model = onnx.load(copy / "image.onnx")
    for side in model.graph.input[0].type.tensor_type.shape.dim:
        side.dim_param = "open"
    onnx.save(model, copy / "image.onnx")
    OnnxEncoder(copy).load()


def test_half_of_an_odd_margin_is_rounded_as_each_library_does():
    import numpy as np
    from PIL import Image

    columns = np.broadcast_to(np.arange(47, dtype=np.uint8)[None, :, None], (32, 47, 3))
    for resize, first in (("shortest", 8), ("shortest_floor", 7)):  # 15 pixels too many, 7.5 on each side
        assert resize_rgb(Image.fromarray(columns.copy()), 32, resize, "bicubic")[0, 0, 0] == first
