"""Convolutions that compute in 8-bit integers: about twice as fast on processors with VNNI instructions."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

PERCENTILE = 99.99
"""Share of an activation's values that its range holds; a few outliers are clipped for finer steps elsewhere."""


def quantise_convolutions(path: Path, examples: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Rewrite the graph in ``path`` so that convolutions, clips and additions between them compute in integers.

    Weights become int8 with one scale for each output channel, activations uint8 with one fixed scale for each
    tensor, so that a photo's result does not depend on the others of its batch.

    Args:
        path: an ONNX file with fp32 weights.
        examples: batches of real inputs by name; at least one.
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
        quantization.quantize_static(
            str(path),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip", "Add"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
    finally:
        root.setLevel(level)
