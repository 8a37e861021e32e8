"""What a DCLIP run measures of a model, a value a query: retrieval and zero-shot accuracy."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.zeroshot import class_ranks, read_class_names, read_labelled_photos
from cliplet.files import write_atomically
from cliplet.training.dclip.config import ZeroShotConfig
from cliplet.training.dclip.inputs import Captions, Floats, Learner, Photos
from cliplet.training.pairs import PairSet

Columns = dict[str, NDArray[Any]]
T2I, I2T = "text-to-image", "image-to-text"
SHOWN = ("R@1", "R@5", "R@10", "mAP", "MRR")


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


class Gallery:
    """Photos and captions to be measured again and again while a model learns.

    Args:
        learner: the model; its current weights are measured.
        pairs: photos and captions.
        folder: where is kept what comes before the first learning parameter, as in training.
    """

    def __init__(self, learner: Learner, pairs: PairSet, folder: Path) -> None:
        self.learner, self.pairs = learner, pairs
        self.photos = Photos.compute(learner, pairs.photos, folder)
        self.captions = Captions(learner, pairs.captions, folder)

    def embeddings(self) -> tuple[Floats, Floats]:
        """Of the photos ``[n, d]`` and of the captions ``[m, d]``."""
        self.learner.clip.model.eval()
        return self.photos.embeddings(), self.captions.embeddings()


class ClassGallery:
    """Labelled photos and the prompts of their classes, to be measured again and again."""

    def __init__(self, learner: Learner, config: ZeroShotConfig, folder: Path) -> None:
        names = read_class_names(Path(config.class_names)) if config.class_names else None
        data = read_labelled_photos(Path(config.photos), class_names=names, label_from=config.labels)
        present = [i for i, p in enumerate(data.photos) if p is not None]
        prompts = [t.replace("{}", c) for c in data.classes for t in config.templates]
        pairs = PairSet([data.names[i] for i in present], [data.photos[i] for i in present], prompts)
        self.labels = data.labels[present]
        self.shape = (len(data.classes), len(config.templates))
        self.gallery = Gallery(learner, pairs, folder)

    def columns(self) -> Columns:
        """Whether each photo's class comes first, and among the first five."""
        photos, prompts = self.gallery.embeddings()
        classes = unit_norm(prompts.reshape(*self.shape, -1).mean(axis=1))
        ranks, _ = class_ranks(photos, classes, self.labels)
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
