"""A transformer's products with weights in 8-bit integers, where each token has a scale of its own.

Static ranges of activations, which suit convolutions, do not suit transformers: some channels are fifty times as large
as others, and some tokens too. Here a channel's size moves into the weights (SmoothQuant, Xiao et al. 2023,
arXiv:2211.10438), what a norm gives is moved so that each channel's range has its middle at 0 (Outlier Suppression+,
Wei et al. 2023, arXiv:2304.09145), and a token is divided by its largest value before it is rounded. So nothing large
is clipped, whatever the photo or caption, and a row does not depend on its batch. Weights have 7 bits and are rounded
together (GPTQ). Attention, norms and activations stay in fp32. The operations are standard ones, of which ONNX Runtime
makes ``MatMulIntegerToFloat`` when it loads the file.

For more exact results a product can be the sum of several: with weights in two parts of 7 bits each, and with
activations in two parts of 8 bits too.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.sessions import open_session
from cliplet.export.rounding import MULTIPLIED, quantise, round_in_parts, round_matrix
from cliplet.export.smoothing import TRIED, choose_smoothing, move_into_norms

Arrays = dict[str, NDArray[Any]]
Told = Callable[[int, int], None]
"""Called with the number of products done and of all."""

ROWS = 8192
"""Largest number of tokens, of all examples together and without padding, that weights are fitted to."""
LEAST = 32
"""A weight with fewer inputs or outputs stays in fp32."""
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

    integers: list[str]
    """What brings them back to fp32, divided by the row's scale: one part, or the second part too."""
    scale: str
    """``[..., 1]``."""
    smooth: NDArray[np.float32]
    """Each channel was divided by this ``[inputs]``."""
    shift: NDArray[np.float32]
    """What was added before: a number, or ``[inputs]``."""
    values: NDArray[np.float32]
    """The integers brought back, times the row's scale, of the examples without padding: ``[rows, inputs]``."""


def is_transformer(model: Any) -> bool:
    """Whether most weights of a graph belong to products of matrices beside attention (a softmax)."""
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        kind = "MatMul" if node.op_type == "Gemm" else node.op_type
        found[kind] += sizes.get(node.input[1], 0) if len(node.input) > 1 else 1
    return found["MatMul"] > found["Conv"] and found["Softmax"] > 0


def tokens_in_integers(
    model: Any, examples: Sequence[Arrays], told: Told | None = None, parts: int = 1
) -> None:
    """Rewrite a graph in place so that its products with weights compute in 8-bit integers, one scale a token.

    The graph is run node by node on the examples, each product already in its new form, so that weights are fitted to
    what they will read. A product that reads one row a photo or caption, such as the last projection, stays in fp32.

    Args:
        model: a graph with fp32 weights.
        examples: batches of real inputs by name, all of one shape but for the first axis; at least one. What
            ``attention_mask`` calls padding is not fitted to.
        told: is told how far it is.
        parts: products of integers that stand for one product: 1; 2, with each weight in two parts; or 3, with each
            activation in two parts besides.
    """
    _Rewriter(model, told or (lambda done, of: None), parts).run(_joined(examples))
    move_into_norms(model)


def _joined(examples: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([e[name] for e in examples]) for name in examples[0]}


@dataclass
class _Rewriter:
    model: Any
    told: Told
    parts: int = 1
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
        self.normed = {
            node.output[0] for node in self.model.graph.node if node.op_type == "LayerNormalization"
        }
        self.mask: NDArray[Any] | None = None

    def run(self, inputs: Arrays) -> None:
        """Run and rewrite node after node, and put the new graph in the old one's place."""
        graph = self.model.graph
        inputs = self._thinned(inputs)
        self.mask = inputs.get("attention_mask")
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
                    for gone in (name, name + ".back", name + ".rest", name + ".scale"):
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
        count = len(next(iter(inputs.values())))
        for node in self.model.graph.node:
            product = self.products.get(node.output[0])
            if product is not None and values[node.input[0]].size > len(product.weight):
                tokens = count * values[node.input[0]].size // len(product.weight)
                mask = inputs.get("attention_mask")
                if mask is not None and mask.shape[1:] == values[node.input[0]].shape[1:2]:
                    tokens = int(mask.sum())
                return {name: value[:: max(1, -(-tokens // ROWS))] for name, value in inputs.items()}
            self._run([node], values)
        return inputs

    def _tokens(self, value: NDArray[Any]) -> NDArray[Any]:
        """An activation's rows but for padding, ``[rows, inputs]``."""
        rows = value.reshape(-1, value.shape[-1])
        if self.mask is None or value.shape[:-1] != self.mask.shape:
            return rows
        return rows[self.mask.reshape(-1) > 0]

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
        mean = rows.values.mean(axis=0)
        if self.parts > 1:
            parts = round_in_parts(weight)
        else:
            _, scales = quantise(weight, 1, MULTIPLIED)
            centred = rows.values - mean
            moments = (centred.T @ centred) / len(centred)
            parts = [(round_matrix(weight, scales[0], moments), scales[0])]
        # The mean error is made good, and what the shift adds goes.
        bias = 0 if product.bias is None else product.bias
        bias = bias - mean @ (sum(integers * steps for integers, steps in parts) - weight)
        bias = bias - np.broadcast_to(rows.shift, mean.shape) @ product.weight
        out = product.node.output[0]
        self.new[out + ".bias"] = bias.astype(np.float32)
        nodes = self._sum_of_products(out, parts, rows)
        nodes.append(self._node("Mul", [nodes[-1].output[0], rows.scale], out + ".scaled"))
        nodes.append(self._node("Add", [out + ".scaled", out + ".bias"], product.output))
        self.nodes += nodes
        self._run(nodes, values, [product.output])

    def _sum_of_products(
        self, out: str, parts: Sequence[tuple[NDArray[np.int8], NDArray[np.float32]]], rows: _Rows
    ) -> list[Any]:
        """Nodes that multiply an activation's integers with a weight's; of two second parts the product is too small.

        Args:
            out: begins the names.
            parts: integers ``[inputs, outputs]`` and steps ``[outputs]`` whose sum is the weight.
            rows: the activation.
        """
        nodes, weights = [], []
        for i, (integers, steps) in enumerate(parts):
            name = f"{out}.weight{i}"
            stored: Arrays = {".int8": integers, ".steps": steps, ".zeros": np.zeros(len(steps), np.int8)}
            self.new |= {name + ending: value for ending, value in stored.items()}
            nodes.append(self._node("DequantizeLinear", [name + ending for ending in stored], name, axis=1))
            weights.append(name)
        first, *others = rows.integers
        pairs = [[first, weight] for weight in weights] + [[other, weights[0]] for other in others]
        for i, pair in enumerate(pairs):
            before = nodes[-1].output[0]
            nodes.append(self._node("MatMul", pair, f"{out}.product{i}"))
            if i:
                nodes.append(self._node("Add", [before, f"{out}.product{i}"], f"{out}.sum{i}"))
        return nodes

    def _rounded(self, name: str, values: Arrays) -> _Rows:
        """Round an activation, for all products that read it."""
        read = self._tokens(values[name])
        shift, one_sided = _shift(read, name in self.normed)
        moved = read + shift
        weights = [p.weight for p in self.products.values() if p.node.input[0] == name]
        smooth = choose_smoothing(
            np.abs(moved).max(axis=0),
            moved[:: -(-len(read) // TRIED)],
            np.concatenate(weights, axis=1),
            one_sided,
        )
        integers = [name + ".back", name + ".rest"][: 2 if self.parts > 2 else 1]
        nodes = self._quantisation(name, smooth, shift, one_sided)
        self.nodes += nodes
        self._run(nodes, values, [*integers, name + ".scale"])
        found = np.sum([self._tokens(values[part]) for part in integers], axis=0)
        return _Rows(integers, name + ".scale", smooth, shift, found * self._tokens(values[name + ".scale"]))

    def _quantisation(
        self, name: str, smooth: NDArray[Any], shift: NDArray[Any], one_sided: bool
    ) -> list[Any]:
        """Nodes from an activation to its integers brought back: shift, smooth, divide by the row's largest, round."""
        nodes, now = [], name
        if shift.any():
            self.new[name + ".shift"] = shift
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
        nodes += [
            self._node("ReduceMax", [size], name + ".largest", axes=[-1], keepdims=1),
            self._node("Max", [name + ".largest", name + ".least"], name + ".scale"),
            self._node("Div", [now, name + ".scale"], name + ".unit"),
            *self._step(name + ".unit", name + ".back", 1 / steps, zero),
        ]
        if self.parts > 2:
            nodes.append(self._node("Sub", [name + ".unit", name + ".back"], name + ".left"))
            nodes += self._step(name + ".left", name + ".rest", 1 / steps / 254, 128)
        return nodes

    def _step(self, name: str, output: str, step: float, zero: int) -> list[Any]:
        """Nodes that round to uint8 and bring back."""
        self.new[output + ".step"] = np.array(step, np.float32)
        self.new[output + ".zero"] = np.array(zero, np.uint8)
        grid = [output + ".step", output + ".zero"]
        return [
            self._node("QuantizeLinear", [name, *grid], output + ".uint8"),
            self._node("DequantizeLinear", [output + ".uint8", *grid], output),
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


def _shift(read: NDArray[Any], normed: bool) -> tuple[NDArray[np.float32], bool]:
    """What is added to an activation ``[rows, inputs]`` before it is rounded, and whether it is then positive.

    Args:
        read: of the examples.
        normed: a norm made it; then its channels move, in the norm itself where nothing else reads it.
    """
    low, high = float(read.min()), float(np.abs(read).max())
    if low >= 0:
        return np.zeros((), np.float32), True
    if low > FLOOR and -low < ONE_SIDED * high:
        return np.array(-low, np.float32), True
    if normed:
        return (-(read.max(axis=0) + read.min(axis=0)) / 2).astype(np.float16).astype(np.float32), False
    return np.zeros((), np.float32), False
