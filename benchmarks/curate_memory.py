"""Peak memory and time of deciding on more and more pairs (made up, measured beforehand as it were).

    python -m benchmarks.curate_memory 100000 400000

Each size is decided in a process of its own. Every photo is distinct but for 5 % exact and 5 % near copies.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from cliplet.curate.decide import Measured, decide
from cliplet.curate.measure import SCHEMA
from cliplet.curate.rules import Rules

PART = 10_000
DIM = 512


def write_part(path: Path, number: int, rng: np.random.Generator) -> None:
    """A part of measured pairs; its last tenth copies its first."""
    n, copies = PART, PART // 20
    vectors = rng.normal(size=(n, DIM)).astype(np.float16)
    looks = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    pixels = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    pixels[-copies:] = pixels[:copies]
    vectors[-copies:], looks[-copies:] = vectors[:copies], looks[:copies]
    near = slice(-2 * copies, -copies)
    vectors[near] = vectors[:copies] + 0.1 * rng.normal(size=(copies, DIM))
    looks[near] = looks[:copies]
    looks[near, 0] ^= 5
    numbers = np.arange(number * n, (number + 1) * n)
    keys = [int(i).to_bytes(16, "little") for i in numbers]
    cosine = rng.uniform(-0.1, 0.8, n).astype(np.float32)
    columns = {
        "source": [f"{number:05d}.tar"] * n, "where": [f"member {i}.txt" for i in numbers],
        "image": [f"{i}.jpg" for i in numbers], "caption": [f"a dog runs over meadow number {i}" for i in numbers],
        "extra": None, "reason": None, "score": cosine, "cosine": cosine, "match": np.clip(cosine, 0, 1),
        "truncated": [False] * n, "bytes": [1] * n, "width": [640] * n, "height": [480] * n, "photo": keys,
        "content": [row.tobytes() for row in pixels], "pixels": [row.tobytes() for row in pixels],
        "look": [row.tobytes() for row in looks], "embedding": [row.tobytes() for row in vectors],
        "caption_key": keys, "words": [7] * n, "name": None, "empty": None,
    }  # fmt: skip
    arrays = [
        pyarrow.nulls(n, f.type) if columns[f.name] is None else pyarrow.array(columns[f.name], f.type)
        for f in SCHEMA
    ]
    parquet.write_table(pyarrow.table(arrays, schema=SCHEMA), path, compression="zstd")


def decided(parts: list[Path], folder: Path, pipe: object) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    counts = decide(Measured(parts), Rules(min_match=0.2), folder / "decided", folder / "scratch")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((time.monotonic() - start, before, peak, counts.kept, dict(counts.rules)))  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=int, nargs="+")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts: list[Path] = []
        for pairs in sorted(given.pairs):
            while len(parts) * PART < pairs:
                parts.append(folder / f"part-{len(parts):05d}.parquet")
                write_part(parts[-1], len(parts) - 1, rng)
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=decided, args=(parts, folder, there)
            )
            process.start()
            seconds, before, peak, kept, rules = here.recv()
            process.join()
            print(
                f"{len(parts) * PART:>9,} pairs: {seconds:6.1f} s, {len(parts) * PART / seconds:,.0f} pairs/s, "
                f"peak {peak // 1024} MB (imports alone {before // 1024} MB), kept {kept:,}, removed by {rules}",
                flush=True,
            )


if __name__ == "__main__":
    main()
