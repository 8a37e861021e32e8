"""Regions without a detector: overlapping tiles at several scales."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cliplet.errors import InputError
from cliplet.regions.base import Regions


@dataclass(frozen=True)
class GridRegions:
    """``n x n`` tiles of each level ``n``; 1 is the whole photo."""

    levels: tuple[int, ...] = (2, 3)
    """Tiles a side, level by level."""
    overlap: float = 0.25
    """Share of a tile that it has in common with its neighbour, so that a thing on an edge is whole in one of them."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"grid levels {self.levels} must be 1 or more")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap={self.overlap} must be in 0..1, 1 excluded")

    @classmethod
    def parse(cls, text: str) -> "GridRegions":
        """``2,3`` as levels; nothing for the defaults."""
        if not text:
            return cls()
        try:
            return cls(tuple(int(n) for n in text.split(",")))
        except ValueError:
            raise InputError(f"grid:{text} is not a list of levels, such as grid:1,2,3") from None

    @property
    def name(self) -> str:
        """Levels and overlap."""
        return f"grid{'-'.join(map(str, self.levels))}-overlap{self.overlap}"

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """The tiles, level by level and row by row."""
        boxes = []
        for n in self.levels:
            side = 1 / (n - (n - 1) * self.overlap)  # n tiles with n - 1 overlaps fill the photo
            starts = np.arange(n) * side * (1 - self.overlap)
            boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
        scale = np.array([image.width, image.height] * 2, dtype=np.float32)
        found = np.minimum(np.array(boxes, dtype=np.float32), 1) * scale
        return Regions(found, np.ones(len(found), np.float32), np.full(len(found), -1, np.int64))
