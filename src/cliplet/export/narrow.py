"""The weights of integer products on a grid of 7 bits, fitted to what the products really read."""

from collections import Counter
from collections.abc import Sequence, Set
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.sessions import open_session
from cliplet.export.rounding import MULTIPLIED, quantise, round_together

Arrays = dict[str, NDArray[Any]]

POSITIONS = 8192
"""Largest number of places of feature maps, or of tokens, that a weight is fitted to."""
ROWS = {"Conv": 64, "MatMul": 512}
"""Largest number of photos and of captions: feature maps of 64 photos are about a gigabyte."""
_CHANNELS = {"Conv": 0, "MatMul": 1}
"""Axis of a weight's output channels."""
_NO_ARRAYS = ("If", "Loop", "Scan")
"""Operations that cannot be run alone."""


def narrow_weights(
    model: Any,
    operation: Literal["Conv", "MatMul"],
    examples: Sequence[Arrays],
    left: Set[str] = frozenset(),
) -> dict[str, list[dict[str, Any]]]:
    """Move the weights of all operations of a kind onto 7-bit integers, so that no sum of two products saturates.

    The graph is run node by node on the examples, once as it was and once with the new weights. Each weight is rounded
    for the inputs that it then has, and a convolution's bias makes good the mean of what is left.

    Args:
        model: a graph with fp32 weights; changed in place, still in fp32.
        operation: whose second input, where it is stored in the graph, is meant.
        examples: batches of real inputs by name, all of one shape but for the first axis; without any, weights
            become the nearest integers.
        left: names of nodes whose weights stay.

    Returns:
        The scales of each weight's channels, as ``TensorQuantOverrides`` of ONNX Runtime's quantisation.
    """
    fitted = _Fitted(model, operation, left)
    nodes = model.graph.node
    if not examples or any(node.op_type in _NO_ARRAYS for node in nodes):
        fitted.round_alone(nodes)
    else:
        rows = len(next(iter(examples[0].values())))
        some = examples[:: -(-len(examples) * rows // ROWS[operation])]  # from all parts alike
        fitted.round_on(nodes, {name: np.concatenate([e[name] for e in some]) for name in examples[0]})
    return fitted.write()


class _Fitted:
    """New weights and biases of a graph."""

    def __init__(self, model: Any, operation: str, left: Set[str]) -> None:
        import onnx

        self.left = left
        self.onnx = onnx
        self.model, self.operation, self.axis = model, operation, _CHANNELS[operation]
        self.stored: Arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        self.scales: Arrays = {}
        self.new: Arrays = {}
        self.rng = np.random.default_rng(0)

    def round_alone(self, nodes: Sequence[Any]) -> None:
        """Round to the nearest integers, without looking at inputs."""
        for node in nodes:
            if self._is_meant(node):
                self._round(node, None)

    def round_on(self, nodes: Sequence[Any], inputs: Arrays) -> None:
        """Round for these inputs."""
        exact, quick = (
            {**self.stored, **inputs},
            {**self.stored, **inputs},
        )  # with the old and with the new weights
        to_come = Counter(name for node in nodes for name in node.input)
        for node in nodes:
            outputs = self._run(node, exact)
            if self._is_meant(node):
                self._round(node, quick[node.input[0]])
                quick[node.input[1]] = self.new[node.input[1]]
                self._correct_bias(node, outputs[0], quick)
            same = all(quick[name] is exact[name] for name in node.input if name)
            again = outputs if same else self._run(node, quick)
            names = [name for name in node.output if name]
            exact.update(zip(names, outputs, strict=True))
            quick.update(zip(names, again, strict=True))
            to_come.subtract(node.input)
            for name in set(node.input) - self.stored.keys():
                if name and not to_come[name]:
                    del exact[name], quick[name]

    def write(self) -> dict[str, list[dict[str, Any]]]:
        """Put the new values into the graph."""
        graph = self.model.graph
        for tensor in graph.initializer:
            if tensor.name in self.new:
                values = np.ascontiguousarray(self.new.pop(tensor.name))
                tensor.CopyFrom(self.onnx.numpy_helper.from_array(values, tensor.name))
        graph.initializer.extend(self.onnx.numpy_helper.from_array(v, name) for name, v in self.new.items())
        used = {name for node in graph.node for name in node.input}
        for tensor in [t for t in graph.initializer if t.name not in used]:  # biases that others replaced
            graph.initializer.remove(tensor)
        zero = np.int8(0)
        return {
            name: [{"axis": self.axis, "scale": scale, "zero_point": zero} for scale in scales.ravel()]
            for name, scales in self.scales.items()
        }

    def _is_meant(self, node: Any) -> bool:
        return node.op_type == self.operation and node.input[1] in self.stored and node.name not in self.left

    def _round(self, node: Any, read: NDArray[Any] | None) -> None:
        """Find a weight's integers; one that several nodes share is fitted to the first."""
        name = node.input[1]
        if name in self.scales:
            return
        weight = self.stored[name]
        integers, scales = quantise(weight, self.axis, MULTIPLIED)
        if read is not None and self.operation == "MatMul" and weight.ndim == 2:
            rows = read.reshape(-1, read.shape[-1])  # [n, in]
            products = _mean_products(self._some(rows)[:, None], centred=False)
            integers = round_together(weight.T[None], scales.reshape(1, -1), products)[0].T
        elif read is not None and weight.ndim == 4:
            groups = _attribute(node, "group", 1)
            shape = (groups, len(weight) // groups, -1)
            windows = self._windows(node, read, weight.shape[2:]).reshape(
                -1, groups, int(np.prod(weight.shape[1:]))
            )
            products = _mean_products(windows, centred=len(node.input) > 2)
            grouped = round_together(weight.reshape(shape), scales.reshape(shape[:2]), products)
            integers = grouped.reshape(weight.shape)
        self.scales[name], self.new[name] = scales, integers * scales

    def _windows(self, node: Any, maps: NDArray[Any], kernel: Sequence[int]) -> NDArray[Any]:
        """What a convolution reads at some of its places: ``[places, channels, kernel places]``."""
        top, left, bottom, right = _attribute(node, "pads", [0, 0, 0, 0])
        strides, dilations = _attribute(node, "strides", [1, 1]), _attribute(node, "dilations", [1, 1])
        padded = np.pad(maps, ((0, 0), (0, 0), (top, bottom), (left, right)))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
        views = views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
        n, channels, height, width = views.shape[:4]
        chosen = self._some(np.arange(n * height * width))
        i, y, x = np.unravel_index(chosen, (n, height, width))
        return views[i, :, y, x].reshape(len(chosen), channels, -1)

    def _some(self, rows: NDArray[Any]) -> NDArray[Any]:
        """At most :data:`POSITIONS` of the rows."""
        if len(rows) <= POSITIONS:
            return rows
        return rows[np.sort(self.rng.choice(len(rows), POSITIONS, replace=False))]

    def _correct_bias(self, node: Any, wanted: NDArray[Any], values: Arrays) -> None:
        """Move a convolution's bias by the mean difference of its results."""
        if self.operation != "Conv" or len(node.input) < 3 or node.input[2] not in self.stored:
            return
        found = self._run(node, values)[0]
        places = tuple(i for i in range(wanted.ndim) if i != 1)
        shift = wanted.mean(axis=places, dtype=np.float64) - found.mean(axis=places, dtype=np.float64)
        name = f"{node.output[0]}_bias"  # the old one may be another convolution's too
        bias = (self.stored[node.input[2]] + shift).astype(np.float32)
        node.input[2] = name
        self.new[name] = self.stored[name] = values[name] = bias

    def _run(self, node: Any, values: Arrays) -> list[NDArray[Any]]:
        """A node's outputs."""
        helper = self.onnx.helper
        names = list(dict.fromkeys(name for name in node.input if name))
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
            for name in names
        ]
        outputs = [self.onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", inputs, outputs)
        alone = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        session = open_session(alone.SerializeToString(), threads=1, name=f"{node.op_type} {node.name}")
        return [np.asarray(v) for v in session.run(None, {name: values[name] for name in names})]


def _mean_products(rows: NDArray[Any], centred: bool) -> NDArray[np.float64]:
    """Mean products of any two inputs, of ``[n, groups, inputs]``: ``[groups, inputs, inputs]``.

    Args:
        rows: what is read.
        centred: take the inputs' means off first, where a bias makes good the mean error.
    """
    grouped = rows.astype(np.float32).transpose(1, 0, 2)  # [g, n, i]
    if centred:
        grouped = grouped - grouped.mean(axis=1, keepdims=True)
    return (grouped.transpose(0, 2, 1) @ grouped).astype(np.float64) / grouped.shape[1]


def _attribute(node: Any, name: str, default: Any) -> Any:
    """Numbers of a node's attribute."""
    for attribute in node.attribute:
        if attribute.name == name:
            return list(attribute.ints) or attribute.i
    return default
