"""Where a phrase is found in a photo: patches are greyed out one by one and the phrase's cosine is watched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GRID = 7
"""Places a side at which a patch is put."""
SHARES = (0.2, 0.36)
"""Sides of the square patches, as shares of the photo's."""
LONGEST = 448
"""Photos are made this small before they are covered; towers take less."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """Where a phrase is found."""

    map: Map
    """``[GRID, GRID]``, rows from the top: how much the phrase's score falls, in the score's unit, when the photo is
    covered there."""
    x: float
    """Middle of the place where it falls most, as a share of the photo's width, 0..1."""
    y: float
    """Likewise of the height."""
    fall: float
    """How much it falls there."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the cells that hold at least half of the largest fall round the peak, 0..1."""
        row, column = np.unravel_index(int(self.map.argmax()), self.map.shape)
        high = self.map >= 0.5 * self.map.max()
        reached = np.zeros_like(high)
        edge = [(int(row), int(column))]
        while edge:
            r, c = edge.pop()
            if 0 <= r < high.shape[0] and 0 <= c < high.shape[1] and high[r, c] and not reached[r, c]:
                reached[r, c] = True
                edge += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
        n = self.map.shape[0]
        if not len(rows):
            return self.x, self.y, self.x, self.y
        return tuple(float(v) / n for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))  # type: ignore[return-value]


def covered(photo: Image.Image) -> list[Image.Image]:
    """The photo with a patch blurred away at each place of the grid, patch size by patch size, row by row.

    Returns:
        ``len(SHARES) * GRID * GRID`` RGB images of one size, the long side at most LONGEST.
    """
    small = photo.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
    width, height = small.size
    blurred = small.filter(ImageFilter.GaussianBlur(max(width, height) / 10))
    found = []
    for share in SHARES:
        for row in range(GRID):
            for column in range(GRID):
                box = _patch(row, column, share, width, height)
                copy = small.copy()
                copy.paste(blurred.crop(box), box[:2])
                found.append(copy)
    return found


def _patch(row: int, column: int, share: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the patch round the middle of a cell, cut at the edges."""
    x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
    sides = (x - share / 2, y - share / 2, x + share / 2, y + share / 2)
    left, top, right, bottom = (min(max(s, 0.0), 1.0) for s in sides)
    return (
        round(left * width),
        round(top * height),
        max(round(left * width) + 1, round(right * width)),
        max(round(top * height) + 1, round(bottom * height)),
    )


def region(falls: Map) -> Region | None:
    """The region of a phrase from how much its score falls under each patch ``[len(SHARES) * GRID * GRID]``.

    The sizes' maps are each divided by their spread and averaged, and the mean is put back in the score's unit. None
    where nothing falls.
    """
    maps = np.asarray(falls, dtype=np.float32).reshape(len(SHARES), GRID, GRID)
    spread = maps.std(axis=(1, 2), keepdims=True)
    if not np.isfinite(maps).all() or not spread.any():
        return None
    mean: Map = (maps / np.maximum(spread, 1e-9)).mean(axis=0) * spread.mean()
    if mean.max() <= 0:
        return None
    row, column = np.unravel_index(int(mean.argmax()), mean.shape)
    return Region(mean, (float(column) + 0.5) / GRID, (float(row) + 0.5) / GRID, float(mean.max()))


def falls(whole: float, cosines: Sequence[float]) -> Map:
    """How much lower each covered photo's cosine is than the whole photo's ``[n]``."""
    return np.float32(whole) - np.asarray(cosines, dtype=np.float32)
