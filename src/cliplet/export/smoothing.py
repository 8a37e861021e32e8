"""Moving the sizes of a transformer's channels from its activations into the weights that read them."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.export.rounding import STORED

ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of a channel's size that may move into the weights; the one of least error is taken."""
TRIED = 1024
"""Tokens, and at most half as many outputs, that the shares are tried on."""


def choose_smoothing(
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


def move_into_norms(model: Any) -> None:
    """Let a norm that only a shift or smoothing reads do that by itself."""
    from onnx import numpy_helper

    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    maker = {output: node for node in graph.node for output in node.output}
    gone = []
    for node in graph.node:
        kind = {"Add": ".shift", "Mul": ".smooth"}.get(node.op_type)
        norm = maker.get(node.input[0]) if kind is not None and node.input[1].endswith(kind) else None
        if norm is None or norm.op_type != "LayerNormalization" or len(norm.input) < 3:
            continue
        if readers[norm.output[0]] != 1:
            continue
        change = numpy_helper.to_array(tensors[node.input[1]])
        for i in (1, 2):
            values = numpy_helper.to_array(tensors[norm.input[i]])
            if node.op_type == "Mul":
                values = values * change
            elif i == 2:
                values = values + change
            norm.input[i] = f"{node.output[0]}.norm{i}"
            tensors[norm.input[i]] = numpy_helper.from_array(values.astype(np.float32), norm.input[i])
            graph.initializer.append(tensors[norm.input[i]])
        norm.output[0] = node.output[0]
        maker[node.output[0]] = norm
        gone.append(node)
    for node in gone:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
