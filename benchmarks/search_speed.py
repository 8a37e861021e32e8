"""Search and indexing beside what they cannot be faster than, in one run each.

Command: python -m benchmarks.search_speed PHOTOS [--rows 100000]
Needs: pip install -e '.[search]'

- query: an exact query of an index of ROWS photos (the matrix loaded, the text embedded), beside numpy's float32
  product of the same matrix and vector, and beside LanceDB's own exact query;
- indexing: `Index.update` of PHOTOS (a folder or tar) beside reading and embedding the same photos, in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cliplet.data.photos import open_photos
from cliplet.encoders.batching import encode_images_safely
from cliplet.encoders.registry import load
from cliplet.search.index import Index
from cliplet.search.store import Maker, Row


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def query(folder: Path, rows: int) -> None:
    index = Index.make(folder / "many.lance")
    dim = Maker.of(index.encoder.card).dim
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        vectors = rng.normal(size=(min(10_000, rows - start), dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        numbers = range(start, start + len(vectors))
        index.store.put([Row(f"/{i:08}.jpg", f"{i:032x}", 1, 0.0, 1, 1) for i in numbers], vectors)
    vector = index.encoder.encode_texts(["a dog"])[0]
    loading = seconds(index.refresh)
    matrix = index.refresh().matrix
    ours, plain, lance = [], [], []
    for _ in range(31):
        ours.append(seconds(lambda: index.search_vector(vector, 20)))
        plain.append(seconds(lambda: matrix @ vector))
    for _ in range(3):
        lance.append(seconds(lambda: index.store.ann(vector, 20)))
    a, b, c = (statistics.median(times) for times in (ours, plain, lance))
    ratio = statistics.median(x / y for x, y in zip(ours, plain, strict=True))
    print(f"query of {rows} photos: {1000 * a:.1f} ms, numpy's product {1000 * b:.1f} ms, ratio {ratio:.2f}; "
          f"LanceDB's own {1000 * c:.0f} ms; loading the matrix {loading:.2f} s")  # fmt: skip


def indexing(folder: Path, photos: Path) -> None:
    encoder = load(None)
    encoder.preload()
    held = open_photos(photos)
    names = held.names()
    contents = [held.get(name).read_bytes() for name in names]  # type: ignore[union-attr]
    encode_images_safely(encoder, contents[:64])

    def embed() -> None:
        again = [held.get(name).read_bytes() for name in names]  # type: ignore[union-attr]
        encode_images_safely(encoder, again)

    ours, plain = [], []
    for turn in range(5):
        index = Index.make(folder / f"{turn}.lance", encoder)
        ours.append(seconds(lambda index=index: index.update([photos])))  # type: ignore[misc]
        plain.append(seconds(embed))
    ratio = statistics.median(x / y for x, y in zip(ours, plain, strict=True))
    a, b = statistics.median(ours), statistics.median(plain)
    print(f"indexing {len(names)} photos: {a:.2f} s, reading and embedding them {b:.2f} s, ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        indexing(Path(folder), arguments.photos)
        query(Path(folder), arguments.rows)


if __name__ == "__main__":
    main()
