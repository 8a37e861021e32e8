"""The table that compares the variants of a DCLIP run with its base model and with each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.statistics.resampling import Interval, PairedTest, bootstrap_mean, paired_mean_test
from cliplet.training.dclip.measure import I2T, SHOWN, T2I, Columns

SOUP = ", seeds averaged"
"""End of the name of a row whose model has the mean of all seeds' weights; it is compared with its like."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, mean over seeds."""

    name: str
    """``base`` or a variant's, perhaps with what is special about it."""
    seeds: int
    """Runs."""
    values: dict[str, Interval]
    """``SET|DIRECTION|METRIC`` and ``zero-shot|top-1`` to the mean over seeds with its interval, in 0..1."""
    against: dict[str, PairedTest] = field(default_factory=dict)
    """The difference of the main variant minus this row, paired by photo."""


def _mean_columns(runs: Sequence[Columns]) -> Columns:
    """Per-query means over seeds."""
    return {k: np.mean([r[k] for r in runs], axis=0) for k in runs[0] if not k.endswith("|photo")}


def _groups(columns: Columns, key: str) -> NDArray[Any] | None:
    return columns.get(key.rsplit("|", 1)[0] + "|photo")


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
    means = {name: _mean_columns(runs) for name, runs in results.items()}
    rows = []
    for name, runs in results.items():
        values = {
            key: bootstrap_mean(column, _groups(runs[0], key), resamples, seed=seed)
            for key, column in means[name].items()
        }
        against: dict[str, PairedTest] = {}
        twin = main + SOUP if name.endswith(SOUP) else main
        if name != twin and twin in means:
            for key, column in means[name].items():
                other = means[twin].get(key)
                if other is not None:
                    groups = _groups(runs[0], key)
                    against[key] = paired_mean_test(other, column, groups, resamples, seed=seed)
        rows.append(Row(name, len(runs), values, against))
    return rows


def seed_spread(runs: Sequence[Columns], key: str) -> float:
    """Standard deviation of a value over seeds, in points of 100."""
    return float(np.std([100 * r[key].mean() for r in runs], ddof=1)) if len(runs) > 1 else float("nan")


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
    base = next((r for r in rows if r.name == "base"), None)
    head = ["", "T2I R@1", "R@5", "R@10", "mAP", "I2T R@1", "R@5", "R@10", "mAP", "MRR", "zero-shot", "kept"]
    differences = [f"{main} minus", "T2I R@1", "T2I mAP", "I2T R@1", "I2T mAP", "zero-shot"]
    lines: list[str] = []
    for name in sets:
        lines += [f"**{name}**", "", _line(head), "|" + "---|" * len(head)]
        lines += [_value_line(row, name, results[row.name], base) for row in rows]
        lines += ["", _line(differences), "|" + "---|" * len(differences)]
        lines += [_difference_line(row, name, baseline) for row in rows if row.against]
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


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
    return _line(cells)


def _difference_line(row: Row, name: str, baseline: str) -> str:
    keys = [f"{name}|{d}|{m}" for d in (T2I, I2T) for m in ("R@1", "mAP")] + ["zero-shot|top-1"]
    cells = [f"**{row.name}**" if row.name in (baseline, baseline + SOUP) else row.name]
    for key in keys:
        test = row.against.get(key)
        cells.append(
            ""
            if test is None
            else f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
        )
    return _line(cells)
