"""What a measure of ``benchmarks/packaged_model.py`` is, and the folder of data that it is measured on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cliplet.data.book import read_book
from cliplet.data.photos import PhotoStore
from cliplet.regions.base import Regions
from cliplet.regions.detector import OnnxDetector
from cliplet.statistics.resampling import bootstrap_mean

BARE = 400
"""The last COCO photos without captions, by name: kept out of training."""
LEAST = 3
"""Of five captions that must name a thing."""


@dataclass(frozen=True)
class Measure:
    """One number of one model.

    It keeps the answer to each question and the photo that it was asked about, so that two models can be compared
    question by question.
    """

    collection: str
    """What it was measured on."""
    name: str
    """What was measured."""
    value: float
    """The number; a share times 100."""
    low: float = float("nan")
    """Lower end of the 95 % interval, photos resampled; NaN for none."""
    high: float = float("nan")
    """Upper end of it."""
    asked: int = 0
    """Questions: queries, pairs, photos, ratings."""
    photos: int = 0
    """Photos of the collection that it rests on."""
    wins: NDArray[np.float64] | None = field(default=None, repr=False)
    """[asked] 1 for a question answered right, else 0; None for what is no share of them."""
    photo: NDArray[Any] | None = field(default=None, repr=False)
    """[asked] the photo that each was asked about."""
    digits: int = 1
    """Digits to show."""


@dataclass
class Remembered:
    """A detector that looks at each photo once."""

    detector: OnnxDetector
    seen: dict[str, Regions] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The detector's."""
        return self.detector.name

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """What the detector found on this photo, the first time that it was asked."""
        if photo not in self.seen:
            self.seen[photo] = self.detector.propose(image, photo)
        return self.seen[photo]


@dataclass
class Data:
    """The folder of data; a detector's findings are kept for the next model."""

    folder: Path

    @cached_property
    def detector(self) -> Remembered:
        """YOLOX-Nano."""
        return Remembered(OnnxDetector(self.folder / "yolox-nano" / "yolox_nano.onnx"))

    @cached_property
    def bare(self) -> PhotoStore:
        """The bare COCO photos kept out of training."""
        store = PhotoStore([self.folder / "coco-train2014-photos" / "photos.tar"])
        return PhotoStore(extra={name: store.get(name) for name in sorted(store.names())[-BARE:]})

    @cached_property
    def coco(self) -> PhotoStore:
        """The photos of coco-dev."""
        return PhotoStore([self.folder / "coco-dev" / "photos.tar"])

    @property
    def dev(self) -> dict[str, tuple[Path, Path, str | None]]:
        """Captions, photos and split of the two collections with captions."""
        flickr, coco = self.folder / "flickr8k", self.folder / "coco-dev"
        split = str(flickr / "split_dev.txt")
        return {
            "Flickr8k dev": (flickr / "Flickr8k.token.txt", flickr / "images_dev.tar", split),
            "coco-dev": (coco / "captions.json", coco / "photos.tar", None),
        }

    def captions(self, collection: str) -> dict[str, list[str]]:
        """The captions by photo, of the photos that are there."""
        file, photos, split = self.dev[collection]
        book = read_book([file])
        there = set(PhotoStore([photos]).names())
        kept = there if split is None else there & set(Path(split).read_text().split())
        return {name: list(own) for name, own in book.images.items() if name in kept}


def share(
    collection: str,
    name: str,
    wins: ArrayLike,
    photo: Sequence[Any] | NDArray[Any] | None = None,
    photos: int | None = None,
) -> Measure:
    """The share of questions answered right, times 100, with its interval by photo.

    Args:
        collection: what is measured on.
        name: what is measured.
        wins: [asked] 1 for a question answered right, else 0.
        photo: [asked] the photo of each; default: each its own.
        photos: how many there are, where more can be found than are asked about.
    """
    right = np.asarray(wins, dtype=np.float64)
    photo = np.arange(len(right)) if photo is None else np.asarray(photo)
    found = bootstrap_mean(right, photo)
    value, low, high = (100 * v for v in (found.value, found.low, found.high))
    return Measure(collection, name, value, low, high, found.n, photos or len(np.unique(photo)), right, photo)


def blind(collection: str, controls: Mapping[str, float], asked: Measure) -> Iterator[Measure]:
    """What guessers get that see no photo."""
    for name, value in controls.items():
        shown = name if name == "chance" else f"blind: {name}"
        yield Measure(
            collection, f"{asked.name} ({shown})", 100 * value, asked=asked.asked, photos=asked.photos
        )
