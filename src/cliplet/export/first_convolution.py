"""The first convolution of an integer image tower in a form that integer kernels are quick at; equal to the last bit.

Kernels for 8-bit convolutions want channels in fours; an image has three. Four columns of a row, which lie side by side
in memory, become the channels of one, and the two columns that the convolution makes of them the channels of its
result. Nine tenths of the added weights are zeros, but ONNX Runtime with VNNI takes a third of the time for it. Pixels
are normalised by a sum of integers instead of five passes in fp32, where all channels have one mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.export.same_padding import constant_value, drop_unused

COLUMNS = 4
"""Columns of the photo that become one."""
_ENDS = ("scale", "zero")


@dataclass(frozen=True)
class _First:
    """What stands between the pixels and the second convolution."""

    pixels: Any
    """The graph's input, uint8 ``[n, h, w, 3]``."""
    normalise: Any
    """BatchNormalization of ``[n, 3, h, w]``."""
    quantise: Any
    convolution: Any
    result: Any
    """Quantisation of the convolution."""
    after: Any
    """What brings it back."""


def widen_first_convolution(model: Any) -> bool:
    """Rewrite the start of a tower that computes in integers; False, and no change, where it is of another form.

    Args:
        model: a graph as :func:`cliplet.export.integers.compute_in_integers` leaves it, whose first convolution has
            stride 2 and reads pixels normalised with one mean and one deviation.
    """
    from onnx import numpy_helper

    graph = model.graph
    first = _find(graph)
    if first is None or not _fits(model, first):
        return False
    stored, shape = _stored(model, first)
    graph.initializer.extend(numpy_helper.from_array(v, f"first.{name}") for name, v in stored.items())
    place = list(graph.node).index(first.after)
    for at, new in enumerate(_nodes(first, shape)):
        graph.node.insert(place + at, new)
    first.after.input[0] = "first.done"
    drop_unused(graph)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return True


def _stored(model: Any, first: _First) -> tuple[dict[str, NDArray[Any]], dict[str, list[int]]]:
    """The new tensors by name, and the new convolution's attributes."""
    about = _about(first)
    mean, variance = (constant_value(model, name)[0] for name in first.normalise.input[3:5])
    height, width, channels = (side.dim_value for side in first.pixels.type.tensor_type.shape.dim[1:])
    weight, *of_weight = (constant_value(model, name) for name in _made(model.graph, first, 1))
    of_bias = [constant_value(model, name) for name in _made(model.graph, first, 2)]
    wide, left, right = _wide(weight, about["pads"][1])
    (top, _, bottom, _), down = about["pads"], about["strides"][0]
    rows = (height + top + bottom - weight.shape[2]) // down + 1
    step, zero = np.float32(1 / np.sqrt(variance)), np.floor(mean) + 1
    parts = [
        ("weight", wide),
        *((f"weight_{n}", np.tile(v, 2)) for n, v in zip(_ENDS, of_weight, strict=True)),
    ]
    parts += [(f"bias_{n}", np.tile(v, 2)) for n, v in zip(("int", *_ENDS), of_bias, strict=True)]
    stored: dict[str, NDArray[Any]] = {
        "split": np.array([-1, height, width // COLUMNS, COLUMNS * channels], np.int64),
        "step": np.array(step),
        "zero": np.array(zero, np.uint8),
        "one": np.array(1, np.uint8),
        "rest": np.array((zero - mean) * step, np.float32),
        "none": np.array(0, np.uint8),
        **dict(parts),
        "join": np.array([-1, rows, width // 2, len(weight)], np.int64),
    }
    shape = {"kernel_shape": [*wide.shape[2:]], "pads": [top, left, bottom, right], "strides": [down, 1]}
    return stored, shape


def _nodes(first: _First, shape: dict[str, list[int]]) -> list[Any]:
    """Pixels to the quantised result, ``[n, o, h, w]`` as before."""
    from onnx import helper

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        names = [f"first.{name}" for name in inputs.split()]
        return helper.make_node(kind, names, [f"first.{output}"], **attributes)

    def like(old: Any, kind: str, source: str, output: str) -> Any:
        return helper.make_node(kind, [f"first.{source}", *old.input[1:]], [f"first.{output}"])

    nodes = [
        node("Reshape", "pixels split", "columns"),
        node("DequantizeLinear", "columns step zero", "levels"),
        node("DequantizeLinear", "one rest none", "less"),
        node("Add", "levels less", "normal"),
        like(first.quantise, "QuantizeLinear", "normal", "integers"),
        node("Transpose", "integers", "maps", perm=[0, 3, 1, 2]),
        like(first.quantise, "DequantizeLinear", "maps", "read"),
        node("DequantizeLinear", "weight weight_scale weight_zero", "kernel", axis=0),
        node("DequantizeLinear", "bias_int bias_scale bias_zero", "bias", axis=0),
        node("Conv", "read kernel bias", "pairs", dilations=[1, 1], group=1, **shape),
        like(first.result, "QuantizeLinear", "pairs", "result"),
        node("Transpose", "result", "rows", perm=[0, 2, 3, 1]),
        node("Reshape", "rows join", "joined"),
        node("Transpose", "joined", "done", perm=[0, 3, 1, 2]),
    ]
    nodes[0].input[0] = first.pixels.name
    return nodes


def _find(graph: Any) -> _First | None:
    """The tower's first nodes, where they are transposition, cast, normalisation and one convolution."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kinds = ("Transpose", "Cast", "BatchNormalization", "QuantizeLinear", "DequantizeLinear", "Conv",
             "QuantizeLinear", "DequantizeLinear")  # fmt: skip
    chain: list[Any] = []
    name = graph.input[0].name
    for kind in kinds:  # what others read, such as a detector beside, stays for them
        following = [node for node in readers.get(name, []) if node.op_type == kind]
        if len(following) != 1 or following[0].input[0] != name:
            return None
        chain.append(following[0])
        name = following[0].output[0]
    return _First(graph.input[0], chain[2], chain[3], *chain[5:])


def _about(first: _First) -> dict[str, Any]:
    """The convolution's attributes."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in first.convolution.attribute}


def _made(graph: Any, first: _First, which: int) -> list[str]:
    """What the convolution's weight or bias is brought back from: integers, scales and zero points."""
    name = first.convolution.input[which]
    return next(list(node.input) for node in graph.node if name in node.output)


def _fits(model: Any, first: _First) -> bool:
    """Whether the convolution halves the columns of RGB pixels that have one mean and one deviation."""
    if len(first.convolution.input) != 3 or any(len(_made(model.graph, first, i)) != 3 for i in (1, 2)):
        return False
    about = _about(first)
    sides = [side.dim_value for side in first.pixels.type.tensor_type.shape.dim]
    bounds = [constant_value(model, name) for name in first.normalise.input[1:5]]
    width, kernel = sides[2], about["kernel_shape"][1]
    return bool(
        about["strides"][1] == 2
        and set(about["dilations"]) == {1}
        and about["group"] == 1
        and width % COLUMNS == 0
        and (width + about["pads"][1] + about["pads"][3] - kernel) // 2 + 1 == width // 2
        and all(np.ptp(bound) == 0 for bound in bounds)
        and (bounds[0][0], bounds[1][0]) == (1, 0)
        and next(a.f for a in first.normalise.attribute if a.name == "epsilon") == 0
    )


def _wide(weight: NDArray[Any], pad: int) -> tuple[NDArray[Any], int, int]:
    """The weights for four columns as one, ``[2 o, 4 i, kh, groups]``, and how many groups to add on either side.

    Args:
        weight: ``[o, i, kh, kw]`` of a convolution with stride 2.
        pad: columns that it adds on the left.
    """
    out, channels, high, kernel = weight.shape
    read = [(half, k, *divmod(2 * half - pad + k, COLUMNS)) for half in (0, 1) for k in range(kernel)]
    least, most = (reduce(group for _, _, group, _ in read) for reduce in (min, max))
    wide = np.zeros((2, out, COLUMNS, channels, high, most - least + 1), weight.dtype)
    for half, k, group, column in read:
        wide[half, :, column, :, :, group - least] = weight[:, :, :, k]
    return wide.reshape(2 * out, COLUMNS * channels, high, -1), -least, most
