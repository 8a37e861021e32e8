"""Networks whose activations integers do not have: their convolutions stay in fp32, which is faster."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cliplet.encoders.card import ModelCard
from cliplet.errors import InputError
from cliplet.export import export
from cliplet.export.graph import Computed, write
from cliplet.export.towers import PixelTower
from cliplet.models.config import DualConfig, TimmConfig
from tests.training import make

HALF = (0.5, 0.5, 0.5)


def written(path: Path, activation: type[nn.Module], count: int = 3) -> tuple[Computed, list[str]]:
    """What is said of a tower with ``count`` such activations behind four convolutions, and what these then read."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU()]
    for i in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), activation() if i < count else nn.ReLU()]
    tower = PixelTower(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)), HALF, HALF
    )
    rng = np.random.default_rng(0)
    examples = [{"pixels": rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)} for _ in range(2)]
    some = {"pixels": torch.from_numpy(examples[0]["pixels"])}
    computed = write(tower.eval(), some, {"pixels": {0: "n"}}, path, "int8", examples)
    nodes = onnx.load(path).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    return computed, [made_by.get(node.input[0], "") for node in nodes if node.op_type == "Conv"]


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Hardswish, nn.GELU, nn.Mish, nn.Tanh])
def test_smooth_networks_stay_in_floats(activation: type[nn.Module], tmp_path: Path) -> None:
    computed, read = written(tmp_path / "image.onnx", activation)
    assert computed == "smooth"
    assert "DequantizeLinear" not in read


@pytest.mark.parametrize(("activation", "count"), [(nn.ReLU, 3), (nn.ReLU6, 3), (nn.SiLU, 1)])
def test_others_compute_in_integers(activation: type[nn.Module], count: int, tmp_path: Path) -> None:
    """A few SiLUs among ReLUs do not keep the rest from it."""
    computed, read = written(tmp_path / "image.onnx", activation, count)
    assert computed == "convolutions"
    assert read.count("DequantizeLinear") == 4


def test_examples_without_a_range_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that is nearly constant has no steps of 8 bits."""

    class Constant(nn.Conv2d):
        def __init__(self, *sizes: int, **options: int) -> None:
            super().__init__(*sizes, **options)  # type: ignore[arg-type]
            nn.init.uniform_(self.weight, 0, 1e-7)
            nn.init.constant_(self.bias, 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(nn, "Conv2d", Constant)
    with pytest.raises(
        InputError, match=r"8-bit convolutions cannot be measured: .*calibrate on other photos"
    ):
        written(tmp_path / "image.onnx", nn.ReLU)


def test_the_card_says_why(tmp_path: Path) -> None:
    """EfficientNet-B0's activations are SiLUs."""
    config = DualConfig(
        image=TimmConfig(name="efficientnet_b0", embedding_dim=16, image_size=32), text=make.CONFIG.text
    )
    photos = [make.drawing("red", "square", i) for i in range(4)]
    report = export(make.encoder(config), tmp_path / "out", "int8", calibration=photos)
    assert report.integer_products == "none"
    assert "SiLUs" in ModelCard.load(tmp_path / "out").precision
