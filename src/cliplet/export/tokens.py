"""A transformer's products with weights in 8-bit integers, where each token has a scale of its own.

Static ranges of activations, which suit convolutions, do not suit transformers: some channels are fifty times as large
as others, and some tokens too. Here a channel's size moves into the weights (SmoothQuant, Xiao et al. 2023,
arXiv:2211.10438), and a token is divided by its largest value before it is rounded. So nothing large is clipped,
whatever the photo or caption, and a row does not depend on its batch. Weights have 7 bits and are rounded together
(GPTQ). Attention, norms and activations stay in fp32. The operations are standard ones, of which ONNX Runtime makes
``MatMulIntegerToFloat`` when it loads the file.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.sessions import open_session
from cliplet.export.rounding import MULTIPLIED, STORED, quantise, round_matrix

Arrays = dict[str, NDArray[Any]]
Told = Callable[[int, int], None]
"""Called with the number of products done and of all."""

ROWS = 4096
"""Largest number of tokens, of all examples together, that weights are fitted to."""
LEAST = 32
"""A weight with fewer inputs or outputs stays in fp32."""
ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of a channel's size that may move into the weights; the one of least error is taken."""
TRIED = 1024
"""Tokens, and at most half as many outputs, that the shares are tried on."""
ONE_SIDED = 0.1
"""An activation whose least value is nearer to 0 than this share of its largest, and no lower than :data:`FLOOR`, is
shifted to begin at 0: what is lower would be clipped."""
FLOOR = -0.3
"""Below the least value that GELU (-0.17) and SiLU (-0.28) can have. What lies lower has no least value that examples
tell: a norm's output with one large channel."""


@dataclass
class _Product:
    """A product with a weight, and the bias behind it."""

    node: Any
    weight: NDArray[Any]
    """``[inputs, outputs]``."""
    bias: NDArray[Any] | None
    output: str
    """Name of the result, with the bias added."""
    gone: Any = None
    """The node that added the bias."""


@dataclass
class _Rows:
    """An activation in integers, one scale a row."""

    integers: str
    """What brings them back to fp32, divided by the row's scale."""
    scale: str
    """``[..., 1]``."""
    smooth: NDArray[np.float32]
    """Each channel was divided by this ``[inputs]``."""
    shift: float
    """What was added before."""
    values: NDArray[np.float32]
    """The integers brought back, times the row's scale, of the examples: ``[rows, inputs]``."""


def is_transformer(model: Any) -> bool:
    """Whether most weights of a graph belong to products of matrices beside attention (a softmax)."""
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        kind = "MatMul" if node.op_type == "Gemm" else node.op_type
        found[kind] += sizes.get(node.input[1], 0) if len(node.input) > 1 else 1
    return found["MatMul"] > found["Conv"] and found["Softmax"] > 0


def tokens_in_integers(model: Any, examples: Sequence[Arrays], told: Told | None = None) -> None:
    """Rewrite a graph in place so that its products with weights compute in 8-bit integers, one scale a token.

    The graph is run node by node on the examples, each product already in its new form, so that weights are fitted to
    what they will read. A product that reads one row a photo or caption, such as the last projection, stays in fp32.

    Args:
        model: a graph with fp32 weights.
        examples: batches of real inputs by name, all of one shape but for the first axis; at least one.
        told: is told how far it is.
    """
    _Rewriter(model, told or (lambda done, of: None)).run(_joined(examples))
    _scale_in_norms(model)


def _joined(examples: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([e[name] for e in examples]) for name in examples[0]}


@dataclass
class _Rewriter:
    model: Any
    told: Told
    nodes: list[Any] = field(default_factory=list)
    new: Arrays = field(default_factory=dict)
    rows: dict[str, _Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import onnx

        self.onnx = onnx
        self.stored: Arrays = {t.name: onnx.numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        made = [self._product(node) for node in self.model.graph.node]
        self.products = {p.node.output[0]: p for p in made if p is not None}

    def run(self, inputs: Arrays) -> None:
        """Run and rewrite node after node, and put the new graph in the old one's place."""
        graph = self.model.graph
        inputs = self._thinned(inputs)
        values: Arrays = {**self.stored, **inputs}
        count = len(next(iter(inputs.values())))
        to_come = Counter(name for node in graph.node for name in node.input)
        skipped = set()  # additions of a bias that its product has done
        done = 0
        for node in graph.node:
            product = self.products.get(node.output[0])
            if product is not None:
                done += 1
                self.told(done, len(self.products))
            if id(node) in skipped:
                pass
            elif product is None or values[node.input[0]].size <= count * len(product.weight):
                self.nodes.append(node)
                self._run([node], values)
            else:
                self._rewrite(product, values)
                skipped.add(id(product.gone))
            to_come.subtract(node.input)
            for name in set(node.input) - self.stored.keys():
                if name and not to_come[name]:
                    for gone in (name, name + ".back", name + ".scale"):
                        values.pop(gone, None)
                    self.rows.pop(name, None)
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        kept += [self.onnx.numpy_helper.from_array(value, name) for name, value in self.new.items()]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _thinned(self, inputs: Arrays) -> Arrays:
        """As many of the examples, from all parts alike, as have :data:`ROWS` tokens."""
        values: Arrays = {**self.stored, **{name: value[:1] for name, value in inputs.items()}}
        for node in self.model.graph.node:
            product = self.products.get(node.output[0])
            if product is not None and values[node.input[0]].size > len(product.weight):
                rows = values[node.input[0]].size // len(product.weight)  # of one example
                step = max(1, -(-len(next(iter(inputs.values()))) * rows // ROWS))
                return {name: value[::step] for name, value in inputs.items()}
            self._run([node], values)
        return inputs

    def _product(self, node: Any) -> _Product | None:
        """A node as a product with a stored weight; None for another."""
        if node.op_type not in ("MatMul", "Gemm"):
            return None
        weight = self.stored.get(node.input[1])
        if weight is None or weight.ndim != 2 or min(weight.shape) < LEAST:
            return None
        if node.op_type == "Gemm":
            settings = {a.name: a.f if a.type == 1 else a.i for a in node.attribute}
            bias = self.stored.get(node.input[2]) if len(node.input) > 2 else None
            if settings.pop("transB", 0):
                weight = weight.T
            plain = not settings.pop("transA", 0) and all(v == 1 for v in settings.values())
            plain &= len(node.input) < 3 or (bias is not None and bias.ndim == 1)
            return _Product(node, weight, bias, node.output[0]) if plain else None
        readers = self.readers.get(node.output[0], [])
        if [n.op_type for n in readers] == ["Add"]:
            other = next((name for name in readers[0].input if name != node.output[0]), "")
            bias = self.stored.get(other)
            if bias is not None and bias.shape == weight.shape[1:]:
                return _Product(node, weight, bias, readers[0].output[0], readers[0])
        return _Product(node, weight, None, node.output[0])

    def _rewrite(self, product: _Product, values: Arrays) -> None:
        """A product in integers, and its result on the examples."""
        name = product.node.input[0]
        if name not in self.rows:
            self.rows[name] = self._rounded(name, values)
        rows = self.rows[name]
        weight = product.weight * rows.smooth[:, None]
        _, scales = quantise(weight, 1, MULTIPLIED)
        mean = rows.values.mean(axis=0)
        centred = rows.values - mean
        integers = round_matrix(weight, scales[0], (centred.T @ centred) / len(centred))
        off = mean @ (integers * scales - weight)  # the mean error is made good, and what the shift adds goes
        bias = (0 if product.bias is None else product.bias) - off - rows.shift * product.weight.sum(axis=0)
        out = product.node.output[0]
        self._weight(out, integers, scales[0])
        nodes = [
            self._node(
                "DequantizeLinear", [out + ".int8", out + ".steps", out + ".zeros"], out + ".weight", axis=1
            ),
            self._node("MatMul", [rows.integers, out + ".weight"], out + ".product"),
        ]
        self.new[out + ".bias"] = bias.astype(np.float32)
        nodes.append(self._node("Mul", [out + ".product", rows.scale], out + ".scaled"))
        nodes.append(self._node("Add", [out + ".scaled", out + ".bias"], product.output))
        self.nodes += nodes
        self._run(nodes, values, [product.output])

    def _weight(self, name: str, integers: NDArray[np.int8], steps: NDArray[np.float32]) -> None:
        self.new[name + ".int8"] = integers
        self.new[name + ".steps"] = steps
        self.new[name + ".zeros"] = np.zeros(len(steps), dtype=np.int8)

    def _rounded(self, name: str, values: Arrays) -> _Rows:
        """Round an activation, for all products that read it."""
        read = values[name].reshape(-1, values[name].shape[-1])  # [rows, inputs]
        low, high = float(read.min()), float(np.abs(read).max())
        shift = -low if FLOOR < low < 0 and -low < ONE_SIDED * high else 0.0
        one_sided = low >= 0 or bool(shift)
        some = read[:: -(-len(read) // TRIED)] + np.float32(shift)
        weights = [p.weight for p in self.products.values() if p.node.input[0] == name]
        smooth = _smoothing(
            np.abs(read).max(axis=0) + shift, some, np.concatenate(weights, axis=1), one_sided
        )
        nodes = self._quantisation(name, smooth, shift, one_sided)
        self.nodes += nodes
        self._run(nodes, values, [name + ".back", name + ".scale"])
        found = values[name + ".back"] * values[name + ".scale"]
        return _Rows(name + ".back", name + ".scale", smooth, shift, found.reshape(read.shape))

    def _quantisation(self, name: str, smooth: NDArray[Any], shift: float, one_sided: bool) -> list[Any]:
        """Nodes from an activation to its integers brought back: shift, smooth, divide by the row's largest, round."""
        nodes, now = [], name
        if shift:
            self.new[name + ".shift"] = np.array(shift, np.float32)
            nodes.append(self._node("Add", [now, name + ".shift"], name + ".shifted"))
            now = name + ".shifted"
        if (smooth != 1).any():
            self.new[name + ".smooth"] = 1 / smooth
            nodes.append(self._node("Mul", [now, name + ".smooth"], name + ".smoothed"))
            now = name + ".smoothed"
        if one_sided:
            size, steps, zero = now, 255, 0
        else:
            nodes.append(self._node("Abs", [now], name + ".size"))
            size, steps, zero = name + ".size", 127, 128
        self.new[name + ".least"] = np.array(1e-6, np.float32)
        self.new[name + ".step"] = np.array(1 / steps, np.float32)
        self.new[name + ".zero"] = np.array(zero, np.uint8)
        grid = [name + ".step", name + ".zero"]
        return [
            *nodes,
            self._node("ReduceMax", [size], name + ".largest", axes=[-1], keepdims=1),
            self._node("Max", [name + ".largest", name + ".least"], name + ".scale"),
            self._node("Div", [now, name + ".scale"], name + ".unit"),
            self._node("QuantizeLinear", [name + ".unit", *grid], name + ".uint8"),
            self._node("DequantizeLinear", [name + ".uint8", *grid], name + ".back"),
        ]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return self.onnx.helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes)

    def _run(self, nodes: list[Any], values: Arrays, wanted: Sequence[str] = ()) -> None:
        """Run nodes one after the other and keep the results of these names; of a single node, all."""
        helper = self.onnx.helper
        values.update({name: self.new[name] for node in nodes for name in node.input if name in self.new})
        made = {name for node in nodes for name in node.output}
        names = list(
            dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        )
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
            for name in names
        ]
        wanted = wanted or [name for name in nodes[0].output if name]
        graph = helper.make_graph(
            nodes, "part", inputs, [self.onnx.ValueInfoProto(name=name) for name in wanted]
        )
        alone = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        session = open_session(
            alone.SerializeToString(), threads=1, name=f"{nodes[0].op_type} {nodes[0].name}"
        )
        found = session.run(None, {name: np.asarray(values[name]) for name in names})
        for name in names:
            if name in self.new:
                del values[name]
        values.update(zip(wanted, (np.asarray(value) for value in found), strict=True))


def _smoothing(
    largest: NDArray[Any], rows: NDArray[Any], weight: NDArray[Any], one_sided: bool
) -> NDArray[np.float32]:
    """What each channel is divided by, ``[inputs]``: of several shares of its size that of least error.

    Args:
        largest: each channel's largest value.
        rows: some of the activation, ``[n, inputs]``.
        weight: of all products that read it, ``[inputs, outputs]``.
        one_sided: the activation has no negative values.
    """
    some = weight[:, :: -(-weight.shape[1] // (TRIED // 2))]  # [inputs, outputs]
    exact = rows @ some
    size = np.maximum(largest, 1e-3 * np.median(largest) + 1e-9)
    heavy = np.abs(weight).max(axis=1)
    heavy = np.maximum(heavy, 1e-3 * np.median(heavy) + 1e-9)
    best, least = np.ones(len(size), dtype=np.float32), np.inf
    steps = 255 if one_sided else 127
    for alpha in ALPHAS:
        smooth = size**alpha / heavy ** (1 - alpha) if alpha else np.ones_like(size)
        smooth = smooth / np.exp(np.log(smooth).mean())
        smooth = 1 / np.clip(1 / smooth, 1e-4, 1e4).astype(np.float16).astype(np.float32)  # as it is stored
        unit = rows / smooth
        scale = np.maximum(np.abs(unit).max(axis=1, keepdims=True), 1e-6) / steps
        moved = some * smooth[:, None]
        step = np.abs(moved).max(axis=0) / STORED + 1e-12  # rounded together, 7 bits err like 8
        found = (np.rint(unit / scale) * scale) @ (np.rint(moved / step) * step)
        error = float(((found - exact) ** 2).mean())
        if error < least:
            best, least = smooth.astype(np.float32), error
    return best


def _scale_in_norms(model: Any) -> None:
    """Let a norm that only a smoothing reads smooth by itself."""
    from onnx import numpy_helper

    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    maker = {output: node for node in graph.node for output in node.output}
    gone = []
    for node in graph.node:
        norm = maker.get(node.input[0]) if node.op_type == "Mul" else None
        if norm is None or not node.input[1].endswith(".smooth"):
            continue
        if norm.op_type != "LayerNormalization" or readers[norm.output[0]] != 1 or len(norm.input) < 3:
            continue
        factor = numpy_helper.to_array(tensors[node.input[1]])
        for i in (1, 2):
            name = f"{norm.output[0]}.norm{i}"
            values = numpy_helper.to_array(tensors[norm.input[i]]) * factor
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
            norm.input[i] = name
        norm.output[0] = node.output[0]
        gone.append(node)
    for node in gone:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
