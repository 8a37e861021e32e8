"""The start of every arm: a dual encoder that knows things by name and has seen no pair of photo and caption."""

from functools import partial
from pathlib import Path

import numpy as np

from cliplet.data.book import read_book
from cliplet.files import whole
from cliplet.training.config import DataConfig
from cliplet.training.fit import fit_part
from cliplet.training.pairs import PairSet, read_pairs, readable
from dclip_flickr8k.lite_base import LiteBase

ANCHORING = 12.0


def make_start(folder: Path, captions: str, photos: str, kept: Path, accelerator: object) -> None:
    """Write the base ``lite0-minilm`` to a folder, unless it is there.

    EfficientNet-Lite0 and paraphrase-MiniLM-L3. Captions of photos that are not at hand shape the space of texts
    (those of one photo lie close); a ridge links the photo features to the names of the ImageNet classes, from the
    classifier's weights alone. Bare photos give the features' mean and deviation.

    Args:
        folder: for the model.
        captions: captions file of another collection.
        photos: photos of another collection.
        kept: for the photos' features.
        accelerator: as :func:`cliplet.training.fit.make_accelerator` makes it.
    """
    if folder.exists():
        return
    book = read_book([captions])
    texts = [caption for own in book.images.values() for caption in own]
    group = [i for i, own in enumerate(book.images.values()) for _ in own]
    bare = readable(read_pairs(DataConfig(photos=(photos,))))
    pairs = PairSet(bare.names, bare.photos, texts, np.array(group, dtype=np.int64))
    kept.mkdir(parents=True, exist_ok=True)
    with whole(folder) as part:
        LiteBase(anchoring=ANCHORING, names_only=True).make(pairs, part, kept, partial(fit_part, accelerator))
