"""YOLOX-Nano as a part of an image tower: read from its ONNX file, equal to that file's own answers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from cliplet.encoders.sessions import open_session
from cliplet.errors import ModelError
from cliplet.export.graph import trace
from cliplet.models.yolox import CLASSES, YoloxFeatures, yolox_features
from tests.shared_data import shared_data
from tests.training.parts import Yolox


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Yolox, Path]:
    """Random weights, and the file that PyTorch's tracer writes of them, as YOLOX's own export does."""
    torch.manual_seed(0)
    model, path = Yolox().eval(), tmp_path_factory.mktemp("yolox") / "random.onnx"
    with torch.no_grad():
        model.backbone.backbone.stem.conv.conv.weight.div_(64)  # of pixels up to 255
    trace(model, {"images": torch.zeros(1, 3, 64, 64)}, {}, path, {"output": {}})
    return model, path


def test_the_features_are_those_of_the_file(drawn: tuple[Yolox, Path]) -> None:
    """YOLOX's first layer becomes one convolution on normalised RGB, to its very borders."""
    model, path = drawn
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    found = yolox_features(path, 64, mean, std)
    assert not any(p.requires_grad for p in found.parameters())
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = (rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        features, rows = found(pixels), model(255 * rgb[:, [2, 1, 0]])
        maps = model.backbone(255 * rgb[:, [2, 1, 0]])
    assert features.shape == (2, YoloxFeatures.width)
    scores = rows[..., 4:5] * rows[..., 5:]  # [n, cells, classes]
    torch.testing.assert_close(features[:, :CLASSES], scores.amax(dim=1).sqrt())
    count = torch.sigmoid((scores - 0.3) / 0.05).sum(dim=1)
    torch.testing.assert_close(features[:, CLASSES : 2 * CLASSES], torch.log1p(count / 10))
    torch.testing.assert_close(
        features[:, 2 * CLASSES : 3 * CLASSES], scores.topk(8, dim=1).values.sum(dim=1).sqrt()
    )
    maxima = torch.cat([x.amax(dim=(2, 3)) for x in maps], dim=1)
    torch.testing.assert_close(features[:, 3 * CLASSES :], maxima, rtol=1e-3, atol=1e-4)


def test_other_files_are_named(drawn: tuple[Yolox, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing.onnx cannot be read as ONNX"):
        yolox_features(tmp_path / "missing.onnx")
    model = onnx.load(str(drawn[1]))
    del model.graph.node[next(i for i, n in enumerate(model.graph.node) if n.op_type == "Conv")]
    onnx.save(model, str(tmp_path / "less.onnx"))
    with pytest.raises(ModelError, match=r"less\.onnx is no YOLOX-Nano: Missing key"):
        yolox_features(tmp_path / "less.onnx")
    for node in model.graph.node:  # as other exporters name nodes
        node.name = f"Conv_{node.output[0]}"
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match=r"other\.onnx is no YOLOX-Nano: Missing key.*take yolox_nano\.onnx"):
        yolox_features(tmp_path / "other.onnx")


def test_the_real_file_says_the_same(tmp_path: Path) -> None:
    """The class scores and inner maps of YOLOX-Nano's own graph, on photos, at its own size."""
    path = shared_data("yolox-nano/yolox_nano.onnx")
    photos = shared_data("coco-dev/photos.tar")
    from cliplet.data.images import load_rgb, resize_rgb
    from cliplet.data.photos import PhotoStore

    store = PhotoStore([photos])
    images = [load_rgb(store.get(name)) for name in sorted(store.names())[:4]]
    rgb = np.stack([np.asarray(resize_rgb(i, 224, "squash", "bicubic")) for i in images]).transpose(
        0, 3, 1, 2
    )
    pixels = torch.from_numpy(rgb.astype(np.float32)) / 127.5 - 1
    with torch.no_grad():
        found = yolox_features(path, 416)(pixels).numpy()
    model = onnx.load(str(path))
    layer = "/backbone/C3_n4/conv3/act/Mul_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(layer, onnx.TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString(), name="yolox")
    levels = F.interpolate((pixels + 1) * 127.5, size=(416, 416), mode="bilinear", align_corners=False)
    for row, photo in zip(found, levels.numpy(), strict=True):
        boxes, maps = session.run(None, {"images": np.ascontiguousarray(photo[None, ::-1])})
        scores = boxes[0][:, 4:5] * boxes[0][:, 5:]
        np.testing.assert_allclose(row[:CLASSES], np.sqrt(scores.max(axis=0)), atol=1e-4)
        np.testing.assert_allclose(
            row[2 * CLASSES : 3 * CLASSES], np.sqrt(np.sort(scores, axis=0)[-8:].sum(axis=0)), atol=1e-4
        )
        at = 3 * CLASSES + 64 + 128
        np.testing.assert_allclose(row[at : at + 256], maps[0].max(axis=(1, 2)), atol=1e-3)
