"""Zero-shot classification: how often the right class name is nearest to the photo.

Each class becomes one vector: every template filled with the class name is embedded, the unit vectors are averaged
and the mean scaled to length 1, as OpenAI's CLIP notebooks do (Radford et al. 2021, section 3.1.4). A photo's class is
the one with the largest cosine; an equal cosine of a wrong class counts against the model.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoStore
from cliplet.data.records import IMAGE_FIELDS
from cliplet.data.tables import column, leave_out, read_json, read_table
from cliplet.data.text import caption_problem, read_names
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.errors import InputError
from cliplet.evaluation.embed import Progress, embed_photos, embed_texts
from cliplet.statistics.kendall import Floats, Ints
from cliplet.statistics.resampling import Interval, bootstrap_mean

DEFAULT_TEMPLATES = ("a photo of a {}.",)
LabelFrom = Literal["auto", "folder", "name"]


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos with their classes."""

    names: list[str]
    """What each photo is called."""
    photos: list[ImageInput | None]
    """The photos, None where missing."""
    labels: Ints
    """[photos] class numbers."""
    classes: list[str]
    """Names of the classes."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a photo is missing, by name."""
    notes: Counter[str] = field(default_factory=Counter)
    """Rows left out, with counts."""


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


def tidy_class_name(name: str) -> str:
    """A class name from a folder or file: ``n01484850_great_white_shark`` becomes ``great white shark``."""
    return re.sub(r"[_\s]+", " ", re.sub(r"^n\d{8}[_\s-]+", "", name)).strip()


def read_class_names(path: Path) -> list[str]:
    """Class names, one a line (order gives the number), or a JSON list of names."""
    if path.suffix.lower() == ".json":
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InputError(f"{path}: expected a JSON list of class names")
        return names
    return read_names(path, "class names")


def read_templates(path: Path) -> tuple[str, ...]:
    """Prompt templates, one a line, with ``{}`` (or ``{c}``) where the class name goes."""
    lines = [line.replace("{c}", "{}") for line in read_names(path, "templates")]
    lines = [line for line in lines if not line.startswith("#")]
    for line in lines:
        if line.count("{}") != 1:
            raise InputError(f"{path}: template {line!r} must hold one {{}} for the class name")
    if not lines:
        raise InputError(f"{path}: holds no templates")
    return tuple(lines)


def _label_of(name: str, label_from: LabelFrom) -> str:
    path = PurePosixPath(name)
    if label_from == "folder" or (label_from == "auto" and len(path.parts) > 1):
        if len(path.parts) < 2:
            raise InputError(
                f"{name}: lies in no folder that could name its class; use labels from the file name"
            )
        return path.parts[-2]
    return re.sub(r"([_-]\d+)+$", "", path.stem) or path.stem


def read_labelled_photos(
    source: Path,
    images: Sequence[Path] = (),
    class_names: Sequence[str] | None = None,
    label_from: LabelFrom = "auto",
) -> LabelledPhotos:
    """Photos and their classes from a folder or tar (a folder a class, or the class in the file name) or a table.

    A table (.csv, .tsv, .jsonl, .parquet) has an image and a label column; its photos lie in ``images``. With
    ``class_names``, labels may be numbers into the list, or names in any spelling of it (case, underscores).
    """
    notes: Counter[str] = Counter()
    if source.is_dir() or source.suffix.lower() == ".tar":
        store = PhotoStore([source])
        names = store.names()
        labels = [_label_of(n, label_from) for n in names]
    else:
        rows = read_table(source, notes)
        image_at = column(rows, IMAGE_FIELDS, source, "image")
        label_at = column(
            rows, ("label", "class", "class_name", "classname", "category", "target"), source, "class"
        )
        given = ["" if (label := row.get(label_at)) is None else str(label) for row in rows]
        named = [caption_problem(label) is None for label in given]
        leave_out(
            notes,
            [f"{row.where}: it names no class" for row, good in zip(rows, named, strict=True) if not good],
        )
        names = [str(row.get(image_at)) for row in compress(rows, named)]
        labels = list(compress(given, named))
        store = PhotoStore(images or [source.parent])
    if not names:
        raise InputError(f"{source}: holds no photos")
    photos, missing = store.photos(names)
    classes, numbers = _class_numbers(labels, class_names, source)
    return LabelledPhotos(names, photos, numbers, classes, missing, notes)


def _class_numbers(
    labels: Sequence[str], class_names: Sequence[str] | None, source: Path
) -> tuple[list[str], Ints]:
    if class_names is None:
        keys = sorted(set(labels))
        place = {key: i for i, key in enumerate(keys)}
        return [tidy_class_name(k) for k in keys], np.array(
            [place[label] for label in labels], dtype=np.int64
        )
    place = {tidy_class_name(n).lower(): i for i, n in reversed(list(enumerate(class_names)))}
    folders = sorted(set(labels))
    by_order = len(folders) == len(class_names) and all(re.fullmatch(r"n\d{8}", f) for f in folders)
    numbers = []
    for label in labels:
        name = tidy_class_name(label).lower()
        if name in place:
            numbers.append(place[name])
        elif by_order:  # synset folders (n01440764, ...) in sorted order, as ImageNet's class lists are
            numbers.append(folders.index(label))
        elif label.isdecimal() and int(label) < len(class_names):
            numbers.append(int(label))
        else:
            raise InputError(f"{source}: class {label!r} is not among the {len(class_names)} class names")
    return list(class_names), np.array(numbers, dtype=np.int64)


def class_embeddings(
    encoder: Encoder, classes: Sequence[str], templates: Sequence[str], progress: Progress | None = None
) -> Embeddings:
    """[classes, d]: for each class the mean of its prompts' unit vectors, scaled to length 1."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = embed_texts(encoder, prompts, progress=progress).reshape(len(classes), len(templates), -1)
    means = vectors.mean(axis=1)  # [classes, d]
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def class_ranks(images: Embeddings, classes: Embeddings, labels: Ints) -> tuple[Ints, Ints]:
    """(rank of the right class with ties against the model, class that comes first) of each photo."""
    scores = images @ classes.T  # [photos, classes]
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
) -> ZeroShotResult:
    """Top-1, top-5 and mean-per-class accuracy of a model, with intervals from resampling photos."""
    classes = class_embeddings(encoder, data.classes, templates)
    photos = embed_photos(encoder, data.photos, data.names, progress, data.missing)
    labels = data.labels[photos.kept]
    ranks, predicted = class_ranks(photos.embeddings, classes, labels)
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
