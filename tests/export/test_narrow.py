"""Weights of integer products: so small that no sum of two saturates, and rounded well nevertheless."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cliplet.data.photos import PhotoTar
from cliplet.encoders.floats import in_floats
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.export import export
from cliplet.export.graph import trace, write
from cliplet.export.inputs import compared_captions
from cliplet.export.narrow import narrow_weights
from cliplet.export.rounding import MULTIPLIED, quantise, round_together
from cliplet.models.config import DualConfig, TimmConfig
from tests.encoders.test_saturation import vpmaddubsw
from tests.shared_data import shared_data
from tests.training import make


def test_weights_rounded_together_err_less_on_correlated_inputs():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 500, 4)) @ rng.normal(size=(2, 4, 12)) + 0.1 * rng.normal(size=(2, 500, 12))
    weights = rng.normal(size=(2, 5, 12)).astype(np.float32)
    nearest, scales = zip(*(quantise(w, 0, MULTIPLIED) for w in weights), strict=True)
    scale = np.stack(scales)[:, :, 0]
    products = inputs.transpose(0, 2, 1) @ inputs / 500
    together = round_together(weights, scale, products)
    assert np.abs(together).max() <= MULTIPLIED
    errors = [
        np.mean((inputs @ (weights - q * scale[:, :, None]).transpose(0, 2, 1)) ** 2)
        for q in (np.stack(nearest), together)
    ]
    assert errors[1] < 0.5 * errors[0]
    silent = products.copy()
    silent[:, 3] = silent[:, :, 3] = 0  # an input that is always 0
    assert np.abs(round_together(weights, scale, silent)).max() <= MULTIPLIED


class Net(nn.Module):
    """Convolutions of several kinds, with the tail that a classifier's knowledge makes behind the pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 5, padding=4, groups=16, dilation=2), nn.ReLU6(),
            nn.Conv2d(16, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 3, 2, groups=4, bias=False),
        )  # fmt: skip
        self.classes = nn.Linear(32, 1000)
        self.names = nn.Parameter(torch.randn(1000, 8))
        self.head = nn.Linear(40, 16)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.body((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        named = torch.softmax(20 * self.classes(x) + 1, dim=-1) @ self.names
        return nn.functional.normalize(self.head(torch.cat([x, named], dim=1)), dim=-1)


def pixels(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (count, 8, 8, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> tuple[Net, Path]:
    """A network, and its graph in 8 bits."""
    path = tmp_path_factory.mktemp("net") / "image.onnx"
    model = Net().eval()
    examples = [{"pixels": pixels(seed, 4)} for seed in range(1, 5)]
    write(model, {"pixels": torch.from_numpy(pixels(0, 2))}, {"pixels": {0: "n"}}, path, "int8", examples)
    return model, path


def test_what_follows_the_pooling_stays_in_floats(net):
    model, path = net
    graph = onnx.load(path).graph
    maker = {output: node for node in graph.node for output in node.output}
    products = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    integers = [n for n in products if maker[n.input[0]].op_type == "DequantizeLinear"]
    assert [n.op_type for n in products] == ["Conv"] * 4 + ["Gemm", "MatMul", "Gemm"]
    assert integers == products[:4]
    quantised = [maker[n.input[0]].op_type for n in graph.node if n.op_type == "QuantizeLinear"]
    assert not {"Softmax", "Add", "Mul", "Concat", "Gemm", "MatMul"}.intersection(quantised[1:])
    stored = {tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert {(1000, 32), (1000, 8)} <= stored
    inputs = pixels(9, 16)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": inputs})
    with torch.no_grad():
        expected = model(torch.from_numpy(inputs)).numpy()
    assert (found * expected).sum(axis=1).min() > 0.99


def test_the_sums_of_a_transformer_stay_in_floats(tmp_path):
    photos = [make.drawing(colour, shape, 1) for colour in make.COLOURS for shape in make.SHAPES]
    report = export(make.encoder(), tmp_path / "out", photos=photos, calibration=photos)
    graph = onnx.load(tmp_path / "out" / "image.onnx").graph
    maker = {output: node for node in graph.node for output in node.output}
    quantised = [maker[n.input[0]].op_type for n in graph.node if n.op_type == "QuantizeLinear"]
    assert quantised == ["BatchNormalization", "Conv"], "the patches alone"
    assert report.image_min_cosine > 0.999


def test_no_pixel_lies_between_two_steps(net):
    graph = onnx.load(net[1]).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear")
    steps = (np.arange(256) - 127.5) / 127.5 / stored[first.input[1]] + stored[first.input[2]]
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-3
    assert (steps > -0.5).all()
    assert (steps < 255.5).all(), "black and white are in range"


def test_no_sum_of_two_products_saturates_whatever_the_activations(net):
    assert len(worst_sums(onnx.load(net[1]).graph)) == 4


def worst_sums(graph) -> list[str]:
    """The integer products, after their largest sums of two products were recomputed as processors do it."""
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    checked = []
    for node in graph.node:
        widened = maker.get(node.input[1]) if node.op_type in ("Conv", "MatMul") else None
        if widened is None or widened.op_type != "DequantizeLinear" or widened.input[0] not in stored:
            continue
        weight = stored[widened.input[0]]
        rows = weight.T if node.op_type == "MatMul" else weight.reshape(len(weight), -1)  # [outputs, inputs]
        rows = np.pad(np.sort(rows, axis=1), ((0, 0), (0, rows.shape[1] % 2)))
        for ordered in (rows, rows[:, ::-1]):  # the largest, and the least, beside each other
            for activations in (np.where(ordered > 0, 255, 0), np.where(ordered < 0, 255, 0)):
                wide = activations * ordered.astype(np.int64)
                assert (vpmaddubsw(activations, ordered) == wide[:, 0::2] + wide[:, 1::2]).all(), node.output
        checked.append(node.output[0])
    return checked


def test_a_bias_makes_good_the_mean_error_and_is_no_other_convolutions(tmp_path):
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    second.bias = first.bias  # stored once

    path = tmp_path / "net.onnx"
    examples = [
        {"x": np.random.default_rng(i).gamma(1, size=(4, 3, 9, 9)).astype(np.float32)} for i in (0, 1)
    ]
    trace(
        nn.Sequential(first, nn.ReLU(), second).eval(), {"x": torch.zeros(2, 3, 9, 9)}, {"x": {0: "n"}}, path
    )
    exact = onnxruntime.InferenceSession(path)
    model = onnx.load(path)
    scales = narrow_weights(model, "Conv", examples)
    narrow = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {"x": np.concatenate([e["x"] for e in examples])}
    (wanted,), (found,) = exact.run(None, inputs), narrow.run(None, inputs)
    assert 1e-4 < np.abs(found - wanted).max() < 0.05
    assert np.abs((found - wanted).mean(axis=(0, 2, 3))).max() < 1e-5
    assert len(scales) == 2
    biases = [t for t in model.graph.initializer if list(t.dims) == [8]]
    assert len(biases) == 2, "the old one is gone"


def test_a_graph_that_cannot_be_run_node_by_node_is_rounded_alone():
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])], "branch", [], [onnx.ValueInfoProto(name="same")]
    )
    nodes = [
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["chosen", "w"], ["y"]),
    ]
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(True), "yes")]
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, ["n", 4])], [value("y", TensorProto.FLOAT, ["n", 4])]
    model = helper.make_model(helper.make_graph(nodes, "test", *ends, stored))
    scales = narrow_weights(model, "MatMul", [{"x": np.ones((2, 4), np.float32)}])
    integers, expected = quantise(weight, 1, MULTIPLIED)
    np.testing.assert_array_equal([s["scale"] for s in scales["w"]], expected.ravel())
    np.testing.assert_allclose(numpy_helper.to_array(model.graph.initializer[0]), integers * expected)


def floats(path: Path) -> onnxruntime.InferenceSession:
    """The same graph with products of floats. ONNX Runtime would make integers of its weights again."""
    model = onnx.load(path)
    in_floats(model)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_integers_give_what_floats_give(tmp_path, torchvision):
    """Plain ONNX Runtime on the written graphs beside the same graphs with products of floats, on real inputs."""
    pytest.importorskip("timm")
    tar = PhotoTar(shared_data("flickr8k/images_dev.tar"))
    photos = [tar.get(name).read_bytes() for name in tar.names()[:32]]
    captions = compared_captions(shared_data("flickr8k/Flickr8k.token.txt"), 128)
    config = DualConfig(
        image=TimmConfig(name="tf_efficientnet_lite0", embedding_dim=16, image_size=32),
        text=dataclasses.replace(make.CONFIG.text, width=64, activation="relu"),
    )
    source = make.encoder(config)
    export(source, tmp_path / "out", calibration=photos[:16], calibration_captions=captions)
    encoder = OnnxEncoder(tmp_path / "out")
    tokens = encoder.tokenize(captions)[0]
    feeds = {
        "image.onnx": [{"pixels": encoder.prepare_image(photo)[None]} for photo in photos],
        "text.onnx": [{"input_ids": np.array([t]), "attention_mask": np.ones((1, len(t)), np.int64)} for t in tokens],
    }  # fmt: skip
    for name, inputs in feeds.items():
        path = tmp_path / "out" / name
        assert len(worst_sums(onnx.load(path).graph)) >= 12
        plain, right = onnxruntime.InferenceSession(path), floats(path)
        found, expected = (np.concatenate([s.run(None, i)[0] for i in inputs]) for s in (plain, right))
        assert (found * expected).sum(axis=1).min() > 1 - 1e-3, name
