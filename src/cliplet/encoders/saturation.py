"""Whether a graph's products of 8-bit integers are exact on every processor, proved from its stored weights.

x86 processors without VNNI add two products of an unsigned activation and a signed weight in 16 bits with a sign
(``VPMADDUBSW``) and cut off what does not fit. Which two a program puts beside each other is its own affair, so the two
largest weights of an output channel count, and activations of 255.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import MissingExtraError, ModelError

LARGEST_ACTIVATION = 255
LARGEST_SUM = 32767
"""Of two products in 16 bits."""

_SECOND = {
    "QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QGemm": 3,
}  # fmt: skip
"""Operations on integers and which of their inputs is the weight."""
_WIDENED = ("Conv", "MatMul", "Gemm")
"""Operations that compute in integers when both inputs come from ``DequantizeLinear``."""


@dataclass(frozen=True)
class IntegerProducts:
    """The products of 8-bit integers in a graph or a model folder."""

    count: int
    """How many there are."""
    may_saturate: tuple[str, ...]
    """Those whose sums of two products may leave 16 bits, by operation and result."""

    def __add__(self, other: "IntegerProducts") -> "IntegerProducts":
        return IntegerProducts(self.count + other.count, self.may_saturate + other.may_saturate)

    def __str__(self) -> str:
        if not self.count:
            return "none"
        if not self.may_saturate:
            return f"cannot saturate ({self.count} products)"
        return f"may saturate in 16 bits on processors without VNNI: {len(self.may_saturate)} of {self.count} products"


def integer_products(source: str | Path | Any) -> IntegerProducts:
    """Look at the integer products of a model folder, an ONNX file or a loaded ONNX model.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: a file cannot be read.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("reading ONNX graphs", "train") from error
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return integer_products(path / "image.onnx") + integer_products(path / "text.onnx")
        try:
            source = onnx.load(str(path))
        except Exception as error:  # protobuf raises its own unrelated classes
            raise ModelError(f"{path} cannot be read: {error}") from error
    return _in_graph(source.graph)


def _in_graph(graph: Any) -> IntegerProducts:
    from onnx import numpy_helper

    stored = {t.name: t for t in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    found = []
    for node in graph.node:
        name = _integer_weight(node, maker)
        if name is not None:
            weight = numpy_helper.to_array(stored[name]) if name in stored else None
            found.append((node, weight is None or not _fits(weight, _channel_axis(node, weight.ndim))))
    unsafe = tuple(f"{node.op_type} {node.output[0]}" for node, doubtful in found if doubtful)
    return IntegerProducts(len(found), unsafe)


def _integer_weight(node: Any, maker: dict[str, Any]) -> str | None:
    """The second factor of a product of integers; None for a node that is none."""
    if node.op_type in _SECOND:
        return str(node.input[_SECOND[node.op_type]])
    if node.op_type not in _WIDENED:
        return None
    made = [maker.get(name) for name in node.input[:2]]
    if any(n is None or n.op_type != "DequantizeLinear" for n in made):
        return None
    return str(made[1].input[0])  # type: ignore[union-attr]


def _channel_axis(node: Any, axes: int) -> int:
    """Axis of a weight's output channels."""
    if "Conv" in node.op_type:
        return 0
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if turned else axes - 1


def _fits(weight: NDArray[Any], axis: int) -> bool:
    """Whether the two largest weights of every channel, each times 255, fit into 16 bits together."""
    rows = np.abs(np.moveaxis(weight.astype(np.int64), axis, 0).reshape(weight.shape[axis], -1))
    largest = np.sort(rows, axis=1)[:, -2:].sum(axis=1)
    return bool((LARGEST_ACTIVATION * largest <= LARGEST_SUM).all())
