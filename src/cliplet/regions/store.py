"""Boxes of many photos and the embeddings of their crops: computed once, kept small, resumed after a kill."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.data.ragged import Arrays, Ragged, kept_blocks
from cliplet.errors import InputError
from cliplet.regions.base import Ints, RegionProposer, Regions, clipped, whole_photo

EmbedCrops = Callable[[Sequence[Image.Image]], NDArray[np.float32]]
"""Crops to embeddings ``[n, d]``."""


@dataclass(frozen=True)
class RegionSettings:
    """Which of the proposed regions are kept."""

    proposer: str = "grid"
    """A detector.onnx, ``grid`` or ``grid:2,3``, a file of boxes, ``ultralytics:WEIGHTS`` or ``hf:OWNER/NAME``."""
    score: float = 0.3
    """Lowest score of a box."""
    iou: float = 0.45
    """Overlap above which the less sure of two boxes of one class is dropped."""
    most: int = 8
    """Boxes a photo at most, the surest first; 0 keeps all, as released."""
    smallest: float = 0.1
    """Least side of a box as a share of the photo's; smaller ones show too little."""
    whole: bool = True
    """Count the whole photo as the first region; the released code does not."""
    raw_crops: bool = False
    """Leave the crops without the tower's mean and deviation, as the released code does by oversight."""

    def choose(self, regions: Regions, image: Image.Image) -> Regions:
        """The regions to keep, the whole photo first where it counts."""
        boxes, _ = clipped(regions.boxes, image.width, image.height)
        sides = (boxes[:, 2:] - boxes[:, :2]) / np.array([image.width, image.height], dtype=np.float32)
        good = (sides >= self.smallest).all(axis=1)
        kept = Regions(boxes[good], regions.scores[good], regions.labels[good], regions.names)
        kept = kept.first(self.most) if self.most else kept
        if not self.whole:
            return kept
        return Regions(
            np.concatenate([whole_photo(image), kept.boxes]),
            np.append(np.float32(1), kept.scores),
            np.append(np.int64(-1), kept.labels),
            kept.names,
        )


@dataclass(frozen=True)
class StoredRegions:
    """Regions of all photos, one row a region."""

    boxes: NDArray[np.float16]
    """``[R, 4]``: left, top, right, bottom as shares of the photo's sides."""
    scores: NDArray[np.float16]
    """``[R]``."""
    labels: NDArray[np.int16]
    """``[R]``."""
    embeddings: NDArray[np.float16]
    """``[R, d]``."""
    starts: Ints
    """``[photos + 1]``: photo ``i`` has rows ``starts[i]`` to ``starts[i + 1]``."""
    failures: dict[int, str]
    """Photos that could not be read, with reasons; they have no regions."""

    def rows(self, photo: int) -> slice:
        """The rows of a photo."""
        return slice(int(self.starts[photo]), int(self.starts[photo + 1]))

    def padded(self, photos: Ints) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of some photos ``[B, N, d]`` and which rows are regions ``[B, N]``.

        A photo without regions has one zero vector, as released.
        """
        return Ragged(self.embeddings, self.starts).padded(photos)


def compute_regions(
    folder: Path,
    photos: Sequence[Any],
    names: Sequence[str],
    proposer: RegionProposer,
    settings: RegionSettings,
    embed: EmbedCrops,
    encoder_fingerprint: str,
    step: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> StoredRegions:
    """Regions of ``photos`` with their crops' embeddings; a second call, or one after a kill, reads what is there.

    Args:
        folder: where to keep them. Files of ``step`` photos each lie in a subfolder whose name depends on all that
            the numbers depend on.
        photos: paths, or photos in tars.
        names: what each photo is called.
        proposer: finds the boxes.
        settings: which of them to keep.
        embed: crops to embeddings ``[n, d]``.
        encoder_fingerprint: changes whenever ``embed`` would give other numbers.
        step: photos a file.
        progress: called with photos done and photos in all.
    """
    kept = [settings.most, settings.smallest, settings.whole, settings.raw_crops]
    key = json.dumps([proposer.name, encoder_fingerprint, kept, step, list(map(str, photos))])
    place = folder / f"regions-{hashlib.blake2b(key.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"

    def compute(start: int, stop: int) -> Arrays:
        return _compute(photos[start:stop], names[start:stop], proposer, settings, embed)

    blocks: dict[str, list[NDArray[Any]]] = {}
    failures: dict[int, str] = {}
    for number, arrays in enumerate(kept_blocks(place, len(photos), step, compute, progress)):
        failures |= {number * step + i: str(r) for i, r in enumerate(arrays.pop("reasons")) if r}
        for name, array in arrays.items():
            if name != "embeddings" or len(array):
                blocks.setdefault(name, []).append(array)
    if "counts" not in blocks:
        raise InputError("there are no photos to find regions on")
    whole = {name: np.concatenate(arrays) for name, arrays in blocks.items()}
    starts = np.concatenate([[0], np.cumsum(whole.pop("counts"))]).astype(np.int64)
    whole.setdefault("embeddings", np.zeros((0, 1), np.float16))
    return StoredRegions(**whole, starts=starts, failures=failures)


def _compute(
    photos: Sequence[Any],
    names: Sequence[str],
    proposer: RegionProposer,
    settings: RegionSettings,
    embed: EmbedCrops,
) -> Arrays:
    """The arrays of one file."""
    boxes, scores, labels, counts, crops, reasons = [], [], [], [], [], []
    for photo, name in zip(photos, names, strict=True):
        try:
            image = load_rgb(photo)
            found = settings.choose(proposer.propose(image, name), image)
        except InputError as error:
            counts.append(0)
            reasons.append(str(error))
            continue
        crops += found.crops(image)
        size = np.array([image.width, image.height] * 2, dtype=np.float32)
        boxes.append(found.boxes / size)
        scores.append(found.scores)
        labels.append(found.labels)
        counts.append(len(found))
        reasons.append("")
    return {
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *boxes]).astype(np.float16),
        "scores": np.concatenate([np.zeros(0, np.float32), *scores]).astype(np.float16),
        "labels": np.concatenate([np.zeros(0, np.int64), *labels]).astype(np.int16),
        "embeddings": (embed(crops) if crops else np.zeros((0, 0), np.float32)).astype(np.float16),
        "counts": np.array(counts, dtype=np.int64),
        "reasons": np.array(reasons, dtype=np.str_),
    }
