"""The tables of a run in Markdown."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from cliplet.classification.multimodal import OverDraws, over_draws
from cliplet.statistics.resampling import holm, paired_mean_test

from .arms import ARMS, LANGUAGE
from .recipe import Settings

FIGURES = ("overall", "average", "kappa")
Results = dict[tuple[int, str], dict[int, dict[str, Any]]]


def by_arm(rows: Sequence[dict[str, Any]]) -> Results:
    """Results by shots and arm, then draw."""
    found: Results = defaultdict(dict)
    for row in rows:
        found[row["shots"], row["arm"]][row["draw"]] = row
    return found


def cell(found: OverDraws) -> str:
    """A figure times 100 with its interval and spread."""
    return (
        f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}; "
        f"spread {100 * found.spread:.1f})"
    )


def tables(settings: Settings, rows: Sequence[dict[str, Any]]) -> str:
    """All tables: every figure by arm for each number of shots, and differences from the first arm by draw."""
    found = by_arm(rows)
    parts = [overview(settings, found)]
    parts += [one_size(settings, found, shots) for shots in sorted(settings.shots)]
    language = [a for a in LANGUAGE if a in settings.arms]
    if language and settings.arms[0] not in language:
        parts.append(does_language_help(settings, found, language))
    return "\n".join(parts)


def overview(settings: Settings, found: Results) -> str:
    """Overall accuracy by arm and shots."""
    sizes = sorted(settings.shots)
    lines = [
        f"Overall accuracy on {settings.report_on}, mean over draws:\n",
        "| | " + " | ".join(f"{k} a class" for k in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for arm in settings.arms:
        values = [[r["overall"] for r in found[k, arm].values()] for k in sizes]
        cells = [f"{100 * np.mean(v):.1f}" if v else "" for v in values]
        lines.append(f"| {ARMS[arm].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference(found: Results, shots: int, first: str, second: str) -> tuple[str, float]:
    """First minus second by draw, in points with the paired bootstrap interval over draws; and the p-value."""
    both = sorted(set(found[shots, first]) & set(found[shots, second]))
    if not both:
        return "", float("nan")
    a, b = ([found[shots, arm][d]["overall"] for d in both] for arm in (first, second))
    test = paired_mean_test(a, b, resamples=10_000)
    text = f"{100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f})"
    return text, test.p_value


def one_size(settings: Settings, found: Results, shots: int) -> str:
    """All figures at one number of shots."""
    main = settings.arms[0]
    measured = [arm for arm in settings.arms if found[shots, arm]]
    others = [arm for arm in measured if arm != main]
    tests = {arm: difference(found, shots, main, arm) for arm in others}
    adjusted = dict(zip(others, holm([tests[arm][1] for arm in others]), strict=True)) if others else {}
    lines = [
        f"{shots} labelled samples a class (95 % interval of the mean over draws; spread: "
        "standard deviation over draws):\n",
        "| | draws | overall accuracy | average accuracy | kappa x 100 | first row minus this, by draw | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in measured:
        values = list(found[shots, arm].values())
        cells = [str(len(values))] + [cell(over_draws([r[figure] for r in values])) for figure in FIGURES]
        last = ["", ""] if arm == main else [tests[arm][0], f"{adjusted[arm]:.3f}"]
        lines.append(f"| {ARMS[arm].label} | " + " | ".join(cells + last) + " |")
    return "\n".join(lines) + "\n"


def does_language_help(settings: Settings, found: Results, language: Sequence[str]) -> str:
    """The first arm, whose classes are their words, minus the arms without them."""
    main, sizes = settings.arms[0], sorted(settings.shots)
    lines = [
        "Does language help? Overall accuracy with the classes' own words minus that without, by draw, in points:\n",
        "| own words minus | " + " | ".join(f"{k} a class" for k in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for arm in language:
        cells = [difference(found, k, main, arm)[0] for k in sizes]
        lines.append(f"| {ARMS[arm].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
