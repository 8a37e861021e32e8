"""What the reward benchmarks take from Flickr8k: splits, captions, photos of the dev split."""

import os
from collections.abc import Sequence
from pathlib import Path

from cliplet.data.images import ImageInput
from cliplet.data.photos import open_photos

DATA = Path(os.environ.get("CLIPLET_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def captions_of(split: str, limit: int | None = None) -> dict[str, list[str]]:
    """The five captions of each photo of ``train`` or ``dev``, in the split's order."""
    names = (DATA / "flickr8k" / f"split_{split}.txt").read_text().split()[:limit]
    captions: dict[str, list[str]] = {name: [] for name in names}
    for line in (DATA / "flickr8k" / "Flickr8k.token.txt").read_text().splitlines():
        key, caption = line.split("\t")
        if (name := key.split("#")[0]) in captions:
            captions[name].append(caption)
    return captions


def photos_of(split: str, names: Sequence[str]) -> dict[str, ImageInput]:
    """The photos themselves, read when they are needed."""
    index = open_photos(DATA / "flickr8k" / f"images_{split}.tar")
    return {name: index.find(name)[1] for name in names}
