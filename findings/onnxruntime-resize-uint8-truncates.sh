#!/usr/bin/env bash
# onnxruntime 1.32.0 (CPU): Resize, mode "linear", on uint8 pixels drops the fraction instead of rounding: a photo that is
# resized inside a graph before its Cast to float comes out half a level darker on average, and a white photo is no longer
# white. It depends on what looks alike: with antialias=1 the same node rounds; where pixels are [n, h, w, c] a plain photo
# keeps its level, where they are [n, c, h, w] it does not. Cast to float first, and all of them agree.
#
# Seen on 2026-11-30 (onnx 1.23.2, NumPy 2.4.6, Python 3.11), enlarging 224 x 224 to 320 x 320:
#   nchw antialias=0: on average -0.498 from the float result; plain 255 becomes 254..255
#   nchw antialias=1: on average +0.050 from the float result; plain 255 becomes 255..255
#   nhwc antialias=0: on average -0.498 from the float result; plain 255 becomes 255..255
#   nhwc antialias=1: on average +0.050 from the float result; plain 255 becomes 255..255
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def resized(pixels, layout, antialias):
    """The photos at 320 x 320, in the type of the pixels."""
    kind = helper.np_dtype_to_tensor_dtype(pixels.dtype)
    scale = 320 / 224
    scales = [1, 1, scale, scale] if layout == "nchw" else [1, scale, scale, 1]
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=antialias)],
        "tower",
        [helper.make_tensor_value_info("x", kind, pixels.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], scales)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": pixels})[0]


noise = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224)).astype(np.uint8)
white = np.full_like(noise, 255)
for layout in ("nchw", "nhwc"):
    for antialias in (0, 1):
        photo, plain = (np.ascontiguousarray(p if layout == "nchw" else p.transpose(0, 2, 3, 1)) for p in (noise, white))
        exact = resized(photo.astype(np.float32), layout, antialias)
        off = float((resized(photo, layout, antialias) - exact).mean())
        level = resized(plain, layout, antialias)
        print(f"{layout} antialias={antialias}: on average {off:+.3f} from the float result; "
              f"plain 255 becomes {level.min()}..{level.max()}")
        assert abs(off - (0 if antialias else -0.5)) < 0.1, "CHANGED"
        assert level.min() == (254 if layout == "nchw" and not antialias else 255), "CHANGED"
        assert np.allclose(resized(plain.astype(np.float32), layout, antialias), 255, atol=1e-3), "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py"
