"""What the decoder is trained on: grid features of all photos, computed once and kept on disk, or pixels."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.sessions import Session
from cliplet.export.frozen import frozen_graph
from cliplet.models.captioner_config import GridConfig
from cliplet.models.fingerprint import state_fingerprint
from cliplet.training.captioner.towers import GridTower
from cliplet.training.config import AugmentConfig
from cliplet.training.logs import Progress
from cliplet.training.pairs import fingerprint
from cliplet.training.views import photo_source, photo_view

VIEWS = ("photo", "mirrored")
"""The first views that are kept of a photo; what follows are crops."""
CROPS = AugmentConfig(smallest_crop=0.6)
"""Share of the photo's area in a crop; half of them are mirrored."""
BATCH = 16


def pixels_of(photos: Sequence[Any], config: GridConfig, view: int = 0, first: int = 0) -> NDArray[np.uint8]:
    """Photos as the tower takes them: uint8 ``[n, size, size, 3]``.

    Args:
        photos: where to read them.
        config: of the tower.
        view: 0 is the photo, 1 its mirror image, others are crops that depend on view and number alone.
        first: number of the first photo.
    """
    found = []
    for number, photo in enumerate(photos, first):
        image = photo_view(photo, CROPS, 0, number, view) if view > 1 else load_rgb(photo_source(photo))
        found.append(np.asarray(resize_rgb(image, config.size, config.resize, "bicubic")))
    pixels = np.stack(found)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if view == 1 else pixels


def kept_grids(
    tower: GridTower, photos: Sequence[Any], folder: Path, views: int = 1
) -> list[NDArray[np.float16]]:
    """Grid features of every photo, memory-mapped: for each view (photo, mirror image, crops) fp16 ``[n, N, C]``.

    Args:
        tower: in evaluation mode.
        photos: where to read them.
        folder: of the files; their names hold a fingerprint of tower and photos, so that nothing old is taken.
        views: 1 is the photo itself, 2 also its mirror image, each one more a crop.
    """
    name = state_fingerprint(tower, tower.config.size, tower.config.resize)
    session: list[Any] = []

    def compute(view: int, start: int, stop: int) -> NDArray[Any]:
        if not session:
            session.append(grid_session(tower))
        pixels = pixels_of(photos[start:stop], tower.config, view, start)
        return session[0].run(["grid"], {"pixels": pixels})[0]  # type: ignore[no-any-return]

    found = []
    for view in range(views):
        shown = VIEWS[view] if view < len(VIEWS) else f"crop{view - len(VIEWS) + 1}"
        file = folder / f"grid-{fingerprint(photos)}-{name}-{shown}.npy"
        found.append(kept_array(file, len(photos), np.float16, partial(compute, view)))
    return found


def grid_session(tower: GridTower) -> Session:
    """The tower as a session: on CPUs some three times as fast as PyTorch's."""
    from cliplet.training.captioner.export import write_tower

    return frozen_graph(partial(write_tower, tower))


def kept_pixels(photos: Sequence[Any], config: GridConfig, folder: Path) -> NDArray[np.uint8]:
    """Every photo's pixels, memory-mapped: uint8 ``[n, size, size, 3]``; for training the tower as well."""
    file = folder / f"pixels-{fingerprint(photos)}-{config.size}-{config.resize}.npy"
    return kept_array(file, len(photos), np.uint8, lambda start, stop: pixels_of(photos[start:stop], config))


def kept_array(
    file: Path, rows: int, dtype: Any, compute: Callable[[int, int], NDArray[Any]]
) -> NDArray[Any]:
    """An array ``[rows, ...]`` that is computed block by block once, then opened as a memory map."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        out: Any = None
        bar = Progress(file.stem, rows)
        try:
            for start in range(0, rows, BATCH):
                block = compute(start, min(start + BATCH, rows))
                if out is None:
                    out = np.lib.format.open_memmap(part, "w+", dtype, (rows, *block.shape[1:]))
                out[start : start + len(block)] = block
                bar.update(start + len(block))
            out.flush()
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]
