"""Models compared on the same queries: retrieval and zero-shot accuracy, intervals, paired differences, one table."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Embeddings
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.files import write_atomically
from cliplet.statistics.resampling import Interval, PairedTest, bootstrap_mean, paired_mean_test

Columns = dict[str, NDArray[Any]]
"""Values of a model, one a query, by ``SET|DIRECTION|METRIC``; ``SET|DIRECTION|photo`` is resampled together."""
T2I, I2T = "text-to-image", "image-to-text"
SOUP = ", seeds averaged"
"""End of the name of a row whose model has the mean of all seeds' weights; it is compared with its like."""
SHOWN = ("R@1", "R@5", "R@10", "mAP", "MRR")


def retrieval_columns(
    name: str,
    images: Embeddings,
    texts: Embeddings,
    photo_of: NDArray[np.int64],
    pairs: NDArray[np.int64] | None = None,
) -> Columns:
    """Per-query values of both directions over the whole gallery, and the photo that each query belongs to.

    Args:
        name: of the set.
        images: ``[n, d]``.
        texts: ``[m, d]``.
        photo_of: photo of each caption ``[m]``.
        pairs: (photo, caption) of all that is right ``[pairs, 2]``, where a caption fits several photos.
    """
    found: Columns = {}
    right = photo_of if pairs is None else pairs
    for direction in evaluate_retrieval(images, texts, right, RetrievalProtocol(resamples=0)):
        metrics = direction.folds[0]
        columns = metrics.columns()
        for metric in SHOWN:
            found[f"{name}|{direction.name}|{metric}"] = columns[metric].astype(np.float32)
        groups = metrics.queries if direction.name == I2T else photo_of[metrics.queries]
        found[f"{name}|{direction.name}|photo"] = groups.astype(np.int64)
    return found


def save_columns(file: Path, columns: Columns) -> None:
    """Write a run's per-query values; the file appears whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, **columns)  # type: ignore[arg-type]
    write_atomically(file, content.getvalue())


def load_columns(file: Path) -> Columns:
    """What :func:`save_columns` wrote."""
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, mean over seeds."""

    name: str
    """``base`` or a variant's, perhaps with what is special about it."""
    values: dict[str, Interval]
    """``SET|DIRECTION|METRIC`` and ``zero-shot|top-1`` to the mean over seeds with its interval, in 0..1."""
    spread: dict[str, float]
    """The same to the standard deviation over seeds; nothing of a single one."""
    against: dict[str, PairedTest]
    """The difference of the main variant minus this row, paired by photo."""


def make_rows(
    results: Mapping[str, Sequence[Columns]], main: str, resamples: int = 1000, seed: int = 0
) -> list[Row]:
    """Every model's values with intervals, and how far ``main`` is from it.

    The per-query values of a model's seeds are averaged first, then photos are resampled: the intervals say what other
    photos would change, not what other seeds would; the table prints the spread of the seeds beside them.

    Args:
        results: for each model, one :data:`Columns` a seed.
        main: the row that the others are compared with.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    def photos(columns: Columns, key: str) -> NDArray[Any] | None:
        return columns.get(key.rsplit("|", 1)[0] + "|photo")

    means = {
        name: {k: np.mean([r[k] for r in runs], axis=0) for k in runs[0] if not k.endswith("|photo")}
        for name, runs in results.items()
    }
    rows = []
    for name, runs in results.items():
        twin = main + SOUP if name.endswith(SOUP) else main
        others = means.get(twin, {}) if name != twin else {}
        values, spread, against = {}, {}, {}
        for key, column in means[name].items():
            groups = photos(runs[0], key)
            values[key] = bootstrap_mean(column, groups, resamples, seed=seed)
            if len(runs) > 1:
                spread[key] = float(np.std([r[key].mean() for r in runs], ddof=1))
            if key in others:
                against[key] = paired_mean_test(others[key], column, groups, resamples, seed=seed)
        rows.append(Row(name, values, spread, against))
    return rows


def table_text(
    results: Mapping[str, Sequence[Columns]],
    sets: Sequence[str],
    main: str,
    baseline: str = "base",
    resamples: int = 1000,
) -> str:
    """The comparison as Markdown: a table of values and one of differences for each set, in points of 100.

    ``MRR`` (mean reciprocal rank of the best positive) is what the released code prints as "MAP"; ``mAP`` is mean
    average precision. From text to image a caption has one photo, so both are the same there.

    Args:
        results: for each row, one :data:`Columns` a seed.
        sets: names of the sets.
        main: the row that the others are compared with.
        baseline: the row that decides, which is bold in the table of differences.
        resamples: of the bootstrap.
    """
    rows = make_rows(results, main, resamples)
    base = next((r.values for r in rows if r.name == "base"), {})
    head = ["", "T2I R@1", "R@5", "R@10", "mAP", "I2T R@1", "R@5", "R@10", "mAP", "MRR", "zero-shot", "kept"]
    differences = [f"{main} minus", "T2I R@1", "T2I mAP", "I2T R@1", "I2T mAP", "zero-shot"]
    lines: list[str] = []
    for name in sets:
        lines += [f"**{name}**", "", _line(head), "|" + "---|" * len(head)]
        lines += [_line(_values(row, name, base.get("zero-shot|top-1"))) for row in rows]
        lines += ["", _line(differences), "|" + "---|" * len(differences)]
        lines += [_line(_differences(row, name, baseline)) for row in rows if row.against]
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _values(row: Row, name: str, base: Interval | None) -> list[str]:
    cells = [row.name]
    for key in [f"{name}|{T2I}|{m}" for m in SHOWN[:4]] + [f"{name}|{I2T}|{m}" for m in SHOWN]:
        value = row.values[key]
        cells.append(f"{100 * value.value:.1f}")
        if key.endswith("R@1"):
            cells[-1] += f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
            cells[-1] += f" ±{100 * row.spread[key]:.1f}" if key in row.spread else ""
    accuracy = row.values.get("zero-shot|top-1")
    if accuracy is None:
        return [*cells, "", ""]
    kept = f"{100 * accuracy.value / base.value:.0f} %" if base is not None and base.value > 0 else ""
    return [*cells, f"{100 * accuracy.value:.1f}", kept]


def _differences(row: Row, name: str, baseline: str) -> list[str]:
    cells = [f"**{row.name}**" if row.name in (baseline, baseline + SOUP) else row.name]
    for key in [f"{name}|{d}|{m}" for d in (T2I, I2T) for m in ("R@1", "mAP")] + ["zero-shot|top-1"]:
        test = row.against.get(key)
        cells.append(
            f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]" if test else ""
        )
    return cells
