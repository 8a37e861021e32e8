"""Writing a tower as an ONNX graph: trace, merge equal weights, store weights in fewer bits."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import MissingExtraError, ModelError
from cliplet.export.first_convolution import widen_first_convolution
from cliplet.export.integers import Kind, compute_in_integers, is_smooth
from cliplet.export.products import tidy_products
from cliplet.export.rounding import quantise
from cliplet.export.same_padding import drop_unused, fuse_constant_pads
from cliplet.export.tokens import Told, is_transformer, tokens_in_integers

Precision = Literal["fp32", "fp16", "int8"]
"""How weights are stored; the products are computed in fp32 whatever they are."""

Computed = Literal["nothing", "smooth", "convolutions", "products", "tokens"]
"""What computes in 8-bit integers; ``tokens`` are a transformer's products with a scale for each token."""

OPSET = 17
SMALL = 1024
"""Tensors with fewer elements stay as they are."""


def import_onnx() -> Any:
    """The onnx package; raises MissingExtraError without it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("export to ONNX", "train") from error
    return onnx


EMBEDDING = {"embedding": {0: "n"}}
"""The output of an encoder's tower, ``[n, d]``."""


def trace(
    module: Any,
    inputs: dict[str, Any],
    dynamic: dict[str, dict[int, str]],
    path: Path,
    outputs: dict[str, dict[int, str]] = EMBEDDING,
) -> None:
    """Write ``module(*inputs)`` as a graph.

    Args:
        module: a torch module in evaluation mode.
        inputs: example tensors by input name, in the order of the module's arguments.
        dynamic: which axes of which input vary, and their names.
        path: the file to write.
        outputs: names of the outputs, in order, and which of their axes vary.

    Raises:
        ModelError: the tower uses something that ONNX does not have.
    """
    import torch

    import_onnx()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # The exporter on torch.export needs another package; the older one says that it will go, and the tracer
        # says that Python values become constants, which the parity report checks.
        warnings.simplefilter("ignore")
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # fused attention has no ONNX form
        try:
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={**dynamic, **outputs},
                opset_version=OPSET,
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(f"PyTorch cannot write this tower as ONNX: {error}") from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def merge_equal_weights(model: Any) -> None:
    """Store equal tensors once (the tracer writes a shared matrix once for every use), without Identity nodes."""
    graph = model.graph
    first: dict[bytes, str] = {}
    alias: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        digest = hashlib.blake2b(tensor.raw_data, digest_size=16)
        digest.update(f"{tensor.data_type} {list(tensor.dims)}".encode())
        name = first.setdefault(digest.digest(), tensor.name) if tensor.raw_data else tensor.name
        if name == tensor.name:
            kept.append(tensor)
        else:
            alias[tensor.name] = name
    names = {t.name for t in kept}
    nodes = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        if node.op_type == "Identity" and node.input[0] in names:
            alias[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    _replace(graph.initializer, kept)
    _replace(graph.node, nodes)


def _replace(field: Any, values: list[Any]) -> None:
    """Set a repeated protobuf field."""
    copies = list(values)
    del field[:]
    field.extend(copies)


def store_weights(model: Any, precision: Precision) -> None:
    """Store large tensors in fewer bits, with nodes that bring them back to fp32.

    A matrix or convolution becomes int8 with one scale for each output channel, ``Cast`` and ``Mul``; ONNX Runtime
    folds these when it loads the model, so that it computes at fp32's speed. A word embedding stays int8 in memory:
    only the rows of a caption's words are brought back. Other tensors become fp16.
    """
    if precision == "fp32":
        return
    graph = model.graph
    uses: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, i))
    weights = {t.name: t for t in graph.initializer if t.data_type == import_onnx().TensorProto.FLOAT}
    writer = _Writer(graph)
    for name, tensor in weights.items():
        if int(np.prod(tensor.dims)) < SMALL or _is_scale(uses.get(name, [])):
            continue
        values = import_onnx().numpy_helper.to_array(tensor)
        consumers = uses.get(name, [])
        if consumers and all(n.op_type == "Gather" and i == 0 for n, i in consumers):
            writer.embedding(name, values, [n for n, _ in consumers], precision)
        else:
            axis = _channel_axis(values, consumers) if precision != "fp16" else None
            writer.weight(name, values, axis)
    writer.finish()


def _channel_axis(values: NDArray[Any], consumers: list[tuple[Any, int]]) -> int | None:
    """Axis of the output channels, or None for a tensor that is no weight of a product."""
    axes = set()
    for node, i in consumers:
        if node.op_type == "Conv" and i == 1:
            axes.add(0)
        elif node.op_type == "MatMul" and i == 1 and values.ndim == 2:
            axes.add(1)
        elif node.op_type == "Gemm" and i == 1:
            axes.add(0 if any(a.name == "transB" and a.i for a in node.attribute) else 1)
        else:
            axes.add(-1)
    return axes.pop() if len(axes) == 1 and -1 not in axes else None


def _is_scale(consumers: list[tuple[Any, int]]) -> bool:
    """True for the scales of integers, which are too small for fp16."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") and i == 1 for node, i in consumers)


class _Writer:
    """Replaces initialisers of a graph by smaller ones and the nodes that expand them."""

    def __init__(self, graph: Any) -> None:
        self.onnx = import_onnx()
        self.graph = graph
        self.gone: set[str] = set()
        self.tensors: list[Any] = []
        self.before: list[Any] = []
        self.after: dict[str, list[Any]] = {}

    def _tensor(self, name: str, values: NDArray[Any]) -> str:
        self.tensors.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return self.onnx.helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes)

    def _cast(self, name: str, output: str) -> Any:
        return self._node("Cast", [name], output, to=self.onnx.TensorProto.FLOAT)

    def weight(self, name: str, values: NDArray[Any], axis: int | None) -> None:
        """A tensor in front of everything that uses it; its name stays that of the fp32 value."""
        self.gone.add(name)
        if axis is None:
            stored = self._tensor(name + ".fp16", values.astype(np.float16))
            self.before.append(self._cast(stored, name))
            return
        integers, scales = quantise(values, axis)
        stored = self._tensor(name + ".int8", integers)
        scale = self._tensor(name + ".scale", scales)
        self.before.append(self._cast(stored, name + ".float"))
        self.before.append(self._node("Mul", [name + ".float", scale], name))

    def embedding(self, name: str, values: NDArray[Any], gathers: list[Any], precision: Precision) -> None:
        """A table of rows: gathered as stored, and only then brought back to fp32."""
        self.gone.add(name)
        if precision == "fp16":
            stored, scales = self._tensor(name + ".fp16", values.astype(np.float16)), None
        else:
            integers, row_scales = quantise(values, 0)
            stored = self._tensor(name + ".int8", integers)
            scales = self._tensor(name + ".scale", row_scales.astype(np.float16))  # [V, 1]
        for gather in gathers:
            output, ids = gather.output[0], gather.input[1]
            gather.input[0] = stored
            gather.output[0] = output + ".stored"
            if scales is None:
                self.after[gather.name] = [self._cast(output + ".stored", output)]
                continue
            self.after[gather.name] = [
                self._cast(output + ".stored", output + ".float"),
                self._node("Gather", [scales, ids], output + ".scale16"),  # [n, t, 1]
                self._cast(output + ".scale16", output + ".scale"),
                self._node("Mul", [output + ".float", output + ".scale"], output),
            ]

    def finish(self) -> None:
        """Write the changes into the graph."""
        kept = [t for t in self.graph.initializer if t.name not in self.gone]
        _replace(self.graph.initializer, kept + self.tensors)
        nodes = list(self.before)
        for node in self.graph.node:
            nodes.append(node)
            nodes.extend(self.after.get(node.name, []))
        _replace(self.graph.node, nodes)


def shorten_names(model: Any) -> None:
    """Give inner tensors short names and nodes none; the tracer's long ones are a few per cent of a small file."""
    graph = model.graph
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"w{len(short)}")
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name:
                    names[i] = short.setdefault(name, f"x{len(short)}")
    del graph.value_info[:]


def write(
    module: Any,
    inputs: dict[str, Any],
    dynamic: dict[str, dict[int, str]],
    path: Path,
    precision: Precision,
    examples: Sequence[dict[str, NDArray[Any]]] = (),
    outputs: dict[str, dict[int, str]] = EMBEDDING,
    integers: Kind = "convolutions",
    parts: int = 0,
    told: Told | None = None,
    in_floats: Sequence[str] = (),
) -> Computed:
    """Trace ``module`` into ``path`` and store its weights in ``precision``.

    Args:
        module: a torch module in evaluation mode.
        inputs: example tensors by input name.
        dynamic: which axes of which input vary, and their names.
        path: the file to write.
        precision: of the weights.
        examples: batches of real inputs; with them ``integers`` also compute in 8 bits, in the ranges seen there.
        outputs: as in :func:`trace`.
        integers: what computes in 8 bits.
        parts: products of integers, each with a scale for each token, that stand for one product of a transformer
            instead, as in :func:`cliplet.export.tokens.tokens_in_integers`; 0 for none.
        told: is told how many of these products are done, and of how many.
        in_floats: names of parts of the module that stay in fp32.

    Returns:
        What computes in 8 bits; ``smooth`` is nothing, since the network's activations would make it slower.
    """
    onnx = import_onnx()
    trace(module, inputs, dynamic, path, outputs)
    model = onnx.load(str(path))
    merge_equal_weights(model)
    fuse_constant_pads(model)
    computed: Computed = integers if examples else "nothing"
    if examples and parts and is_transformer(model):
        computed = "tokens"
        tokens_in_integers(model, examples, told, parts)
        merge_equal_weights(model)
    elif examples and integers == "convolutions" and is_smooth(model, in_floats):
        computed = "smooth"
    elif examples:
        onnx.save(model, str(path))
        compute_in_integers(path, integers, examples, in_floats)
        model = onnx.load(str(path))
        if integers == "products":
            tidy_products(model)
        else:
            widen_first_convolution(model)
        merge_equal_weights(model)  # above all the zeros behind each bias
    store_weights(model, precision)
    drop_unused(model.graph)  # ONNX Runtime warns of each constant that nobody uses
    shorten_names(model)
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "cliplet", ""
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return computed
