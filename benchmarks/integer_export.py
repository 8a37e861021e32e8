"""What 8-bit products cost an exported model, by how their weights are rounded.

    python -m benchmarks.integer_export TRAIN_PHOTOS DEV_PHOTOS CAPTIONS

A base model (EfficientNet-Lite0 and MiniLM-L3, linked by a ridge regression on the first training photos; see
``recipes/dclip_flickr8k/lite_base.py``) is exported with weights in 8 bits, each rounded to the nearest integer, as
older folders have them; with 7 bits, rounded alike; and with 7 bits rounded together, as ``cliplet export`` writes
them. Printed is the cosine of each embedding to that of the model in fp32. It needs the recipe's pretrained parts.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes.dclip_flickr8k.lite_base import LiteBase

from cliplet.data.captions import read_captions
from cliplet.data.photos import open_photos
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.saturation import integer_products
from cliplet.encoders.torch import TorchEncoder
from cliplet.export import export, integers
from cliplet.export.narrow import narrow_weights
from cliplet.models.compat import prepare_torchvision
from cliplet.training.pairs import PairSet


def with_captions(photos: Path, captions: Path) -> PairSet:
    """A tar's or folder's photos, those with captions, in order of names."""
    index = open_photos(photos)
    found: dict[str, list[str]] = {}
    for entry in read_captions(captions):
        if entry.problem is None:
            found.setdefault(Path(str(entry.image)).name, []).append(entry.caption)
    names = [name for name in index.names() if Path(name).name in found]
    texts = [found[Path(name).name] for name in names]
    return PairSet(
        names, [index.get(name).read_bytes() for name in names], [c for some in texts for c in some],
        np.repeat(np.arange(len(names)), [len(some) for some in texts]),
    )  # fmt: skip


def alone(model: Any, operation: Any, _: Any) -> Any:
    """7-bit weights without a look at inputs."""
    return narrow_weights(model, operation, [])


FORMS = {
    "8 bits, nearest": lambda *_: {},
    "7 bits, nearest": alone,
    "7 bits, rounded together": narrow_weights,
}


def main() -> None:
    """Export in every form and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train", type=Path, help="folder or tar of training photos")
    parser.add_argument("dev", type=Path, help="folder or tar of other photos")
    parser.add_argument("captions", type=Path, help="captions of both")
    parser.add_argument("--limit", type=int, default=300, help="photos and captions to compare on")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folder of the last form there")
    wanted = parser.parse_args()
    prepare_torchvision()
    torch.set_num_threads(1)
    train, dev = with_captions(wanted.train, wanted.captions), with_captions(wanted.dev, wanted.captions)
    linked = train.keep(np.arange(len(train.photos)) < 1200)
    photos, captions = (
        dev.photos[: wanted.limit],
        [dev.captions[i] for i in np.unique(dev.photo_of, return_index=True)[1][: wanted.limit]],
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        out = wanted.keep or folder / "out"
        LiteBase(anchoring=1.0).make(linked, folder, folder, None)  # type: ignore[arg-type]
        source = TorchEncoder.from_folder(folder)
        right = source.encode_images(photos), source.encode_texts(captions)
        for name, rounded in FORMS.items():
            integers.narrow_weights = rounded
            export(
                source, out, photos=photos[:8], captions=captions[:8],
                calibration=train.photos[2000::32][:128], calibration_captions=train.captions[::14][:2048],
            )  # fmt: skip
            encoder = OnnxEncoder(out, threads=1)
            found = encoder.encode_images(photos), encoder.encode_texts(captions)
            report(name, found, right)
            print(f"{'':<26} integer products: {integer_products(encoder.folder)}", flush=True)


def report(name: str, found: tuple[Any, Any], right: tuple[Any, Any]) -> None:
    """Print the cosines of one form."""
    images, texts = ((a * b).sum(axis=1) for a, b in zip(found, right, strict=True))
    gaps = np.abs(found[0] @ found[1].T - right[0] @ right[1].T)
    print(f"{name:<26} photos: mean {images.mean():.5f}, least {images.min():.4f}; captions: mean {texts.mean():.5f}, "
          f"least {texts.min():.4f}; scores off by {gaps.mean():.4f} on average")  # fmt: skip


if __name__ == "__main__":
    main()
