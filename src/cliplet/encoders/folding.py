"""A map folded into a tower's ONNX graph as its last product, so that plain ONNX Runtime gives mapped embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import MissingExtraError, ModelError


def fold(source: Path, target: Path, mean: NDArray[Any], matrix: NDArray[Any] | None) -> None:
    """Write the graph ``source`` with ``embedding`` = unit((its embedding - mean) @ matrix) to ``target``.

    Args:
        source: a tower of a model folder, whose output is ``embedding`` ``[n, d]``.
        target: the file to write.
        mean: ``[d]``.
        matrix: ``[d, k]``; None leaves the product out.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the graph cannot be read, or has another output.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise MissingExtraError("folding a map into a model folder", "train") from error
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf and onnx raise many kinds
        raise ModelError(f"{source} cannot be read: {error}") from error
    graph = model.graph
    output = next((value for value in graph.output if value.name == "embedding"), None)
    if output is None:
        raise ModelError(f"{source} has no output called embedding; export the model again")
    prefix = _free_prefix(graph)
    names = {part: prefix + part for part in ("before", "mean", "matrix", "centred", "mapped")}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names["before"] if name == "embedding" else name for name in values]
    weights = {"mean": np.asarray(mean, dtype=np.float32)[None, :]}
    nodes = [helper.make_node("Sub", [names["before"], names["mean"]], [names["centred"]])]
    last = names["centred"]
    if matrix is not None:
        weights["matrix"] = np.asarray(matrix, dtype=np.float32)
        nodes.append(helper.make_node("MatMul", [last, names["matrix"]], [names["mapped"]]))
        last = names["mapped"]
        output.type.tensor_type.shape.dim[1].dim_value = matrix.shape[1]
    nodes.append(helper.make_node("LpNormalization", [last], ["embedding"], axis=1, p=2))
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(value), names[part]) for part, value in weights.items()
    ]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _free_prefix(graph: Any) -> str:
    """A prefix that no value has yet: the graph may hold an earlier map."""
    taken = {name.partition("/")[0] for node in graph.node for name in node.output}
    return next(
        f"{name}/" for name in ("alignment", *(f"alignment{i}" for i in range(99))) if name not in taken
    )
