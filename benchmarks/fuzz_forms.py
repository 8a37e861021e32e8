"""Photos in every form, and every container for them and for captions, for ``benchmarks.fuzz_inputs``."""

import io
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cliplet import Scorer

TOLERANCE = 1e-5
LOSSY = 0.05
"""For forms that round pixels (half floats, an overshoot)."""


@dataclass
class World:
    """Photos with their scores."""

    scorer: Scorer
    folder: Path
    pixels: list[np.ndarray] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    scores: dict[tuple[int, str], float] = field(default_factory=dict)
    references: dict[tuple[str, str], float] = field(default_factory=dict)


# ---------------------------------------------------------------- images, one by one
Form = tuple[str, Callable[[World, int], Any], float]


class Stored:
    """A photo that somebody else reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        return self.path.read_bytes()


class Array:
    """Another library's array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.ndim = values, values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """For NumPy."""
        return self.values


def _file(world: World, i: int) -> io.BytesIO:
    stream = io.BytesIO(world.paths[i].read_bytes())
    stream.seek(7 * i)
    return stream


def _first(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _shot(pixels: np.ndarray) -> np.ndarray:
    values = pixels / 255
    values[0, 0], values[1, 1] = 1.04, -0.03
    return values


def _opened(world: World, i: int) -> Image.Image:
    return Image.open(io.BytesIO(world.paths[i].read_bytes()))


GOOD: list[Form] = [
    ("str", lambda w, i: str(w.paths[i]), TOLERANCE),
    ("Path", lambda w, i: w.paths[i], TOLERANCE),
    ("numpy str", lambda w, i: np.str_(w.paths[i]), TOLERANCE),
    ("bytes", lambda w, i: w.paths[i].read_bytes(), TOLERANCE),
    ("bytearray", lambda w, i: bytearray(w.paths[i].read_bytes()), TOLERANCE),
    ("memoryview", lambda w, i: memoryview(w.paths[i].read_bytes()), TOLERANCE),
    ("encoded array", lambda w, i: np.frombuffer(w.paths[i].read_bytes(), np.uint8), TOLERANCE),
    ("file", _file, TOLERANCE),
    ("stored", lambda w, i: Stored(w.paths[i]), TOLERANCE),
    ("{bytes, path}", lambda w, i: {"bytes": w.paths[i].read_bytes(), "path": "gone.png"}, TOLERANCE),
    ("{path}", lambda w, i: {"bytes": None, "path": str(w.paths[i])}, TOLERANCE),
    ("PIL", _opened, TOLERANCE),
    ("PIL RGBA", lambda w, i: _opened(w, i).convert("RGBA"), TOLERANCE),
    ("PIL RGBa", lambda w, i: _opened(w, i).convert("RGBa"), TOLERANCE),
    ("PIL RGBX", lambda w, i: _opened(w, i).convert("RGBX"), TOLERANCE),
    ("PIL YCbCr", lambda w, i: _opened(w, i).convert("YCbCr"), LOSSY),
    ("PIL HSV", lambda w, i: _opened(w, i).convert("HSV"), 2 * LOSSY),
    ("array", lambda w, i: w.pixels[i], TOLERANCE),
    ("array [3, h, w]", lambda w, i: _first(w.pixels[i]), TOLERANCE),
    ("array RGBA", lambda w, i: np.dstack([w.pixels[i], w.pixels[i][..., :1]]), TOLERANCE),
    ("float64", lambda w, i: w.pixels[i] / 255, TOLERANCE),
    ("float32 [3, h, w]", lambda w, i: (_first(w.pixels[i]) / 255).astype(np.float32), TOLERANCE),
    ("float16", lambda w, i: (w.pixels[i] / 255).astype(np.float16), LOSSY),
    ("overshoot", lambda w, i: _shot(w.pixels[i]), LOSSY),
    ("int32", lambda w, i: w.pixels[i].astype(np.int32), TOLERANCE),
    ("int64 [3, h, w]", lambda w, i: _first(w.pixels[i]).astype(np.int64), TOLERANCE),
    ("uint16 of 0..255", lambda w, i: w.pixels[i].astype(np.uint16), TOLERANCE),
    ("uint16", lambda w, i: w.pixels[i].astype(np.uint16) * 257, TOLERANCE),
    ("another array", lambda w, i: Array(w.pixels[i]), TOLERANCE),
]
GREY: list[Form] = [
    ("PIL L", lambda w, i: Image.fromarray(w.pixels[i][..., 0]), TOLERANCE),
    ("PIL LA", lambda w, i: Image.fromarray(w.pixels[i][..., 0]).convert("LA"), TOLERANCE),
    ("PIL La", lambda w, i: Image.fromarray(w.pixels[i][..., 0]).convert("LA").convert("La"), TOLERANCE),
    ("PIL P", lambda w, i: Image.fromarray(w.pixels[i][..., 0]).convert("P"), TOLERANCE),
    ("PIL I", lambda w, i: Image.fromarray(w.pixels[i][..., 0].astype(np.int32)), TOLERANCE),
    ("PIL I of 16 bits", lambda w, i: Image.fromarray(w.pixels[i][..., 0].astype(np.int32) * 257), TOLERANCE),
    ("PIL I;16", lambda w, i: Image.fromarray(w.pixels[i][..., 0].astype(np.uint16) * 257), TOLERANCE),
    ("PIL F", lambda w, i: Image.fromarray((w.pixels[i][..., 0] / 255).astype(np.float32)), TOLERANCE),
    ("array [h, w]", lambda w, i: w.pixels[i][..., 0], TOLERANCE),
    ("array [1, h, w]", lambda w, i: w.pixels[i][None, ..., 0], TOLERANCE),
    ("array [h, w, 1]", lambda w, i: w.pixels[i][..., :1], TOLERANCE),
    ("float [h, w]", lambda w, i: w.pixels[i][..., 0] / 255, TOLERANCE),
]
BAD: list[tuple[str, Callable[[World, int], Any]]] = [
    ("None", lambda w, i: None),
    ("NaN", lambda w, i: float("nan")),
    ("number", lambda w, i: 7),
    ("object", lambda w, i: object()),
    ("nested lists", lambda w, i: w.pixels[i].tolist()),
    ("missing", lambda w, i: w.folder / "missing.png"),
    ("empty path", lambda w, i: ""),
    ("folder", lambda w, i: w.folder),
    ("fifo", lambda w, i: w.folder / "fifo.png"),
    ("device", lambda w, i: "/dev/zero"),
    ("text", lambda w, i: w.folder / "text.png"),
    ("cut", lambda w, i: w.folder / "cut.png"),
    ("address", lambda w, i: "https://example.org/a.png"),
    ("no bytes", lambda w, i: b""),
    ("other bytes", lambda w, i: b"a dog on the beach"),
    ("text file", lambda w, i: io.StringIO("a")),
    ("mapping", lambda w, i: {"image": w.pixels[i]}),
    ("CLIP-normalised", lambda w, i: (w.pixels[i] / 255 - 0.45) / 0.27),
    ("-1..1", lambda w, i: w.pixels[i] / 127.5 - 1),
    ("floats of 0..255", lambda w, i: w.pixels[i].astype(np.float32)),
    ("NaN in it", lambda w, i: np.full((9, 9, 3), np.nan)),
    ("[3, h, 3]", lambda w, i: np.zeros((3, 20, 3), np.uint8)),
    ("[2, h, w]", lambda w, i: np.zeros((2, 20, 20), np.uint8)),
    ("a batch", lambda w, i: w.pixels[i][None]),
    ("no pixels", lambda w, i: np.zeros((0, 5, 3), np.uint8)),
    ("complex", lambda w, i: np.zeros((9, 9), np.complex64)),
    ("times", lambda w, i: np.zeros((9, 9), "datetime64[s]")),
    ("wide", lambda w, i: w.pixels[i].astype(np.int64) * 10**6),
]


def add_forms_of_torch() -> None:
    """PyTorch's tensors, where it is installed."""
    try:
        import torch
    except ImportError:
        return

    def tensor(world: World, i: int) -> Any:
        return torch.from_numpy(_first(world.pixels[i]))

    GOOD.extend(
        [
            ("tensor", tensor, TOLERANCE),
            ("tensor [h, w, 3]", lambda w, i: tensor(w, i).permute(1, 2, 0), TOLERANCE),
            ("float tensor", lambda w, i: tensor(w, i) / 255, TOLERANCE),
            ("tensor with gradient", lambda w, i: (tensor(w, i) / 255).requires_grad_(), TOLERANCE),
            ("half tensor", lambda w, i: (tensor(w, i) / 255).half(), LOSSY),
            ("bfloat16 tensor", lambda w, i: (tensor(w, i) / 255).bfloat16(), 3 * LOSSY),
        ]
    )
    BAD.append(("meta tensor", lambda w, i: torch.zeros(3, 9, 9, device="meta")))


# ---------------------------------------------------------------- containers
class Lazy:
    """Makes an item at each access."""

    def __init__(self, items: list[Callable[[], Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]()


def as_objects(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def _series(items: list[Any], rng: np.random.Generator) -> Any:
    try:
        import pandas
    except ImportError:
        return items
    return pandas.Series(
        as_objects(items), dtype=object, index=rng.permutation(len(items)) + int(rng.integers(5))
    )


def _reused(items: list[Callable[[], Any]]) -> Iterator[Any]:
    """Arrays and mappings in one buffer, images closed behind the reader's back."""
    buffer: Any = None
    row: dict[str, Any] = {}
    for make in items:
        item = make()
        if isinstance(item, np.ndarray) and item.dtype.kind in "uif":
            if buffer is None or buffer.shape != item.shape or buffer.dtype != item.dtype:
                buffer = item.copy()
            buffer[...] = item
            yield buffer
        elif isinstance(item, dict):
            row.clear()
            row.update(item)
            yield row
        else:
            yield item
            if isinstance(item, Image.Image):
                item.close()


def contained(kind: str, makers: list[Callable[[], Any]], rng: np.random.Generator) -> Any:
    """Images in a container."""
    if kind == "lazy":
        return Lazy(makers)
    if kind == "reused":
        return _reused(makers)
    if kind == "generator":
        return (make() for make in makers)
    items = [make() for make in makers]
    kinds: dict[str, Callable[[list[Any]], Any]] = {
        "list": list,
        "tuple": tuple,
        "deque": deque,
        "values": lambda x: dict(enumerate(x)).values(),
        "objects": as_objects,
        "Series": lambda x: _series(x, rng),
    }
    return kinds[kind](items)


CONTAINERS = ("list", "tuple", "deque", "values", "objects", "Series", "lazy", "generator", "reused")


def texts_in(kind: str, texts: list[Any], rng: np.random.Generator) -> Any:
    """Captions in a container."""
    if kind == "strings":  # a NumPy array of strings, where all are
        return np.array(texts) if all(isinstance(t, str) for t in texts) else texts
    if kind == "lazy":
        return Lazy([lambda t=t: t for t in texts])  # type: ignore[misc]
    return contained(kind, [lambda t=t: t for t in texts], rng)  # type: ignore[misc]
