#!/usr/bin/env bash
# onnxruntime 1.32.0, Linux: importing it starts a thread, and a child forked afterwards hangs when it leaves by
# sys.exit (or at the end of its program), though it has used nothing of it. os._exit, by which multiprocessing's and a
# DataLoader's workers leave, is not affected. With a session of several threads the child hangs or dies of a
# segmentation fault. ONNX Runtime says nothing about forks.
#
# Seen on 2026-11-29 (NumPy 2.4.6, Python 3.11):
#   numpy alone                left with 0
#   onnxruntime imported       HANGS
#   the same, os._exit         left with 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os
import sys
import time

import numpy  # noqa: F401

if sys.argv[1] != "numpy":
    import onnxruntime  # noqa: F401
child = os.fork()
if not child:
    if sys.argv[1] == "_exit":
        os._exit(0)
    sys.exit(0)
left = 0
for _ in range(100):
    left, status = os.waitpid(child, os.WNOHANG)
    if left:
        break
    time.sleep(0.1)
if not left:
    os.kill(child, 9)
    os.waitpid(child, 0)
print(sys.argv[1], f"left with {status}" if left else "HANGS")
PY
for case in numpy import _exit; do "$work/venv/bin/python" -W ignore "$work/try.py" "$case"; done | tee "$work/seen"
printf 'numpy left with 0\nimport HANGS\n_exit left with 0\n' | cmp -s - "$work/seen" || { echo CHANGED; exit 1; }
