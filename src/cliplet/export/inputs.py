"""What ``cliplet export`` reads: the source model, and photos and captions to compare on."""

from itertools import product
from pathlib import Path

from cliplet.data.captions import read_captions
from cliplet.data.images import ImageInput
from cliplet.data.photos import TarPhoto, open_photos
from cliplet.encoders.base import Encoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError, ModelError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.dual import WEIGHTS


def load_source(name: str) -> Encoder:
    """A model by name for export: of a folder with both forms, the PyTorch weights."""
    prepare_torchvision()
    if (Path(name) / WEIGHTS).is_file() and (Path(name) / "card.json").is_file():
        return load("torch:" + name)
    encoder = load(name)
    if (Path(name) / "card.json").is_file():
        raise ModelError(f"{name} holds ONNX files but no {WEIGHTS}: it is an export already")
    return encoder


def compared_photos(path: Path, limit: int) -> list[ImageInput]:
    """The first photos of a folder or tar, in order of names."""
    index = open_photos(path)
    found = [index.get(name) for name in index.names()[:limit]]
    if not found:
        raise InputError(f"{path} holds no photos")
    return [photo.read_bytes() if isinstance(photo, TarPhoto) else photo for photo in found]


def compared_captions(path: Path, limit: int) -> list[str]:
    """The first captions of a file."""
    found = [entry.caption for entry in read_captions(path, plain_lines=True) if entry.problem is None]
    if not found:
        raise InputError(f"{path} holds no captions")
    return found[:limit]


_WHO = (
    "a man",
    "two women",
    "a young girl",
    "a brown dog",
    "several people",
    "a black cat",
    "the child",
    "a red car",
)
_DOES = ("runs across", "sits near", "stands in front of", "is seen beside", "jumps over", "waits at")
_WHERE = (
    "a green field", "the beach", "an old stone building", "a busy street at night", "a small lake", "the snow",
    "a wooden table with food", "a white wall",
)  # fmt: skip


def plain_captions() -> list[str]:
    """Some hundred plain English captions, for a text tower whose owner has none to calibrate on."""
    return [" ".join(words) for words in product(_WHO, _DOES, _WHERE)]
