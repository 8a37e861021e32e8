"""What the decoder is trained on: grid features of all photos, computed once and kept on disk, or pixels."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import resize_rgb
from cliplet.encoders.sessions import Session
from cliplet.export.frozen import frozen_graph
from cliplet.models.captioner_config import GridConfig
from cliplet.models.fingerprint import state_fingerprint
from cliplet.training.captioner.memory import RetrievedCaptions
from cliplet.training.captioner.towers import GridTower
from cliplet.training.computed import computed
from cliplet.training.config import AugmentConfig
from cliplet.training.pairs import fingerprint
from cliplet.training.views import photo_view

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
        image = photo_view(photo, CROPS, 0, number, view if view > 1 else 0)
        found.append(np.asarray(resize_rgb(image, config.size, config.resize, "bicubic")))
    pixels = np.stack(found)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if view == 1 else pixels


def kept_grids(
    tower: GridTower,
    photos: Sequence[Any],
    folder: Path,
    views: int = 1,
    own: Sequence[Sequence[str]] | None = None,
) -> list[NDArray[np.float16]]:
    """Grid features of every photo, memory-mapped: for each view (photo, mirror image, crops) fp16 ``[n, N, C]``.

    Args:
        tower: in evaluation mode.
        photos: where to read them.
        folder: of the files; their names hold a fingerprint of tower and photos, so that nothing old is taken.
        views: 1 is the photo itself, 2 also its mirror image, each one more a crop.
        own: the photos' own captions, in training: a tower that retrieves captions finds others than these.
    """
    name = state_fingerprint(tower, tower.config.size, tower.config.resize)
    session = cache(partial(grid_session, tower))
    body = tower.bodies[0]
    apart = body if own is not None and isinstance(body, RetrievedCaptions) else None
    name += "-apart" * (apart is not None)

    def compute(view: int, start: int, stop: int) -> NDArray[Any]:
        pixels = pixels_of(photos[start:stop], tower.config, view, start)
        if apart is not None and own is not None:
            return apart.apart(pixels, own[start:stop])
        return session().run(["grid"], {"pixels": pixels})[0]  # type: ignore[no-any-return]

    found = []
    for view in range(views):
        shown = VIEWS[view] if view < len(VIEWS) else f"crop{view - len(VIEWS) + 1}"
        file = folder / f"grid-{fingerprint(photos)}-{name}-{shown}.npy"
        what = f"image grids, view {view + 1} of {views}"
        found.append(computed(file, len(photos), partial(compute, view), BATCH, np.float16, what))
    return found


def grid_session(tower: GridTower) -> Session:
    """The tower as a session: on CPUs some three times as fast as PyTorch's."""
    from cliplet.training.captioner.export import write_tower

    return frozen_graph(partial(write_tower, tower))


def kept_pixels(photos: Sequence[Any], config: GridConfig, folder: Path) -> NDArray[np.uint8]:
    """Every photo's pixels, memory-mapped: uint8 ``[n, size, size, 3]``; for training the tower as well."""
    file = folder / f"pixels-{fingerprint(photos)}-{config.size}-{config.resize}.npy"
    return computed(
        file, len(photos), lambda a, b: pixels_of(photos[a:b], config), BATCH, np.uint8, "pixels of photos"
    )
