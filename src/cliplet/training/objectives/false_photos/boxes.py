"""Boxes of training photos with the names of their classes, found once and kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.regions.registry import make_proposer
from cliplet.regions.store import RegionSettings, StoredRegions, compute_regions
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet
from cliplet.training.processes import first_alone

SMALLEST = 0.04
"""Least side of a box that is looked at, as a share of the photo's: counts need small ones too."""


@dataclass(frozen=True)
class Found:
    """A thing on a photo."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom as shares of the photo's sides."""
    label: int
    """Its class."""
    score: float
    """How sure the detector is, 0..1."""

    @property
    def area(self) -> float:
        """Share of the photo."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True)
class Boxes:
    """What a detector found on the photos of a set."""

    names: tuple[str, ...]
    """Its classes; empty where it has none (a grid)."""
    photos: tuple[tuple[Found, ...], ...]
    """The things on each photo, the surest first."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Photos that could not be read, with reasons; they have no things, and stand for no false caption."""

    @classmethod
    def of(cls, stored: StoredRegions, names: Sequence[str]) -> "Boxes":
        """From stored regions; those without a class are left out.

        Args:
            stored: of every photo of the set.
            names: what the detector calls its classes.
        """
        found = []
        for photo in range(len(stored.starts) - 1):
            rows = stored.rows(photo)
            each = zip(stored.boxes[rows], stored.labels[rows], stored.scores[rows], strict=True)
            things = [
                Found((float(b[0]), float(b[1]), float(b[2]), float(b[3])), int(label), float(score))
                for b, label, score in each
                if 0 <= label < len(names)
            ]
            found.append(tuple(sorted(things, key=lambda thing: -thing.score)))
        return cls(tuple(names), tuple(found), stored.failures)

    @classmethod
    def none(cls, photos: int) -> "Boxes":
        """No boxes on any of so many photos."""
        return cls((), ((),) * photos)


def photo_boxes(pairs: PairSet, settings: RegionSettings, folder: Path) -> Boxes:
    """All boxes of a set's photos, computed once; small ones and all of a class, so that things can be counted.

    Args:
        pairs: the photos.
        settings: names the detector, and how sure it must be; the choice among boxes is another one here.
        folder: where to keep them; runs share it.

    Raises:
        InputError: no such detector, or no photo can be read.
    """
    settings = dataclasses.replace(settings, most=0, smallest=SMALLEST, whole=False)
    proposer = make_proposer(settings.proposer, settings.score, settings.iou)
    names = _class_names(proposer, pairs)
    if not names:
        return Boxes.none(len(pairs.photos))
    progress = Progress(f"boxes, {Path(settings.proposer).name}", len(pairs.photos)).done
    with first_alone():
        stored = compute_regions(
            folder, pairs.photos, pairs.names, proposer, settings, _no_embeddings, "boxes alone", progress=progress
        )  # fmt: skip
    return Boxes.of(stored, names)


def class_names(pairs: PairSet, settings: RegionSettings) -> tuple[str, ...]:
    """What the detector of a recipe calls its classes; none for a grid.

    Raises:
        InputError: no such detector, or no photo can be read.
    """
    return _class_names(make_proposer(settings.proposer, settings.score, settings.iou), pairs)


def _no_embeddings(crops: Sequence[Image.Image]) -> Any:
    return np.zeros((len(crops), 0), dtype=np.float32)


def _class_names(proposer: Any, pairs: PairSet) -> tuple[str, ...]:
    """What the classes of a detector are called, by asking it about a photo."""
    reason = "there are no photos"
    for photo, name in zip(pairs.photos, pairs.names, strict=True):
        try:
            return tuple(proposer.propose(load_rgb(photo), name).names)
        except InputError as error:
            reason = str(error)
    raise InputError(f"no boxes can be found: {reason}")
