"""What it costs to embed photos and captions one by one, as a stream with `--cache` does, rather than in batches.

    python -m benchmarks.embed_alone --data DIR

One thread, processor time, three turns of both in one run; printed is the least of each.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cliplet
from cliplet.data.photos import open_photos
from cliplet.encoders.batching import limit_threads
from cliplet.encoders.cache import Alone

TURNS = 3


def least(work: Callable[[], Any], items: int) -> float:
    """Milliseconds of the processor an item."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / items * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CLIPLET_TEST_DATA"))
    parser.add_argument("--photos", type=int, default=200)
    given = parser.parse_args()
    index = open_photos(given.data / "flickr8k" / "images_dev.tar")
    photos = [index.get(name) for name in index.names()[: given.photos]]
    lines = (given.data / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines[: 2 * given.photos]]
    encoder = cliplet.load()
    limit_threads(encoder, 1)
    found: dict[str, list[tuple[float, float]]] = {"in batches": [], "alone": []}
    for _ in range(TURNS):
        for name, one in (("in batches", encoder), ("alone", Alone(encoder))):
            image = least(lambda one=one: one.encode_images_safely(photos), len(photos))  # type: ignore[misc]
            text = least(lambda one=one: one.encode_texts_safely(texts), len(texts))  # type: ignore[misc]
            found[name].append((image, text))
    for name, turns in found.items():
        image, text = (min(values) for values in zip(*turns, strict=True))
        print(f"{name:>10}: {image:.2f} ms a photo, {text:.2f} ms a caption")


if __name__ == "__main__":
    main()
