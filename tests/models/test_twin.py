"""The twin image tower: its two late parts, its file, and the grid that a captioner looks at."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.export import export
from cliplet.export.onnx_grid import OnnxGrid
from cliplet.models.captioner_config import GridConfig
from cliplet.models.config import DualConfig, TwinConfig, from_dict, to_dict
from cliplet.models.dual import DualModel, load_weights, save_weights
from cliplet.models.vision import TwinImageTower
from cliplet.training.captioner.towers import GridTower
from tests.training import make

pytestmark = pytest.mark.usefixtures("torchvision")
CONFIG = TwinConfig(name="test_efficientnet", embedding_dim=16, first_stage=2, classes=7, image_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with such a tower whose learning part has learnt something, as PyTorch weights and as ONNX."""
    place = tmp_path_factory.mktemp("twin")
    made = make.encoder(DualConfig(image=CONFIG, text=make.CONFIG.text))
    tower = made.model.image
    assert isinstance(tower, TwinImageTower)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tower.late.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_weights(made.model, place / "model")
    make.tokenizer().save(str(place / "model" / "tokenizer.json"))
    card = dataclasses.replace(made.card, image=dataclasses.replace(made.card.image, size=64))
    card.save(place / "model")
    export(TorchEncoder.from_folder(place / "model"), place / "onnx", "fp32")
    return place


def test_a_new_twin_sees_what_the_classifier_sees() -> None:
    torch.manual_seed(0)
    tower = TwinImageTower(CONFIG).eval()
    pixels, width = torch.randn(2, 3, 64, 64), tower.body.num_features
    seen = []
    tower.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        tower(pixels)
        learnt, known, likely = seen[0].split([width, width, 7], dim=1)
        torch.testing.assert_close(learnt, known)
        torch.testing.assert_close(known, tower.body.forward_features(pixels).mean(dim=(2, 3)))
        torch.testing.assert_close(likely, tower.body(pixels).softmax(dim=1))


def test_configuration_and_weights_come_back(folder: Path) -> None:
    config = DualConfig(image=CONFIG, text=make.CONFIG.text)
    assert from_dict(DualConfig, to_dict(config)) == config
    model = load_weights(folder / "model")
    assert isinstance(model, DualModel)
    assert model.config.image == CONFIG
    with pytest.raises(InputError, match="first_stage=9"):
        TwinImageTower(dataclasses.replace(CONFIG, first_stage=9))
    with pytest.raises(InputError, match="no EfficientNet's stages"):
        TwinImageTower(dataclasses.replace(CONFIG, name="test_resnet"))


def test_a_captioner_looks_at_what_has_learnt(folder: Path) -> None:
    """The grid of the ONNX file and of the PyTorch weights is the learnt map, whose mean is pooled."""
    pixels = torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    tower = load_weights(folder / "model").image
    seen: list[torch.Tensor] = []
    tower.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (CONFIG.mean, CONFIG.std))
    with torch.no_grad():
        tower((pixels.permute(0, 3, 1, 2).float() - mean) / std)
        learnt = seen[0][:, : tower.body.num_features]
        grid = GridTower(GridConfig(towers=(f"lclip:{folder / 'model'}",), size=64))(pixels)
    np.testing.assert_allclose(grid.mean(dim=1), learnt, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(OnnxGrid(folder / "onnx" / "image.onnx")(pixels), grid, rtol=1e-2, atol=1e-3)
