"""Small shards of drawn photos with captions, and a tiny model to measure them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny_model import build_tiny_model

COLOURS = "red blue green black white".split()  # noqa: SIM905
THINGS = "dog cat man woman car".split()  # noqa: SIM905


def drawn(seed: int, side: int = 96) -> Image.Image:
    """A photo-like picture: smooth shapes of its own."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 7, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def caption(seed: int) -> str:
    return f"a {COLOURS[seed % 5]} {THINGS[seed // 5 % 5]} runs on the grass number {seed}"


def good_rows(count: int, first: int = 0) -> list[tuple[bytes, str]]:
    """Pairs of which no two are alike."""
    return [(jpeg(drawn(seed)), caption(seed)) for seed in range(first, first + count)]


def write_shard(path: Path, rows: list, first: int = 0, more: dict[str, bytes] | None = None) -> Path:
    """A WebDataset shard: ``000000007.jpg``, ``.json``, ``.txt`` of each row, and other members at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, (photo, text) in enumerate(rows, first):
            for suffix, content in (
                ("jpg", photo), ("json", b'{"key": "%09d", "url": "x"}' % i), ("txt", text.encode()),
            ):  # fmt: skip
                add(tar, f"{i:09d}.{suffix}", content)
        for name, content in (more or {}).items():
            add(tar, name, content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uname = len(content), 1_600_000_000, 0o640, "somebody"
    tar.addfile(info, io.BytesIO(content))


def raw_members(path: Path) -> dict[str, bytes]:
    """Each member's bytes with its headers and padding, by name."""
    content = path.read_bytes()
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            found[member.name] = content[member.offset : tar.offset]
    return found


def tiny(folder: Path) -> str:
    """A model's folder."""
    return str(build_tiny_model(folder / "model"))


def output(folder: Path) -> dict[str, bytes]:
    """What a run has written, but for times."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in list(found):
        if name.startswith(("measured/.", "measured/plan", "decided/decision", "kept/.")) or "report" in name:
            del found[name]
    summary = json.loads(found.pop("summary.json"))
    del summary["seconds"]
    summary["provenance"].pop("versions", None)  # of the libraries that the process had loaded
    return found | {"summary.json": json.dumps(summary).encode()}
