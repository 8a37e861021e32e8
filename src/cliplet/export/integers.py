"""Convolutions and matrix products that compute in 8-bit integers: two to four times as fast with VNNI or AMX."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

Kind = Literal["convolutions", "products"]

PERCENTILE = 99.99
"""Share of an activation's values that its range holds; a few outliers are clipped for finer steps elsewhere."""

_OPERATIONS = {"convolutions": ["Conv", "Clip", "Add"], "products": ["MatMul"]}
_OPTIONS = {
    "convolutions": {"CalibPercentile": PERCENTILE},
    "products": {
        "CalibPercentile": PERCENTILE,
        "OpTypesToExcludeOutputQuantization": ["MatMul"],
        "DedicatedQDQPair": True,  # what else reads an activation, such as the residual sum, reads it in fp32
    },
}


def compute_in_integers(path: Path, kind: Kind, examples: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Rewrite the graph in ``path`` so that convolutions (or products with a weight) compute in integers.

    Weights become int8 with one scale for each output channel, activations uint8 with one fixed scale for each
    tensor, so that a photo's or caption's result does not depend on the others of its batch.

    Args:
        path: an ONNX file with fp32 weights.
        kind: ``convolutions``, with the clips and additions between them, or ``products``, whose results are fp32.
        examples: batches of real inputs by name, all of one shape but for the first axis; at least one.
    """
    import onnxruntime.quantization as quantization

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
                nodes_to_exclude=_products_without_weight(path),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options=_OPTIONS[kind],
            )
    finally:
        root.setLevel(level)


def _products_without_weight(path: Path) -> list[str]:
    """Names of the products in the attention, whose second factor is no weight: they stay in fp32."""
    import onnx

    graph = onnx.load(str(path)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
