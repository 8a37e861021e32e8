#!/usr/bin/env bash
# torch 2.13.0 (CPU), torch.onnx.export(dynamo=False) of nn.MultiheadAttention with dynamic_axes for both the batch and
# the sequence: only one of the two stays free, and the exporter says nothing. Which one depends on batch_first: with
# batch_first=True (most CLIP text towers of today) the batch is free and the sequence is the example's for ever; with
# batch_first=False the sequence is free and the batch is the example's. onnxruntime refuses the others at a Reshape deep
# inside, so an exported text tower that "worked" on the example cannot be cut to its longest caption, or to one caption.
# The exporter of torch.export (dynamo=True) keeps both free.
#
# Seen on 2026-11-29 (onnx 1.23.2, onnxruntime 1.32.0, onnxscript 0.7.2, Python 3.11), example [2, 8, 16]:
#   batch_first=True  dynamo=False  [3, 8, 16] ok      [2, 5, 16] refused
#   batch_first=False dynamo=False  [3, 8, 16] refused [2, 5, 16] ok       (axes: sequence, batch, width)
#   both              dynamo=True   ok                 ok
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 --no-deps
"$work/venv/bin/pip" install -q filelock fsspec jinja2 networkx sympy typing-extensions "setuptools>=77.0.3" \
    onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import io
import logging
import warnings

import numpy as np
import onnxruntime as ort
import torch

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
torch.manual_seed(0)
ort.set_default_logger_severity(4)


class Own(torch.nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=batch_first)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


found = {}
for batch_first in (True, False):
    for dynamo in (False, True):
        module, file = Own(batch_first).eval(), io.BytesIO()
        example = torch.randn(2, 8, 16)
        if dynamo:
            free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            torch.onnx.export(module, (example,), file, input_names=["x"], dynamo=True, verbose=False,
                              dynamic_shapes=(free,))
        else:
            torch.onnx.export(module, (example,), file, input_names=["x"], output_names=["y"], dynamo=False,
                              dynamic_axes={"x": {0: "a", 1: "b"}, "y": {0: "a", 1: "b"}})
        session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        for shape in ((3, 8, 16), (2, 5, 16)):
            x = torch.randn(*shape)
            try:
                got = session.run(None, {"x": x.numpy()})[0]
                with torch.no_grad():
                    said = "ok" if np.allclose(got, module(x).numpy(), atol=1e-5) else "other numbers"
            except Exception:
                said = "refused"
            found[batch_first, dynamo, shape] = said
            print(f"batch_first={batch_first!s:5} dynamo={dynamo!s:5} {list(shape)} {said}")
assert found[True, False, (3, 8, 16)] == "ok" and found[True, False, (2, 5, 16)] == "refused"
assert found[False, False, (3, 8, 16)] == "refused" and found[False, False, (2, 5, 16)] == "ok"
assert all(said == "ok" for (_, dynamo, _), said in found.items() if dynamo)
PY
"$work/venv/bin/python" "$work/try.py"
