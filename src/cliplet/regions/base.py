"""What a region is, and who proposes them."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
