"""The photos to classify: from a file, a folder, a tar, a pattern, or a list at hand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.images import ImageInput, is_one_image
from cliplet.data.names import is_photo_path
from cliplet.data.photos import TARS, open_photos
from cliplet.data.sources import expand
from cliplet.encoders.base import Embeddings
from cliplet.errors import InputError


@dataclass
class FoundPhotos:
    """Photos and what they are called."""

    names: list[str] = field(default_factory=list)
    """Paths of files; ``shard.tar:member`` in a tar."""
    photos: list[ImageInput | None] = field(default_factory=list)
    """The photos, not yet read; None for one that cannot be meant."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a photo is None, by name."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know: damage of a tar, a folder that could not be listed."""


def find_photos(source: str | Path | Sequence[ImageInput]) -> FoundPhotos:
    """Photos of a file, folder, tar or pattern (``shots/*.jpg``, ``{000..003}.tar``), or those of a list.

    Raises:
        InputError: there is nothing there, or a file is neither a photo nor a tar.
    """
    if not isinstance(source, (str, Path)):
        return _at_hand(source)
    found = FoundPhotos()
    for path in expand(str(source)):
        if path.is_file() and is_photo_path(path.name):
            found.names.append(str(path))
            found.photos.append(path)
        elif path.is_dir() or path.name.lower().endswith(TARS):
            _add_index(path, found)
        elif path.exists():
            raise InputError(f"{path}: not a photo, a folder or a tar of photos")
        else:
            raise InputError(f"{path}: there is no such photo, folder or tar")
    if not found.names:
        raise InputError(f"{source}: holds no photos")
    return found


def _add_index(path: Path, found: FoundPhotos) -> None:
    index = open_photos(path)
    for name in index.names():
        shown = f"{path}:{name}" if path.is_file() else str(path / name)
        found.names.append(shown)
        try:
            found.photos.append(index.get(name))
        except InputError as error:
            found.photos.append(None)
            found.reasons[shown] = str(error)
    if index.damage:
        found.notes.append(f"{path}: {index.damage}")
    found.notes += [f"{folder}: {why}" for folder, why in getattr(index, "unread", {}).items()]


def _at_hand(photos: Sequence[ImageInput]) -> FoundPhotos:
    if is_one_image(photos):
        photos = [photos]  # type: ignore[list-item]
    if isinstance(photos, Mapping) or not isinstance(photos, Iterable):
        raise InputError(f"photos must be a path, a photo or a list of them, not {type(photos).__name__}")
    given = list(photos)  # an iterator gives its photos once
    shown = [str(p) if isinstance(p, (str, Path)) else f"photo {i + 1}" for i, p in enumerate(given)]
    return FoundPhotos(shown, [*given])


# ---------------------------------------------------------------- vectors in the place of photos
def are_vectors(photos: object, width: int) -> bool:
    """Whether this is an array of embeddings, not a photo: two axes, floats, as wide as the model's."""
    return (
        isinstance(photos, np.ndarray)
        and photos.ndim == 2
        and photos.dtype.kind == "f"
        and photos.shape[1] == width
    )


def of_length_1(vectors: Any) -> bool:
    """Whether all rows are finite and of length 1, to 1 %."""
    return bool(
        np.abs(np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=1) - 1).max(initial=0) < 0.01
    )


def given_vectors(given: Any) -> Embeddings:
    """Vectors that were given as photos; InputError where they are not of length 1, as cosines need them."""
    if not of_length_1(given):
        raise InputError(
            "the vectors are not all of length 1, or hold NaN: give them as the model's encode_images does"
        )
    return np.asarray(given, dtype=np.float32)
