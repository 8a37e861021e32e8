"""Boxes of training photos with the phrases of their captions that name them, and their place on a tower's input."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.encoders.base import unit_norm
from cliplet.encoders.card import ImageSpec
from cliplet.errors import InputError
from cliplet.regions.base import RegionProposer
from cliplet.regions.phrases import NamedBox, name_boxes
from cliplet.regions.registry import make_proposer
from cliplet.regions.store import RegionSettings, compute_regions
from cliplet.training.dclip.inputs import Floats, Ints, Learner, Photos
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet
from cliplet.training.processes import first_alone, say

SEEN = 0.5
"""Share of a box that the tower's input must show."""
SAMPLE = 64
"""Photos that are looked at to say what a data set offers."""


@dataclass(frozen=True)
class BoxPhrases:
    """What a set of photos offers."""

    named: list[tuple[int, NamedBox]]
    """The photo's row and a box (shares of the photo's sides) with a phrase that names it."""
    photos: int
    """Photos that were looked at."""
    boxes: int
    """Boxes with a class on them."""
    classes: Counter[str]
    """Pairs of box and phrase by class."""

    def told(self) -> str:
        """The counts in words."""
        own = len({photo for photo, _ in self.named})
        boxes = len({(photo, named.box) for photo, named in self.named})
        some = ", ".join(f"{name} {count:,}" for name, count in self.classes.most_common(4))
        return (
            f"{self.photos:,} photos with captions, {self.boxes:,} boxes with a class; {boxes:,} boxes on {own:,} "
            f"photos are named by {len(self.named):,} phrases" + (f" ({some})" if some else "")
        )


def find_phrases(pairs: PairSet, settings: RegionSettings, folder: Path) -> BoxPhrases:
    """The boxes of a set's photos that their captions name. Boxes are computed once and kept.

    Whether a photo has one dog or two is judged by all boxes above ``regions.score``; a box with a side below
    ``regions.smallest`` gets no phrase.

    Args:
        pairs: photos and captions; photos without captions are left out.
        settings: the recipe's ``regions``; ``most``, ``whole`` and ``raw_crops`` are not used.
        folder: where to keep boxes.

    Raises:
        InputError: the proposer gives no classes.
    """
    rows = [i for i, own in enumerate(pairs.captions_of()) if len(own)]
    proposer = make_proposer(settings.proposer, settings.score, settings.iou)
    names = class_names(proposer, [pairs.photos[i] for i in rows], [pairs.names[i] for i in rows])
    every = replace(settings, most=0, smallest=0.0, whole=False, raw_crops=False)
    with first_alone():
        stored = compute_regions(
            folder, [pairs.photos[i] for i in rows], [pairs.names[i] for i in rows], proposer, every,
            lambda crops: np.zeros((len(crops), 1), np.float32), "boxes alone",
            progress=Progress(f"boxes, {settings.proposer.rsplit('/', 1)[-1]}", len(rows)).done,
        )  # fmt: skip
    if stored.failures:
        say(f"{len(stored.failures)} photos have no boxes: {next(iter(stored.failures.values()))}")
    boxes = [
        (
            stored.boxes[stored.rows(n)].astype(np.float32),
            [_name(names, k) for k in stored.labels[stored.rows(n)]],
        )
        for n in range(len(rows))
    ]
    return _named(pairs, rows, boxes, settings.smallest)


def sample_phrases(pairs: PairSet, settings: RegionSettings, photos: int = SAMPLE) -> BoxPhrases:
    """The same of a few photos, spread over the set; nothing is kept.

    Raises:
        InputError: the proposer gives no classes, or there is no such proposer.
    """
    captioned = [i for i, own in enumerate(pairs.captions_of()) if len(own)]
    rows = captioned[:: max(1, len(captioned) // photos)][:photos]
    proposer = make_proposer(settings.proposer, settings.score, settings.iou)
    names = class_names(proposer, [pairs.photos[i] for i in rows], [pairs.names[i] for i in rows])
    boxes, kept = [], []
    for row in rows:
        try:
            image = load_rgb(pairs.photos[row])
        except InputError:
            continue
        found = proposer.propose(image, pairs.names[row])
        size = np.array([image.width, image.height] * 2, dtype=np.float32)
        boxes.append((found.boxes / size, [_name(names, k) for k in found.labels]))
        kept.append(row)
    return _named(pairs, kept, boxes, settings.smallest)


def class_names(proposer: RegionProposer, photos: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """What a proposer's classes are called.

    Raises:
        InputError: it has no classes.
    """
    for photo, name in zip(photos, names, strict=True):
        try:
            found = proposer.propose(load_rgb(photo), name).names
        except InputError:
            continue
        if found:
            return found
        break
    raise InputError(
        f"regions.proposer: {proposer.name} gives boxes without classes, so no phrase can be found for them; name a "
        "detector, such as regions.proposer=yolox_nano.onnx, or a file of boxes with labels"
    )


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else ""


def _named(
    pairs: PairSet, rows: Sequence[int], boxes: Sequence[tuple[Floats, list[str]]], smallest: float
) -> BoxPhrases:
    captions_of, found = pairs.captions_of(), []
    for row, (own, labels) in zip(rows, boxes, strict=True):
        captions = [pairs.captions[c] for c in captions_of[row]]
        for named in name_boxes(captions, own, labels):
            left, top, right, bottom = named.box
            if min(right - left, bottom - top) >= smallest:
                found.append((row, named))
    total = sum(label != "" for _, labels in boxes for label in labels)
    return BoxPhrases(found, len(rows), total, Counter(named.label for _, named in found))


def on_input(boxes: Floats, sizes: NDArray[np.int64], spec: ImageSpec) -> tuple[Floats, NDArray[np.bool_]]:
    """Boxes on photos as boxes on the tower's input.

    Args:
        boxes: ``[n, 4]``: left, top, right, bottom as shares of the photo's sides.
        sizes: width and height of each box's photo ``[n, 2]``.
        spec: how photos become the input.

    Returns:
        Shares of the input's sides ``[n, 4]``, and which boxes it shows by half at least ``[n]``.
    """
    if spec.resize == "squash":
        return boxes, np.ones(len(boxes), dtype=bool)
    shown = sizes.min(axis=1, keepdims=True) / sizes  # [n, 2]: share of each side that the centre crop keeps
    first = (1 - shown) / 2
    moved = (boxes - np.tile(first, 2)) / np.tile(shown, 2)
    cut = moved.clip(0, 1)
    area, left = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (moved, cut))
    return cut.astype(np.float32), left >= SEEN * area


def photo_sizes(photos: Sequence[Any], rows: Ints) -> NDArray[np.int64]:
    """Width and height of some photos ``[n, 2]``, each read once."""
    known: dict[int, tuple[int, int]] = {}
    for row in rows.tolist():
        if row not in known:
            image: Image.Image = load_rgb(photos[row])
            known[row] = (image.width, image.height)
    return np.array([known[row] for row in rows.tolist()], dtype=np.int64).reshape(-1, 2)


def placed(
    named: Sequence[tuple[int, NamedBox]], photos: Sequence[Any], spec: ImageSpec
) -> tuple[Floats, NDArray[np.bool_]]:
    """:func:`on_input` for named boxes; photos are read where their size matters."""
    boxes = np.array([one.box for _, one in named], dtype=np.float32).reshape(-1, 4)
    rows = np.array([row for row, _ in named], dtype=np.int64)
    sizes = np.ones((len(rows), 2), np.int64) if spec.resize == "squash" else photo_sizes(photos, rows)
    return on_input(boxes, sizes, spec)


@torch.inference_mode()
def embed_boxes(learner: Learner, photos: Photos, rows: Ints, boxes: Floats, step: int = 32) -> Floats:
    """Embeddings of boxes by the present weights ``[n, d]``, unit norm.

    Args:
        learner: the model.
        photos: as it reads them.
        rows: the photo of each box ``[n]``.
        boxes: on the tower's input, as :func:`placed` gives them ``[n, 4]``.
        step: photos computed together.

    Raises:
        InputError: its image tower has no maps.
    """
    distinct, owner = np.unique(rows, return_inverse=True)
    found: Floats = np.zeros((len(rows), 0), np.float32)
    for start in range(0, len(distinct), step):
        some = distinct[start : start + step]
        columns = {k: v.to(learner.clip.device) for k, v in photos.batch(some, np.zeros_like(some)).items()}
        own = np.flatnonzero((owner >= start) & (owner < start + len(some)))
        place = torch.from_numpy(owner[own] - start).to(learner.clip.device)
        block = learner.encode_regions(columns, place, torch.from_numpy(boxes[own]).to(learner.clip.device))
        if not found.shape[1]:
            found = np.zeros((len(rows), block.shape[1]), np.float32)
        found[own] = block.cpu().numpy()
    return unit_norm(found)
