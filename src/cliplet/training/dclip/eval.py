"""What a DCLIP run measures, and the table that compares it with its base model and its controls."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.base import unit_norm
from cliplet.evaluation.embed import embed_photos
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.zeroshot import class_ranks, read_class_names, read_labelled_photos
from cliplet.statistics.resampling import Interval, PairedTest, bootstrap_mean, paired_mean_test
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.config import ZeroShotConfig
from cliplet.training.dclip.features import Features
from cliplet.training.dclip.student import encode_maps, encode_states
from cliplet.training.dclip.tunable import Tunable
from cliplet.training.pairs import PairSet
from cliplet.training.views import photo_source

Floats = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
T2I, I2T = "text-to-image", "image-to-text"
SOUP = ", seeds averaged"
"""End of the name of a row whose model has the mean of all seeds' weights; it is compared with its like."""
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
        self, name: str, pairs: PairSet, model: Tunable, folder: Path, learning: Sequence[str], mode: str
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
    for direction in evaluate_retrieval(images, texts, photo_of, RetrievalProtocol(resamples=0)):
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
        self, config: ZeroShotConfig, model: Tunable, folder: Path, learning: Sequence[str], mode: str
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
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, **columns)  # type: ignore[arg-type]
    os.replace(part, file)


def load_columns(file: Path) -> Columns:
    """What :func:`save_columns` wrote."""
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, mean over seeds."""

    name: str
    """The base model, ``dclip`` or a control."""
    seeds: int
    """Runs."""
    values: dict[str, Interval]
    """``SET|DIRECTION|METRIC`` and ``zero-shot|top-1`` to the mean over seeds with its interval, in 0..1."""
    against: dict[str, PairedTest] = field(default_factory=dict)
    """The difference of the run in question (``main``) minus this row, paired by photo."""


def _mean_columns(runs: Sequence[Columns]) -> Columns:
    """Per-query means over seeds."""
    return {k: np.mean([r[k] for r in runs], axis=0) for k in runs[0] if not k.endswith("|photo")}


def _groups(columns: Columns, key: str) -> NDArray[Any] | None:
    return columns.get(key.rsplit("|", 1)[0] + "|photo")


def make_rows(
    results: Mapping[str, Sequence[Columns]], draws: int = 1000, seed: int = 0, main: str = "dclip"
) -> list[Row]:
    """Every model's values with intervals, and how far ``main`` is from it.

    The per-query values of a model's seeds are averaged first, then photos are resampled: the intervals say what other
    photos would change, not what other seeds would; the table prints the spread of the seeds beside them.

    Args:
        results: for each model, one :data:`Columns` a seed.
        draws: bootstrap draws.
        seed: of the bootstrap.
        main: the model that the others are compared with.
    """
    means = {name: _mean_columns(runs) for name, runs in results.items()}
    rows = []
    for name, runs in results.items():
        values = {
            key: bootstrap_mean(column, _groups(runs[0], key), draws, seed=seed)
            for key, column in means[name].items()
        }
        against: dict[str, PairedTest] = {}
        twin = main + SOUP if name.endswith(SOUP) else main
        if name != twin and twin in means:
            for key, column in means[name].items():
                other = means[twin].get(key)
                if other is not None:
                    groups = _groups(runs[0], key)
                    against[key] = paired_mean_test(other, column, groups, draws, seed=seed)
        rows.append(Row(name, len(runs), values, against))
    return rows


def seed_spread(runs: Sequence[Columns], key: str) -> float:
    """Standard deviation of a value over seeds, in points of 100."""
    return float(np.std([100 * r[key].mean() for r in runs], ddof=1)) if len(runs) > 1 else float("nan")


def table_text(
    results: Mapping[str, Sequence[Columns]], sets: Sequence[str], draws: int = 1000, main: str = "dclip"
) -> str:
    """The comparison as Markdown: a table of values and one of differences for each set, in points of 100.

    ``MRR`` (mean reciprocal rank of the best positive) is what the released code prints as "MAP"; ``mAP`` is mean
    average precision. From text to image a caption has one photo, so both are the same there.
    """
    rows = make_rows(results, draws, main=main)
    lines: list[str] = []
    for name in sets:
        lines += [f"**{name}**", ""]
        head = [
            "",
            "T2I R@1",
            "R@5",
            "R@10",
            "mAP",
            "I2T R@1",
            "R@5",
            "R@10",
            "mAP",
            "MRR",
            "zero-shot",
            "kept",
        ]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        base = next((r for r in rows if r.name == "base"), None)
        lines += [_value_line(row, name, results[row.name], base) for row in rows]
        lines += [
            "",
            f"| {main} minus | T2I R@1 | T2I mAP | I2T R@1 | I2T mAP | zero-shot |",
            "|" + "---|" * 6,
        ]
        lines += [_difference_line(row, name) for row in rows if row.against]
        lines.append("")
    return "\n".join(lines)


def _value_line(row: Row, name: str, runs: Sequence[Columns], base: Row | None) -> str:
    cells = [row.name]
    for direction, metrics in ((T2I, SHOWN[:4]), (I2T, SHOWN)):
        for metric in metrics:
            key = f"{name}|{direction}|{metric}"
            value = row.values[key]
            cells.append(f"{100 * value.value:.1f}")
            if metric == "R@1":
                cells[-1] += f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
                if len(runs) > 1:
                    cells[-1] += f" ±{seed_spread(runs, key):.1f}"
    accuracy = row.values.get("zero-shot|top-1")
    cells.append("" if accuracy is None else f"{100 * accuracy.value:.1f}")
    known = None if base is None else base.values.get("zero-shot|top-1")
    kept = accuracy is not None and known is not None and known.value > 0
    cells.append(f"{100 * accuracy.value / known.value:.0f} %" if kept and accuracy and known else "")
    return "| " + " | ".join(cells) + " |"


def _difference_line(row: Row, name: str) -> str:
    keys = [f"{name}|{d}|{m}" for d in (T2I, I2T) for m in ("R@1", "mAP")] + ["zero-shot|top-1"]
    cells = [row.name]
    for key in keys:
        test = row.against.get(key)
        cells.append(
            ""
            if test is None
            else f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
        )
    return "| " + " | ".join(cells) + " |"
