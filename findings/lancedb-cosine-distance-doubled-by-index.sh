#!/usr/bin/env bash
# lancedb 0.40.0: under a compressed index (IVF_PQ, IVF_SQ, IVF_RQ, HNSW on SQ or PQ) made with distance_type="cosine", the
# _distance of a cosine search is twice the cosine distance (of PQ's coarse one): 1 - _distance is not the cosine, and two
# photos that have nothing in common stand at 2. Without an index, and under IVF_FLAT, it is the cosine distance.
# It changes under the reader's feet: add one row that the index does not hold yet, and the same query gives the plain
# distance again, so that a table that is written to alternates between the two scales; refine_factor=1 always gives the
# plain one. And distance_range(upper_bound=0.5), "a cosine of at least 0.5", keeps what is above 0.75: here nothing.
#
# Seen on 2026-11-30 (pyarrow 26.0.1, NumPy 2.4.6, Python 3.11), 3,000 unit vectors; ratio: _distance over the true cosine
# distance, median of all rows; kept: rows with distance_range(upper_bound=0.5):
#   within 0.5 of the query: 51 of 3000
#   no index ratio 1.00   refine_factor=1 1.00   after one more row 1.00   kept 51
#   IvfFlat  ratio 1.00   refine_factor=1 1.00   after one more row 1.00   kept 51
#   IvfPq    ratio 1.66   refine_factor=1 1.00   after one more row 1.00   kept 0
#   IvfSq    ratio 2.00   refine_factor=1 1.00   after one more row 1.00   kept 0
#   IvfRq    ratio 2.01   refine_factor=1 1.00   after one more row 1.00   kept 0
#   HnswSq   ratio 2.00   refine_factor=1 1.00   after one more row 1.00   kept 0
#   HnswPq   ratio 1.66   refine_factor=1 1.00   after one more row 1.00   kept 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q lancedb==0.40.0 pyarrow==26.0.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import sys

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswPq, HnswSq, IvfFlat, IvfPq, IvfRq, IvfSq

rng = np.random.default_rng(0)
COUNT, WIDTH = 3000, 64
centres = rng.normal(size=(30, WIDTH))


def vectors(count):
    found = (centres[rng.integers(0, 30, count)] + rng.normal(size=(count, WIDTH))).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows(ids, found):
    return pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), WIDTH)})


photos, query = vectors(COUNT), vectors(1)[0]
true = 1 - photos @ query
within = int((true < 0.5).sum())
db = lancedb.connect(sys.argv[1])


def ratio(table, **options):
    search = table.search(query).distance_type("cosine").nprobes(4).limit(COUNT)
    found = (search.refine_factor(1) if options else search).to_arrow().to_pydict()
    pairs = [(distance, true[i]) for i, distance in zip(found["id"], found["_distance"], strict=True) if i < COUNT]
    return float(np.median([a / b for a, b in pairs]))


print(f"within 0.5 of the query: {within} of {COUNT}")
for index in (None, IvfFlat, IvfPq, IvfSq, IvfRq, HnswSq, HnswPq):
    name = index.__name__ if index else "no index"
    table = db.create_table(name.replace(" ", ""), rows(np.arange(COUNT), photos))
    if index:
        table.create_index("vector", config=index(distance_type="cosine", num_partitions=4))
    plain, refined = ratio(table), ratio(table, refined=True)
    near = table.search(query).distance_type("cosine").nprobes(4).distance_range(upper_bound=0.5)
    kept = near.limit(COUNT).to_arrow().num_rows
    table.add(rows(np.array([COUNT]), -query[None]))
    later = ratio(table)
    print(f"{name:<8} ratio {plain:.2f}   refine_factor=1 {refined:.2f}   after one more row {later:.2f}   kept {kept}")
    exact = index in (None, IvfFlat)
    assert abs(plain - 1) < 0.01 if exact else 1.5 < plain < 2.2, "CHANGED"
    assert abs(refined - 1) < 0.01 and abs(later - 1) < 0.01, "CHANGED"
    assert kept == within if exact else kept < within / 4, "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py" "$work/db" 2>/dev/null
