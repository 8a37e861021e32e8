"""Convolutions and matrix products that compute in 8-bit integers: two to four times as fast with VNNI or AMX."""

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError
from cliplet.export.narrow import narrow_weights
from cliplet.export.same_padding import drop_unused

Kind = Literal["convolutions", "products"]

PERCENTILE = 99.99
"""Share of an activation's values that its range holds; a few outliers are clipped for finer steps elsewhere."""

_WEIGHTED: dict[Kind, Literal["Conv", "MatMul"]] = {"convolutions": "Conv", "products": "MatMul"}
_OPERATIONS = {"convolutions": ["Conv", "Clip", "Add"], "products": ["MatMul"]}
_OF_MAPS = ("Add", "Clip", "Relu", "MaxPool")
"""What may stand between convolutions that compute in integers."""
_SMOOTH = ("Sigmoid", "HardSigmoid", "HardSwish", "Erf", "Gelu", "Tanh", "Softplus")
"""What an activation begins with that is one operation on floats, and several on integers or none."""
_OPTIONS: dict[Kind, dict[str, Any]] = {
    "convolutions": {"CalibPercentile": PERCENTILE},
    "products": {
        "CalibPercentile": PERCENTILE,
        "OpTypesToExcludeOutputQuantization": ["MatMul"],
        "DedicatedQDQPair": True,  # what else reads an activation, such as the residual sum, reads it in fp32
    },
}


def compute_in_integers(
    path: Path, kind: Kind, examples: Sequence[dict[str, NDArray[Any]]], in_floats: Sequence[str] = ()
) -> None:
    """Rewrite the graph in ``path`` so that convolutions (or products with a weight) compute in integers.

    Weights become 7-bit integers with one scale for each output channel, activations uint8 with one fixed scale for
    each tensor, so that a photo's or caption's result does not depend on the others of its batch, and that no
    processor's sum of two products saturates.

    Args:
        path: an ONNX file with fp32 weights.
        kind: ``convolutions``, with the clips and additions between them, or ``products``, whose results are fp32.
        examples: batches of real inputs by name, all of one shape but for the first axis; at least one.
        in_floats: names of PyTorch modules whose operations stay as they are.

    Raises:
        InputError: an activation hardly varies over the examples.
    """
    import onnx
    import onnxruntime.quantization as quantization

    model = onnx.load(str(path))
    left = {node.name for node in model.graph.node if _is_part_of(node, in_floats)}
    scales = narrow_weights(model, _WEIGHTED[kind], examples, left) | _pixel_ranges(model, examples[0], left)
    onnx.save(model, str(path))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, NDArray[Any]]] = iter(examples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:  # type: ignore[override]
            return next(self.batches, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that the exporter has done
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # and prints its own settings
            quantization.quantize_static(
                str(path),
                str(path),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_OPERATIONS[kind],
                nodes_to_exclude=sorted({*_in_floats(model.graph), *left}),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={**_OPTIONS[kind], "TensorQuantOverrides": scales},
            )
    except ValueError as error:  # of numpy's histogram
        raise InputError(
            f"the ranges of 8-bit {kind} cannot be measured: an activation hardly varies over the examples ({error}); "
            "calibrate on other photos or captions, or leave calibration out"
        ) from error
    finally:
        root.setLevel(level)


def is_smooth(model: Any, in_floats: Sequence[str] = ()) -> bool:
    """Whether most convolutions end in SiLUs and the like, so that integers make the network slower, not faster.

    ONNX Runtime joins a ReLU to an integer convolution; a SiLU, one operation on floats, is several there, each over
    the whole map (``findings/onnxruntime-silu-in-8-bits.sh``).
    """
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)

    def kinds(name: str) -> set[str]:
        """Of what reads a tensor, also behind the division in front of a GELU's Erf."""
        behind = (kinds(node.output[0]) for node in readers[name] if node.op_type == "Div")
        return {node.op_type for node in readers[name]}.union(*behind)

    meant = [n for n in model.graph.node if n.op_type == "Conv" and not _is_part_of(n, in_floats)]
    smooth = sum(not kinds(node.output[0]).isdisjoint(_SMOOTH) for node in meant)
    return 2 * smooth > len(meant)


def _is_part_of(node: Any, modules: Sequence[str]) -> bool:
    """Whether a node comes from one of these modules, by which the tracer names it."""
    return any(f"/{name}/" in node.name for name in modules)


def _pixel_ranges(
    model: Any, example: dict[str, NDArray[Any]], left: Set[str]
) -> dict[str, list[dict[str, Any]]]:
    """The ranges of what the first convolutions read of pixels, in 254 steps from black to white.

    In 255 steps a pixel normalised by the mean 127.5 lies just between two integers, and rounding errors, which differ
    from processor to processor, would say which it becomes.
    """
    import onnx

    behind: set[str] = set()  # what depends on a convolution
    read = set()
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] not in behind and node.name not in left:
            read.add(node.input[0])
        if node.op_type == "Conv" or behind.intersection(node.input):
            behind.update(node.output)
    pixels = {name: values for name, values in example.items() if values.dtype == np.uint8}
    if not read or not pixels:
        return {}
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(read))
    drop_unused(part.graph)
    session = open_session(part.SerializeToString(), threads=1, name="the normalisation of pixels")
    ends = [
        session.run(None, {n: np.full_like(v[:1], level) for n, v in pixels.items()}) for level in (0, 255)
    ]
    ranges = {}
    for name, *found in zip(sorted(read), *ends, strict=True):
        low, high = (np.float32(reduce(found) * 255 / 254) for reduce in (np.min, np.max))
        ranges[name] = [{"rmin": low, "rmax": high}]
    return ranges


def _in_floats(graph: Any) -> list[str]:
    """Names of the nodes that stay in fp32: products without a weight, and sums and clips of others than feature maps.

    A tower's transformer blocks and all that follows its pooling are such.
    """
    weights = {tensor.name for tensor in graph.initializer}
    maps: set[str] = set()  # results of convolutions, their clips and sums
    found = []
    for node in graph.node:
        read = node.input if node.op_type == "Add" else node.input[:1]
        if node.op_type == "Conv" or (node.op_type in _OF_MAPS and maps.issuperset(read)):
            maps.update(node.output)
        elif node.op_type in ("Add", "Clip") or (node.op_type == "MatMul" and node.input[1] not in weights):
            found.append(node.name)
    return found
