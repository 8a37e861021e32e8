"""Zero-shot classification: how often the right class name is nearest to the photo.

Each class becomes one vector: every template filled with the class name is embedded, the unit vectors are averaged
and the mean scaled to length 1, as OpenAI's CLIP notebooks do (Radford et al. 2021, section 3.1.4). A photo's class is
the one with the largest cosine; an equal cosine of a wrong class counts against the model. More class texts, and their
rule, are those of :class:`~cliplet.classification.classifier.Classifier`, which is what classifies here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.classifier import Classifier
from cliplet.classification.ensemble import DEFAULT_TEMPLATES
from cliplet.classification.labelled import LabelledPhotos
from cliplet.classification.texts import ClassTexts
from cliplet.encoders.base import Encoder
from cliplet.encoders.embed import Progress, embed_photos
from cliplet.statistics.kendall import Floats, Ints
from cliplet.statistics.resampling import Interval, bootstrap_mean


@dataclass(frozen=True)
class ZeroShotResult:
    """Accuracies of one model."""

    top1: Interval
    """Share of photos whose class comes first."""
    top5: Interval
    """Share of photos whose class is among the first five."""
    mean_per_class: Interval
    """Mean over classes of their top-1 accuracy; the interval resamples classes."""
    per_class: list[tuple[str, float]]
    """(class name, top-1 accuracy), classes without photos left out."""
    ranks: Ints
    """[photos used] rank of the right class, 1 = first."""
    kept: Ints
    """[photos used] which of the given photos they are."""
    predicted: Ints
    """[photos used] class that came first."""
    failures: dict[int, str]
    """Photos that could not be used, with reasons."""


def class_ranks(scores: NDArray[np.floating], labels: Ints) -> tuple[Ints, Ints]:
    """(rank of the right class with ties against the model, class that comes first) of each row [photos, C]."""
    own = scores[np.arange(len(labels)), labels]
    ranks = (scores >= own[:, None]).sum(axis=1)
    return ranks.astype(np.int64), scores.argmax(axis=1).astype(np.int64)


def evaluate_zeroshot(
    encoder: Encoder,
    data: LabelledPhotos,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    classifier: Classifier | None = None,
) -> ZeroShotResult:
    """Top-1, top-5 and mean-per-class accuracy of a model, with intervals from resampling photos.

    ``classifier``: one for ``data.classes`` by this model; default: their names in the templates.
    """
    if classifier is None:
        named = [ClassTexts(name) for name in data.classes]
        classifier = Classifier(named, encoder, templates=templates, cache=False)
    photos = embed_photos(encoder, data.photos, data.names, progress, data.missing)
    labels = data.labels[photos.kept]
    ranks, predicted = class_ranks(classifier.scores(photos.embeddings), labels)
    right = (ranks == 1).astype(np.float64)
    per_class = [(data.classes[c], float(right[labels == c].mean())) for c in np.unique(labels)]
    return ZeroShotResult(
        top1=bootstrap_mean(right, resamples=resamples, seed=seed),
        top5=bootstrap_mean((ranks <= 5).astype(np.float64), resamples=resamples, seed=seed),
        mean_per_class=_mean_per_class(right, labels, resamples, seed),
        per_class=per_class,
        ranks=ranks,
        kept=photos.kept,
        predicted=predicted,
        failures=photos.failures,
    )


def _mean_per_class(right: Floats, labels: Ints, resamples: int, seed: int) -> Interval:
    """Mean over classes; the interval resamples classes (photos within a class are few and alike)."""
    sums, counts = np.bincount(labels, right), np.bincount(labels)
    means = sums[counts > 0] / counts[counts > 0]
    interval = bootstrap_mean(means, resamples=resamples, seed=seed)
    return Interval(interval.value, interval.low, interval.high, len(right))


def share_kept(result: ZeroShotResult, other: ZeroShotResult) -> dict[str, float]:
    """How much of another model's accuracy this one keeps, ``accuracy / other's`` for each measure."""
    pairs = {"top-1": (result.top1, other.top1), "top-5": (result.top5, other.top5)}
    pairs["mean per class"] = (result.mean_per_class, other.mean_per_class)
    return {name: a.value / b.value if b.value else float("nan") for name, (a, b) in pairs.items()}
