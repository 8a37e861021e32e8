#!/usr/bin/env bash
# onnxruntime 1.32.0: a convolutional network with SiLUs (YOLOX, YOLOv8, EfficientNet) that quantize_static writes with its
# defaults, int8 activations, runs several times slower than the fp32 network that it came from, on a processor with VNNI.
# Not one convolution computes in integers after loading: each is dequantised, computed in fp32 and quantised again, and
# nothing is said. The same call on the same network with ReLUs gives integer convolutions, and a gain. With uint8
# activations the convolutions of the SiLU network are integers too, but it is still slower than fp32: x * sigmoid(x) is
# one QuickGelu in fp32, and QLinearSigmoid and QLinearMul over the whole map in 8 bits.
#
# Seen on 2026-11-30 (onnx 1.23.2, NumPy 2.4.6, Python 3.11; AMD EPYC with VNNI, one thread), 12 layers of 64 channels:
#   QInt8   SiLU  fp32 0.57 ms, 8 bits 2.25 ms, 0.25 times as fast   8 bits: 12 Conv, 0 QLinearConv, 73 DequantizeLinear
#   QInt8   ReLU  fp32 0.41 ms, 8 bits 0.28 ms, 1.49 times as fast   8 bits: 12 QLinearConv
#   QUInt8  SiLU  fp32 0.58 ms, 8 bits 0.79 ms, 0.73 times as fast   8 bits: 12 QLinearConv, 12 QLinearSigmoid, 12 QLinearMul
#   QUInt8  ReLU  fp32 0.41 ms, 8 bits 0.28 ms, 1.49 times as fast
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os
import sys
import time
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

work, rng, WIDTH, LAYERS = sys.argv[1], np.random.default_rng(0), 64, 12


def network(silu: bool) -> str:
    """Depthwise and pointwise convolutions in turns, each with its activation."""
    nodes, values, last = [], [], "x"
    for i in range(LAYERS):
        deep = i % 2 == 0
        shape = (WIDTH, 1, 3, 3) if deep else (WIDTH, WIDTH, 1, 1)
        weight = rng.normal(size=shape) * (2 / (9 if deep else WIDTH)) ** 0.5
        values += [numpy_helper.from_array(weight.astype(np.float32), f"w{i}")]
        values += [numpy_helper.from_array(rng.normal(size=WIDTH).astype(np.float32) / 4, f"b{i}")]
        pads, group = ([1] * 4, WIDTH) if deep else ([0] * 4, 1)
        nodes.append(helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], pads=pads, group=group))
        if silu:
            nodes.append(helper.make_node("Sigmoid", [f"c{i}"], [f"s{i}"]))
            nodes.append(helper.make_node("Mul", [f"c{i}", f"s{i}"], [f"y{i}"]))
        else:
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"y{i}"]))
        last = f"y{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH, 40, 40]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "silu" if silu else "relu", ends[:1], ends[1:], values)
    path = os.path.join(work, f"{graph.name}.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Photos(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = 8

    def get_next(self):
        self.left -= 1
        return {"x": rng.normal(size=(1, WIDTH, 40, 40)).astype(np.float32)} if self.left >= 0 else None


def run(path: str) -> tuple[Counter, float]:
    """Kinds of operations after optimisation, and ms of processor time of one run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = path + ".optimised"
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x, least = {"x": rng.normal(size=(1, WIDTH, 40, 40)).astype(np.float32)}, 1e9
    for _ in range(60):
        start = time.process_time()
        session.run(None, x)
        least = min(least, time.process_time() - start)
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return kinds, 1e3 * least


gain = {}
for activations in ("QInt8", "QUInt8"):  # the default, and the other
    for silu in (True, False):
        path = network(silu)
        kind = QuantType[activations]
        quantize_static(path, path + ".8", Photos(), per_channel=True, activation_type=kind)
        (before, slow), (after, fast) = run(path), run(path + ".8")
        gain[silu] = slow / fast
        print(f"{activations:<6} {'SiLU' if silu else 'ReLU'}: fp32 {slow:.2f} ms, 8 bits {fast:.2f} ms: {gain[silu]:.2f} times as fast")
        print(f"    fp32   {dict(before)}")
        print(f"    8 bits {dict(after)}")
        if silu:
            assert before["QuickGelu"] == LAYERS and before["Sigmoid"] == 0, "CHANGED"
            assert gain[silu] < 1, "CHANGED"
            if activations == "QInt8":
                assert after["QLinearConv"] == 0 and after["Conv"] == LAYERS, "CHANGED"
            else:
                assert after["QLinearConv"] == after["QLinearSigmoid"] == after["QLinearMul"] == LAYERS, "CHANGED"
        else:
            assert after["QLinearConv"] == LAYERS and after["Conv"] == 0, "CHANGED"
    assert gain[True] < gain[False], "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py" "$work"
