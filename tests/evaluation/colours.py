"""A model that understands one thing, colour, so that tests know what it must answer; and photos for it."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.encoders.card import ModelCard, TextSpec

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 60, 220),
    "yellow": (230, 220, 40),
    "grey": (128, 128, 128),
}


class ColourEncoder:
    """Images are their mean colour, texts the mean of the colours they name; both less grey, unit norm."""

    def __init__(self, name="colours", prefix=""):
        self.card = ModelCard(
            name=name, embedding_dim=4, text=TextSpec(77, prefix), fingerprint_of=lambda: name
        )
        self.texts_seen = []

    def encode_images(self, images):
        return self._unit([np.asarray(load_rgb(i)).reshape(-1, 3).mean(axis=0) for i in images])

    def encode_texts(self, texts):
        self.texts_seen += texts
        named = [[COLOURS[w] for w in re.findall(r"\w+", t.lower()) if w in COLOURS] for t in texts]
        return self._unit([np.mean(n, axis=0) if n else (128, 128, 128) for n in named])

    @staticmethod
    def _unit(rows):
        rows = np.array(rows, dtype=np.float32).reshape(-1, 3) / 128 - 1
        rows = np.concatenate([rows, np.full((len(rows), 1), 0.2, dtype=np.float32)], axis=1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def jpeg(colour: str, shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), tuple(max(0, c - shade) for c in COLOURS[colour])).save(
        stream, "JPEG", quality=95
    )
    return stream.getvalue()


def write_photos(folder: Path, names: dict[str, str]) -> Path:
    """Photos ``{file name: colour}`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, colour) in enumerate(names.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(colour, i % 7))
    return folder
