"""What a region is, and who proposes them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Boxes on one photo, the surest first."""

    boxes: Floats
    """``[n, 4]``: left, top, right, bottom in pixels of the upright photo; each has at least one pixel."""
    scores: Floats
    """``[n]``, 0..1; 1 where nothing was scored."""
    labels: Ints
    """``[n]`` numbers into ``names``; -1 where there is no class."""
    names: tuple[str, ...] = field(default=(), repr=False)
    """What the classes are called."""

    def __len__(self) -> int:
        return len(self.boxes)

    def label(self, i: int) -> str:
        """The class of region ``i`` in words; empty where it has none."""
        number = int(self.labels[i])
        if number < 0:
            return ""
        return self.names[number] if number < len(self.names) else f"class {number}"

    def first(self, count: int) -> "Regions":
        """The ``count`` surest."""
        return Regions(self.boxes[:count], self.scores[:count], self.labels[:count], self.names)

    def crops(self, image: Image.Image) -> list[Image.Image]:
        """The part of the photo in each box; whole pixels, at least one each way."""
        found = []
        for left, top, right, bottom in self.boxes:
            x, y = min(int(left), image.width - 1), min(int(top), image.height - 1)
            x, y = max(0, x), max(0, y)
            found.append(
                image.crop(
                    (x, y, min(image.width, max(x + 1, round(float(right)))),
                     min(image.height, max(y + 1, round(float(bottom)))))
                )
            )  # fmt: skip
        return found


@runtime_checkable
class RegionProposer(Protocol):
    """Anything that finds regions on a photo."""

    @property
    def name(self) -> str:
        """Says what it is and how it is set; it changes whenever its boxes would, for what is kept on disk."""
        ...

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """Regions of an upright RGB photo; ``photo`` is what the photo is called (boxes from a file need it)."""
        ...


def whole_photo(image: Image.Image) -> Floats:
    """The box of the whole photo: ``[1, 4]``."""
    return np.array([[0, 0, image.width, image.height]], dtype=np.float32)


def clipped(
    boxes: Floats, width: int, height: int, smallest: float = 1.0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Boxes cut at the photo's edges, and which of them are still at least ``smallest`` pixels wide and high."""
    limit = np.array([width, height, width, height], dtype=np.float32)
    cut = np.minimum(np.maximum(boxes.astype(np.float32), 0), limit)
    sides = cut[:, 2:] - cut[:, :2]
    good = np.logical_and(np.isfinite(boxes).all(axis=1), (sides >= smallest).all(axis=1))
    return cut, good


def make_proposer(source: str, score: float = 0.3, iou: float = 0.45) -> RegionProposer:
    """A proposer by name.

    Args:
        source: ``grid`` or ``grid:1,2,3`` (levels); an ``.onnx`` detector; a ``.json``, ``.jsonl`` or ``.csv`` file
            of boxes; ``ultralytics:WEIGHTS`` (AGPL-3.0, see :mod:`cliplet.regions.ultralytics`); ``hf:owner/name`` or
            ``hf:FOLDER``, an object detector of Transformers.
        score: lowest score of a box.
        iou: overlap above which the less sure of two boxes of one class is dropped.

    Raises:
        InputError: nothing of that name.
        MissingExtraError: the library it needs is not installed.
    """
    from cliplet.regions.detector import OnnxDetector
    from cliplet.regions.file import FileRegions
    from cliplet.regions.grid import GridRegions

    if source == "grid" or source.startswith("grid:"):
        return GridRegions.parse(source.partition(":")[2])
    if source.startswith("ultralytics:"):
        from cliplet.regions.ultralytics import UltralyticsDetector

        return UltralyticsDetector.from_name(source.removeprefix("ultralytics:"), score, iou)
    if source.startswith("hf:"):
        from cliplet.regions.transformers import TransformersDetector

        return TransformersDetector.from_name(source.removeprefix("hf:"), score)
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        return OnnxDetector(path, score, iou)
    if path.suffix.lower() in (".json", ".jsonl", ".csv"):
        return FileRegions(path, score)
    raise InputError(
        f"no regions from {source!r}: give grid, grid:1,2,3, a detector.onnx, a .json, .jsonl or .csv file of boxes, "
        "ultralytics:WEIGHTS or hf:OWNER/NAME"
    )
