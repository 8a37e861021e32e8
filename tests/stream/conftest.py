"""Photos, captions and a tiny model for streams."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")

from cliplet.stream.part import tables_of
from tests.tiny_model import WORDS, build_tiny_model

PHOTOS, ROWS = 8, 100


def jpeg(seed: int) -> bytes:
    """A small photo."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def caption(i: int) -> str:
    """A caption."""
    return " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 6))


@pytest.fixture(scope="session")
def here(tmp_path_factory) -> Path:
    """A folder with ``photos/``, ``captions.csv`` and the model ``tiny/``."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "photos").mkdir()
    for i in range(PHOTOS):
        (folder / "photos" / f"{i}.jpg").write_bytes(jpeg(i))
    with open(folder / "captions.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption", "origin"])
        writer.writerows([f"{i % PHOTOS}.jpg", caption(i), f"web{i}"] for i in range(ROWS))
    build_tiny_model(folder / "tiny")
    return folder


def shard(path: Path, first: int, samples: int, extra: dict[str, bytes] | None = None) -> Path:
    """A WebDataset shard of photos with captions."""
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + samples):
            files = {f"{i:04d}.jpg": jpeg(i), f"{i:04d}.txt": caption(i).encode(),
                     f"{i:04d}.json": json.dumps({"key": i}).encode()}  # fmt: skip
            for name, content in (files | (extra or {} if i == first else {})).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def rows(folder: Path, form: str = "parquet") -> list[dict[str, Any]]:
    """All rows of the parts."""
    files = sorted((folder / "parts").glob(f"part-*.{form}"))
    return [row for file in files for table in tables_of(file) for row in table.to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    """The parts' files by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "parts").iterdir())}
