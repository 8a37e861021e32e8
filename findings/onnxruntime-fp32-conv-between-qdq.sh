#!/usr/bin/env bash
# onnxruntime 1.32.0, default settings: a convolution with fp32 weights whose input comes from DequantizeLinear and whose
# output goes into QuantizeLinear does not compute with its fp32 weights. At load they are quantised to int8 with one scale
# for the whole tensor, and nothing is said. Who leaves a sensitive layer (a depthwise one) in fp32 between 8-bit
# neighbours, as advice on accuracy has it, gets a worse layer than per-channel int8 would be: channels with small
# weights vanish. session.disable_quant_qdq=1 (or no graph optimisation) computes what the model says.
#
# Seen on 2026-11-29 (onnx 1.23.2, NumPy 2.4.6, Python 3.11), depthwise 3x3, eight channels whose weights differ by 10 each;
# largest error of each channel in steps of the 8-bit output:
#   default            0 0 0 2 44 55 107 0 (the largest channel is cut off on both sides)
#   disable_quant_qdq  0 0 0 0 0 0 0 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
sizes = 10.0 ** np.arange(-3, 5)[:, None, None, None] / 1e4
weights = (rng.normal(size=(8, 1, 3, 3)) * sizes).astype(np.float32)
STEP = np.float32(1e-4)
values = {"w": weights, "s": np.float32(1 / 255), "z": np.uint8(0), "ys": STEP, "yz": np.uint8(128)}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    helper.make_node("Conv", ["d", "w"], ["c"], group=8),
    helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
    helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
]
graph = helper.make_graph(
    nodes,
    "depthwise",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 9, 9])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
photo = {"x": rng.random((1, 8, 9, 9), dtype=np.float32)}


def run(level, **settings):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, photo)[0]


level = ort.GraphOptimizationLevel
wanted = run(level.ORT_DISABLE_ALL)
errors = {}
for name, settings in {"default": {}, "disable_quant_qdq": {"disable_quant_qdq": "1"}}.items():
    found = run(level.ORT_ENABLE_ALL, **settings)
    errors[name] = [round(float(np.abs(found - wanted)[0, c].max() / STEP), 1) for c in range(8)]
    print(f"{name:<18} {errors[name]}")
assert max(errors["default"]) > 20, "CHANGED"
assert max(errors["disable_quant_qdq"]) <= 1, "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py"
