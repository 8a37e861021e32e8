"""The twin image tower: its two late parts, its file, and the grid that a captioner looks at."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.export import export
from cliplet.export.onnx_grid import OnnxGrid
from cliplet.models.captioner_config import GridConfig
from cliplet.models.config import DualConfig, TwinConfig, from_dict, to_dict
from cliplet.models.dual import DualModel, load_weights, save_weights
from cliplet.models.late import LateTower, early_stages
from cliplet.models.vision import LastStages, TwinImageTower
from cliplet.models.yolox import YoloxFeatures
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
        tower.scale.copy_(torch.rand(2 * width + 7))
        tower(pixels)
        # sizes stay out of the weights, which get 8 bits
        torch.testing.assert_close(seen[1], seen[0] * tower.scale)


def test_configuration_and_weights_come_back(folder: Path) -> None:
    config = DualConfig(image=CONFIG, text=make.CONFIG.text)
    assert from_dict(DualConfig, to_dict(config)) == config
    model = load_weights(folder / "model")
    assert isinstance(model, DualModel)
    assert model.config.image == CONFIG
    with pytest.raises(InputError, match="first_block=9 is not below"):
        TwinImageTower(dataclasses.replace(CONFIG, first_block=9))
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


def test_a_detector_takes_part(tmp_path: Path) -> None:
    """Its findings are the projection's last inputs; in 8 bits it stays in fp32; the grid is still the learnt map."""
    config = dataclasses.replace(CONFIG, name="tf_efficientnet_lite0", detector=64)
    made = make.encoder(DualConfig(image=config, text=make.CONFIG.text))
    tower = made.model.image
    assert isinstance(tower, TwinImageTower)
    assert tower.detector is not None
    pixels, seen = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    tower.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        tower.eval()(pixels)
        torch.testing.assert_close(seen[0][:, -YoloxFeatures.width :], tower.detector(pixels))
        tower.head.weight[:, -YoloxFeatures.width :] *= 0.01  # of random weights, beside features near 0
    save_weights(made.model, tmp_path / "model")
    make.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    dataclasses.replace(made.card, image=dataclasses.replace(made.card.image, size=64)).save(
        tmp_path / "model"
    )
    encoder = TorchEncoder.from_folder(tmp_path / "model")
    report = export(encoder, tmp_path / "fp32", "fp32")
    assert report.score_max_difference < 1e-3
    photos = [make.drawing("red", "square", i) for i in range(16)]
    export(encoder, tmp_path / "int8", "int8", calibration=photos)
    nodes = onnx.load(str(tmp_path / "int8" / "image.onnx")).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    read = [made_by.get(node.input[0], "") for node in nodes if node.op_type == "Conv"]
    inside = sum(isinstance(m, torch.nn.Conv2d) for m in tower.detector.modules())
    assert sum(kind != "DequantizeLinear" for kind in read) == inside
    assert read.count("DequantizeLinear") > 0
    levels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        grid = GridTower(GridConfig(towers=(f"lclip:{tmp_path / 'model'}",), size=64))(levels)
    np.testing.assert_allclose(OnnxGrid(tmp_path / "fp32" / "image.onnx")(levels), grid, rtol=1e-2, atol=1e-3)


def test_the_late_part_may_begin_within_a_stage() -> None:
    """The kept maps' two readers, the module in training and the tower's part, agree with the whole network."""
    config = dataclasses.replace(CONFIG, name="tf_efficientnet_lite0", first_stage=5, first_block=2)
    torch.manual_seed(0)
    tower, pixels = TwinImageTower(config).eval(), torch.randn(2, 3, 64, 64)
    whole = LastStages(tower.body, 5)
    assert sum(p.numel() for p in tower.late.parameters()) < sum(p.numel() for p in whole.parameters())
    with torch.no_grad():
        maps = early_stages(tower.body, 5, 2)(pixels)
        wanted = tower.body.forward_features(pixels).mean(dim=(2, 3))
        for found in (tower.late(maps), tower.learnt().forward_features(pixels).mean(dim=(2, 3))):
            torch.testing.assert_close(found, wanted)
        late = LateTower(tower.body, 5, 1, 0.0, block=2).eval()
        torch.testing.assert_close(late.features(maps), wanted, rtol=0.1, atol=0.02)  # bf16 where there is
        seen: list[torch.Tensor] = []
        tower.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        tower(pixels)
        width = tower.body.num_features
        torch.testing.assert_close(seen[0][:, :width], seen[0][:, width : 2 * width])
        for part in late.parameters():
            part.add_(0.01)
        late.write_back(tower.late, 0)
        torch.testing.assert_close(tower.late(maps), late.features(maps), rtol=0.1, atol=0.02)
        assert not torch.allclose(tower.late(maps), wanted)


def test_a_detectors_side_is_checked() -> None:
    with pytest.raises(InputError, match="detector=100 must be a multiple of 32"):
        dataclasses.replace(CONFIG, detector=100)
