"""Retrieval over a large set in bounded memory, on synthetic embeddings.

    python benchmarks/retrieval_memory.py                        # 10,000 images x 50,000 captions, about 10 s
    python benchmarks/retrieval_memory.py --images 100000        # 100,000 x 500,000: the full size

Prints the metrics, the time and the peak memory of the process; exits with status 1 if it exceeds ``--limit-gb``.
The full score matrix, which other tools hold, would be images x captions x 4 bytes: its size is printed beside it.
"""

import argparse
import resource
import sys
import time

import numpy as np

from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval

CAPTIONS = 5


def synthetic(images: int, dim: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of images and of five noisy captions of each, made block by block in float32."""
    rng = np.random.default_rng(seed)
    x = np.empty((images, dim), dtype=np.float32)
    y = np.empty((images * CAPTIONS, dim), dtype=np.float32)
    for start in range(0, images, 10_000):
        block = x[start : start + 10_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        texts = y[start * CAPTIONS : start * CAPTIONS + len(block) * CAPTIONS]
        texts[:] = np.repeat(block, CAPTIONS, axis=0)
        texts += noise * rng.standard_normal(texts.shape, dtype=np.float32)
        for rows in (block, texts):
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return x, y, np.repeat(np.arange(images), CAPTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--noise", type=float, default=3.5, help="spread of captions around their image")
    parser.add_argument("--limit-gb", type=float, default=2.0)
    args = parser.parse_args()

    x, y, owner = synthetic(args.images, args.dim, args.noise, seed=0)
    start = time.perf_counter()
    directions = evaluate_retrieval(x, y, owner, RetrievalProtocol(resamples=0))
    seconds = time.perf_counter() - start
    for d in directions:
        print(d.name, {name: round(value.value, 4) for name, value in d.values.items()})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    matrix = len(x) * len(y) * 4 / 2**30
    print(
        f"{len(x):,} images x {len(y):,} captions, {args.dim} dimensions: {seconds:.0f} s, peak {peak:.2f} GB"
    )
    print(f"(the full score matrix would take {matrix:.1f} GB)")
    sys.exit(peak > args.limit_gb)


if __name__ == "__main__":
    main()
