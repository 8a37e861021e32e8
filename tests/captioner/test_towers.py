"""Image towers as grids."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cliplet.captioner import Captioner
from cliplet.encoders.registry import packaged_models
from cliplet.errors import InputError, ModelError
from cliplet.export.onnx_grid import before_pooling
from cliplet.models.captioner_config import CaptionerConfig, GridConfig
from cliplet.training.captioner.export import export_captioner
from cliplet.training.captioner.towers import GridTower
from cliplet.training.captioner.train import CaptionRun
from cliplet.training.captioner.vocabulary import plain, train_vocabulary
from tests.captioner import make

pytestmark = pytest.mark.usefixtures("torchvision")


def packaged() -> str:
    return f"lclip:{packaged_models()[0].name}"


def test_the_packaged_model_serves_as_a_grid():
    """The pooled grid is what the folder's own graph pools: of its two maps the one that has learnt, the last."""
    tower = GridTower(GridConfig(towers=(packaged(),)))
    squares = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
    photos = squares.repeat(32, axis=1).repeat(32, axis=2)  # [2, 224, 224, 3]
    grid = tower(torch.from_numpy(photos)).numpy()
    model = onnx.load(str(packaged_models()[0] / "image.onnx"))
    pool = [node for node in model.graph.node if node.op_type in ("GlobalAveragePool", "ReduceMean")][-1]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(pool.output[0], onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pooled = session.run([pool.output[0]], {"pixels": photos})[0]
    np.testing.assert_allclose(grid.mean(axis=1), pooled.reshape(2, -1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_captioner_with_it_runs_without_pytorch(tmp_path, precision):
    towers = (packaged(), "timm:tf_efficientnet_lite0")
    tower = GridTower(GridConfig(towers=towers, pretrained=False))
    decoder = make.decoder(0, *tower.shape())
    vocabulary = train_vocabulary(plain(["a dog runs on the grass", "two dogs play"]), 100)
    # compares the folder with PyTorch and raises where they differ
    export_captioner(tower, decoder, vocabulary, tmp_path / "model", "small", precision)
    assert (
        Captioner(tmp_path / "model", threads=1).caption([np.zeros((50, 60, 3), dtype=np.uint8)])[0].captions
    )


def test_a_tower_without_pytorch_weights_does_not_learn(tmp_path):
    model = CaptionerConfig(grid=GridConfig(towers=(packaged(),)))
    stages = (make.cross_entropy(finetune=True),)
    with pytest.raises(InputError, match="no PyTorch weights"):
        CaptionRun(make.recipe(tmp_path, stages, model=model))


def test_another_size_is_said():
    with pytest.raises(InputError, match="224 pixels"):
        GridTower(GridConfig(towers=(packaged(),), size=96)).shape()


def test_a_graph_without_pooling_is_no_grid(tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "image.onnx"))
    with pytest.raises(ModelError, match="does not pool"):
        before_pooling(tmp_path / "image.onnx")
