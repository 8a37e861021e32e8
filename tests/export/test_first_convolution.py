"""The first convolution over four columns at once: the same integers as over one, whatever its padding."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cliplet.export import graph as graphs
from cliplet.export.first_convolution import widen_first_convolution
from cliplet.export.towers import PixelTower

SIZE = 32


def pixels(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (count, 8, 8, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)


def written(path: Path, first: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> Path:
    """A graph in 8 bits of a small tower that begins with these layers."""
    torch.manual_seed(0)
    body = nn.Sequential(
        first, nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8),
    )  # fmt: skip
    tower = PixelTower(body, mean, std).eval()
    examples = [{"pixels": pixels(seed, 4)} for seed in (1, 2)]
    graphs.write(
        tower, {"pixels": torch.from_numpy(pixels(0, 2))}, {"pixels": {0: "n"}}, path, "int8", examples
    )
    return path


def run(path: Path, given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": given})[0]


HALF = (0.5, 0.5, 0.5)
FORMS = {
    "TensorFlow's padding": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2)),
    "PyTorch's padding": nn.Conv2d(3, 8, 3, 2, padding=1),
    "a large kernel": nn.Conv2d(3, 8, 7, 2, padding=3),
    "an even kernel": nn.Conv2d(3, 8, 4, 2, padding=1),
    "without a margin": nn.Conv2d(3, 8, 2, 2),
    "rows one by one": nn.Conv2d(3, 8, 3, (1, 2), padding=1),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_results_are_equal_to_the_last_bit(form, tmp_path, monkeypatch):
    new = written(tmp_path / "new.onnx", FORMS[form], HALF, HALF)
    monkeypatch.setattr(graphs, "widen_first_convolution", lambda model: False)
    old = written(tmp_path / "old.onnx", FORMS[form], HALF, HALF)
    convolutions = [n for n in onnx.load(new).graph.node if n.op_type == "Conv"]
    stored = {t.name: list(t.dims) for t in onnx.load(new).graph.initializer}
    maker = {output: n for n in onnx.load(new).graph.node for output in n.output}
    assert stored[maker[convolutions[0].input[1]].input[0]][:2] == [16, 12]
    given = pixels(9, 5)
    given[0] = np.arange(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)  # every level, and no two rows alike
    np.testing.assert_array_equal(run(new, given), run(old, given))


@pytest.mark.parametrize(
    ("first", "mean", "std"),
    [
        pytest.param(nn.Conv2d(3, 8, 3, 2, padding=1), (0.48, 0.46, 0.41), HALF, id="a mean for each channel"),
        pytest.param(nn.Conv2d(3, 8, 3, 1, padding=1), HALF, HALF, id="all columns"),
        pytest.param(nn.Conv2d(3, 8, 3, 2), HALF, HALF, id="half of the columns but one"),
        pytest.param(nn.Conv2d(3, 8, 3, 2, padding=2, dilation=2), HALF, HALF, id="with gaps"),
    ],
)  # fmt: skip
def test_other_forms_are_left_alone(first, mean, std, tmp_path):
    model = onnx.load(written(tmp_path / "image.onnx", first, mean, std))
    before = model.SerializeToString()
    assert not widen_first_convolution(model)
    assert model.SerializeToString() == before
