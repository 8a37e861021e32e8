"""Labelled photos: from folders and tars (a folder a class, or the class in the file name) and from tables."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from cliplet.classification.texts import tidy_class_name
from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoStore
from cliplet.data.records import IMAGE_FIELDS
from cliplet.data.tables import column, leave_out, read_json, read_table
from cliplet.data.text import caption_problem, read_names
from cliplet.errors import InputError
from cliplet.statistics.kendall import Ints

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


def read_class_names(path: Path) -> list[str]:
    """Class names, one a line (order gives the number), or a JSON list of names."""
    if path.suffix.lower() == ".json":
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InputError(f"{path}: expected a JSON list of class names")
        return names
    return read_names(path, "class names")


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
