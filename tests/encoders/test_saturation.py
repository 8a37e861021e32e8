"""Which integer products may leave 16 bits: told from the stored weights, and right about what a processor does."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cliplet.encoders.saturation import IntegerProducts, integer_products
from cliplet.errors import ModelError


def vpmaddubsw(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Two products added in 16 bits, and cut off there, as x86 processors without VNNI do."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    return np.clip(products[..., 0::2] + products[..., 1::2], -32768, 32767)


def graph(nodes, weight, shape=(1, 4)) -> onnx.ModelProto:
    """Nodes from ``x`` to ``y`` with the weight ``w``, and scales and zero points of every kind."""
    stored = {"w": weight, "one": np.float32(1), "u": np.uint8(0), "s": weight.dtype.type(0)}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
    )


def widened(kind: str, **attributes) -> list[onnx.NodeProto]:
    return [
        helper.make_node("DequantizeLinear", ["x", "one", "u"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "one", "s"], ["wf"]),
        helper.make_node(kind, ["xf", "wf"], ["y"], **attributes),
    ]


def own(kind: str, inputs: list[str], domain: str = "") -> list[onnx.NodeProto]:
    return [helper.make_node(kind, inputs, ["y"], domain=domain)]


KINDS = {
    "MatMul": widened("MatMul"),
    "Gemm": widened("Gemm"),
    "QLinearMatMul": own("QLinearMatMul", ["x", "one", "u", "w", "one", "s", "one", "u"]),
    "MatMulInteger": own("MatMulInteger", ["x", "w"]),
    "MatMulIntegerToFloat": own("MatMulIntegerToFloat", ["x", "w", "one", "one"], "com.microsoft"),
    "DynamicQuantizeMatMul": own("DynamicQuantizeMatMul", ["xf", "w", "one"], "com.microsoft"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("largest", "fits"), [(63, True), (64, True), (65, False), (127, False)])
def test_columns_of_a_matrix(kind, largest, fits):
    weight = np.full((4, 3), 1, dtype=np.int8)
    weight[[0, 3], 1] = -largest  # not beside each other: another order of the sum may bring them together
    found = integer_products(graph(KINDS[kind], weight))
    assert found == IntegerProducts(1, () if fits else (f"{kind} y",))
    sums = vpmaddubsw(np.full(4, 255), weight[[0, 3, 1, 2], 1])
    assert bool(sums[0] == -2 * 255 * largest) is fits


def test_one_large_weight_of_a_channel_does_no_harm():
    weight = np.zeros((4, 3), dtype=np.int8)
    weight[0] = 127  # a row: each column has one
    assert integer_products(graph(KINDS["MatMul"], weight)).may_saturate == ()
    assert integer_products(graph(widened("Gemm", transB=1), weight)).may_saturate == ("Gemm y",)


@pytest.mark.parametrize("kind", ["Conv", "QLinearConv", "ConvInteger"])
def test_kernels_of_a_convolution(kind):
    nodes = {
        "Conv": widened("Conv"),
        "QLinearConv": own("QLinearConv", ["x", "one", "u", "w", "one", "s", "one", "u"]),
        "ConvInteger": own("ConvInteger", ["x", "w"]),
    }[kind]
    weight = np.zeros((5, 2, 3, 3), dtype=np.int8)
    weight[:, 0, 0, 0] = 127
    assert integer_products(graph(nodes, weight, (1, 2, 8, 8))) == IntegerProducts(1, ())
    weight[4, 1, 2, 2] = -127
    assert integer_products(graph(nodes, weight, (1, 2, 8, 8))).may_saturate == (f"{kind} y",)


def test_products_of_floats_do_not_count_and_unknown_weights_do():
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "one", "s"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["y"]),
    ]
    weight = np.full((4, 3), 127, dtype=np.int8)
    assert str(integer_products(graph(nodes, weight))) == "none"
    of_two_activations = own("MatMulInteger", ["x", "x"])
    assert integer_products(graph(of_two_activations, weight)).may_saturate == ("MatMulInteger y",)


def test_a_folder_is_both_towers(tmp_path):
    onnx.save(graph(KINDS["MatMul"], np.full((4, 3), 63, np.int8)), tmp_path / "image.onnx")
    onnx.save(graph(KINDS["MatMul"], np.full((4, 3), 63, np.int8)), tmp_path / "text.onnx")
    assert str(integer_products(tmp_path)) == "cannot saturate (2 products)"
    onnx.save(graph(KINDS["QLinearMatMul"], np.full((4, 3), 127, np.int8)), tmp_path / "text.onnx")
    assert str(integer_products(tmp_path)) == (
        "may saturate in 16 bits on processors without VNNI: 1 of 2 products"
    )
    (tmp_path / "image.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"image\.onnx cannot be read"):
        integer_products(tmp_path)
