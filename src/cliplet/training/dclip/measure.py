"""What a DCLIP run measures of a model, a value a query: retrieval and zero-shot accuracy."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.base import unit_norm
from cliplet.evaluation.embed import embed_photos
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.zeroshot import class_ranks, read_class_names, read_labelled_photos
from cliplet.files import write_atomically
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.config import ZeroShotConfig
from cliplet.training.dclip.features import Features
from cliplet.training.dclip.student import encode_maps, encode_states
from cliplet.training.dclip.trainable import TrainableClip
from cliplet.training.pairs import PairSet
from cliplet.training.views import photo_source

Floats = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
T2I, I2T = "text-to-image", "image-to-text"
SHOWN = ("R@1", "R@5", "R@10", "mAP", "MRR")


class Gallery:
    """Photos and captions to be measured again and again while a model learns.

    What comes before the first learning parameter is kept, as in training.

    Args:
        name: what the set is called.
        pairs: photos and captions.
        model: the model; its current weights are measured.
        folder: where features are kept.
        learning: names of the parameters that learn.
        mode: how captions are read, see :func:`cliplet.training.dclip.student.text_mode`.
    """

    def __init__(
        self,
        name: str,
        pairs: PairSet,
        model: TrainableClip,
        folder: Path,
        learning: Sequence[str],
        mode: str,
    ) -> None:
        self.name, self.pairs, self.model, self.mode = name, pairs, model, mode
        self.features = Features(model, pairs, folder)
        kept = self.features.views(AugmentConfig(1), 0, learning)
        self.maps = None if kept is None else kept[0]
        self.first = model.early(learning)[1]
        self.kept_texts = self.features.texts() if mode == "frozen" and pairs.captions else None
        self.states = self.features.text_states() if mode == "head" and pairs.captions else None

    def images(self) -> Floats:
        """Embeddings of the photos ``[n, d]``."""
        self.model.model.eval()
        if self.maps is not None:
            return encode_maps(self.model, self.maps, self.first)
        photos: list[ImageInput | None] = [photo_source(p) for p in self.pairs.photos]
        return embed_photos(self.model.encoder, photos, self.pairs.names).embeddings

    def texts(self) -> Floats:
        """Embeddings of the captions ``[m, d]``."""
        self.model.model.eval()
        if self.kept_texts is not None:
            return self.kept_texts
        if self.states is not None:
            return encode_states(self.model, self.states)
        return self.model.encoder.encode_texts(self.pairs.captions)


def retrieval_columns(name: str, images: Floats, texts: Floats, photo_of: NDArray[np.int64]) -> Columns:
    """Per-query values of both directions over the whole gallery, and the photo that each query belongs to."""
    found: Columns = {}
    for direction in evaluate_retrieval(images, texts, photo_of, RetrievalProtocol(draws=0)):
        metrics = direction.folds[0]
        columns = metrics.columns()
        for metric in SHOWN:
            found[f"{name}|{direction.name}|{metric}"] = columns[metric].astype(np.float32)
        groups = metrics.queries if direction.name == I2T else photo_of[metrics.queries]
        found[f"{name}|{direction.name}|photo"] = groups.astype(np.int64)
    return found


class ClassGallery:
    """Labelled photos and the prompts of their classes, to be measured again and again."""

    def __init__(
        self, config: ZeroShotConfig, model: TrainableClip, folder: Path, learning: Sequence[str], mode: str
    ) -> None:
        names = read_class_names(Path(config.class_names)) if config.class_names else None
        data = read_labelled_photos(Path(config.photos), class_names=names, label_from=config.labels)
        present = [i for i, p in enumerate(data.photos) if p is not None]
        prompts = [t.replace("{}", c) for c in data.classes for t in config.templates]
        pairs = PairSet([data.names[i] for i in present], [data.photos[i] for i in present], prompts)
        self.labels = data.labels[present]
        self.shape = (len(data.classes), len(config.templates))
        self.gallery = Gallery("zero-shot", pairs, model, folder, learning, mode)

    def columns(self) -> Columns:
        """Whether each photo's class comes first, and among the first five."""
        prompts = self.gallery.texts()
        classes = unit_norm(prompts.reshape(*self.shape, -1).mean(axis=1))
        ranks, _ = class_ranks(self.gallery.images(), classes, self.labels)
        return {
            "zero-shot|top-1": (ranks == 1).astype(np.float32),
            "zero-shot|top-5": (ranks <= 5).astype(np.float32),
        }


def save_columns(file: Path, columns: Columns) -> None:
    """Write a run's per-query values; the file appears whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, **columns)  # type: ignore[arg-type]
    write_atomically(file, content.getvalue())


def load_columns(file: Path) -> Columns:
    """What :func:`save_columns` wrote."""
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)
