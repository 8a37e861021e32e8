#!/usr/bin/env bash
# scikit-learn 1.9.1: NearestCentroid with one sample a class, the baseline of every one-shot table, warns "invalid value
# encountered in divide" while it fits: it divides the spread within classes by (samples - classes), which is 0, although
# plain prediction never reads that spread. The predictions are right. Where warnings are errors (pytest -W error) the
# one-shot row fails and the rows of two shots and more pass.
#
# Seen on 2026-11-29 (NumPy 2.4.6, Python 3.11): 1 sample a class: RuntimeWarning, predictions right; 2 samples: no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import numpy as np
from sklearn.neighbors import NearestCentroid

rng = np.random.default_rng(0)
centres = np.eye(3) * 4
for shots in (1, 2):
    x = np.repeat(centres, shots, axis=0) + rng.normal(size=(3 * shots, 3)) / 10
    y = np.repeat([0, 1, 2], shots)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = NearestCentroid().fit(x, y)
    right = bool((model.predict(centres) == [0, 1, 2]).all())
    print(shots, "sample(s) a class:", [f"{w.category.__name__}: {w.message}" for w in said], "right:", right)
    assert right and bool(said) == (shots == 1)
PY
"$work/venv/bin/python" "$work/try.py"
