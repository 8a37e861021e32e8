#!/usr/bin/env bash
# onnxruntime 1.32.0, quantize_static: the percentile and entropy calibrators refuse a calibration set whose last batch
# is smaller than the others; min-max takes it. 100 photos in batches of 8 calibrate with one method and raise
# NumPy's "inhomogeneous shape" with the others, after all photos have been run. The model's batch axis is dynamic.
#
# Seen on 2026-11-29 (onnx 1.23.2, NumPy 2.4.6, Python 3.11):
#   MinMax      [4, 4] ok   [4, 4, 3] ok
#   Percentile  [4, 4] ok   [4, 4, 3] ValueError: setting an array element with a sequence ... inhomogeneous shape
#   Entropy     [4, 4] ok   [4, 4, 3] ValueError: the same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import contextlib
import io
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

folder = sys.argv[1]
rng = np.random.default_rng(0)
weights = numpy_helper.from_array(rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "w")
graph = helper.make_graph(
    [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["y"], ["z"])],
    "tower",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 8, 16, 16])],
    [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.save(model, f"{folder}/m.onnx")


class Photos(CalibrationDataReader):
    def __init__(self, sizes):
        self.batches = iter([{"x": rng.normal(size=(n, 3, 16, 16)).astype(np.float32)} for n in sizes])

    def get_next(self):
        return next(self.batches, None)


seen = {}
for method in (CalibrationMethod.MinMax, CalibrationMethod.Percentile, CalibrationMethod.Entropy):
    for sizes in ((4, 4), (4, 4, 3)):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantize_static(f"{folder}/m.onnx", f"{folder}/q.onnx", Photos(sizes), calibrate_method=method)
            seen[method.name, sizes] = "ok"
        except ValueError as error:
            assert "inhomogeneous" in str(error), error
            seen[method.name, sizes] = "ValueError, inhomogeneous shape"
        print(f"{method.name:<11} {list(sizes)}: {seen[method.name, sizes]}")
wrong = {"Percentile", "Entropy"}
expected = {k: "ValueError, inhomogeneous shape" if k[0] in wrong and k[1][-1] == 3 else "ok" for k in seen}
assert seen == expected, "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py" "$work" 2>/dev/null
