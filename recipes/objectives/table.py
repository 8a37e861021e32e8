"""The tables of the bench, from what lies in its folder: values with intervals, and what each arm adds."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from cliplet.evaluation.comparison import Columns, Row, make_rows
from cliplet.statistics.resampling import PairedTest, holm, paired_mean_test

from .recipe import Settings
from .run import FACTS, results

SHOWN = {
    "T2I|R@1": "T2I R@1", "T2I|mAP": "T2I mAP", "I2T|R@1": "I2T R@1", "I2T|mAP": "I2T mAP",
    "T2I distinct|R@1": "T2I R@1 distinct", "class by name|top-1": "21 classes by name",
    "probe|top-1": "21 classes, probe",
    "probe of kinds|mAP": "80 kinds, probe mAP", "imagenet500|top-1": "imagenet500", "wrong word|all": "wrong word",
    "both true|right": "both true", "phrases|right": "phrases",
    "long T2I|R@1": "long T2I R@1", "drawn pairs|all|both right": "drawn pairs",
    "drawn pairs|all|both right, bias-corrected": "drawn, corrected",
    "natural quartets|all|both right": "quartets",
    "natural quartets|all|both right, bias-corrected": "quartets, corrected",
}  # fmt: skip
"""Columns of the first table of a setting, and their heads."""
DECIDING = "T2I|R@1"
LEAST = 100
"""Questions without which a column is not shown."""


def tables(settings: Settings) -> str:
    """All tables as Markdown: a setting each, then the way from few captions to all."""
    parts = []
    for name in settings.known:
        found = results(settings, name)
        if "contrastive" in found:
            parts.append(_setting(settings, name, found))
    for domain in settings.domains:
        text = _way(settings, domain.name)
        if text:
            parts.append(text)
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _setting(settings: Settings, name: str, found: dict[str, list[Columns]]) -> str:
    rows = make_rows(found, "contrastive", settings.resamples)
    keys = _enough(SHOWN, found)
    facts = _facts(settings, name)
    lines = [f"## {name}", "", *_head(["arm", "seeds", *[SHOWN[k] for k in keys], "s a step", "minutes"])]
    for row in rows:
        cells = [row.name, str(len(found[row.name]))]
        cells += [_value(row, key) for key in keys]
        own = facts.get(row.name, [])
        cells.append(f"{mean(f['step_seconds'] for f in own):.2f}" if own else "")
        cells.append(f"{mean(f['processor_seconds'] for f in own) / 60:.1f}" if own else "")
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_differences(settings, name, found)])


def _enough(keys: Iterable[str], found: dict[str, list[Columns]]) -> list[str]:
    """Those of some columns that rest on enough questions."""
    base = found["contrastive"][0]
    few = (DECIDING, "probe of kinds|mAP")
    return [k for k in keys if k in base and (k in few or len(base[k]) >= LEAST)]


def _value(row: Row, key: str) -> str:
    value = row.values.get(key)
    if value is None:
        return ""
    text = f"{100 * value.value:.1f}"
    if key == DECIDING:
        text += f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    return text + (f" ±{100 * row.spread[key]:.1f}" if key in row.spread else "")


def _facts(settings: Settings, name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(Path(settings.out).glob(f"{name}-draw*/*/{FACTS}")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(facts["arm"], []).append(facts)
    return found


def _differences(settings: Settings, name: str, found: dict[str, list[Columns]]) -> list[str]:
    """What each arm has more than the one that it is compared with, corrected for the number of arms (Holm)."""
    arms = [a for a in settings.arms if a.name in found and a.against in found and a.against != a.name]
    keys = _enough((DECIDING, "imagenet500|top-1", "wrong word|all"), found)
    tests = {
        (a.name, key): _test(found[a.name], found[a.against], key, settings.resamples)
        for a in arms
        for key in keys
    }
    corrected = {
        key: dict(zip([a.name for a in arms], holm([tests[a.name, key].p_value for a in arms]), strict=True))
        for key in keys
    }
    lines = _head(["arm", "against", *[h for k in keys for h in (SHOWN[k], "p (Holm)")], "T2I R@1, relative"])
    for arm in arms:
        cells = [arm.name, arm.against]
        for key in keys:
            test = tests[arm.name, key]
            cells.append(f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]")
            cells.append(f"{corrected[key][arm.name]:.3f}")
        before = float(np.mean([c[DECIDING].mean() for c in _paired(found, arm.name, arm.against)[1]]))
        cells.append(f"{100 * tests[arm.name, DECIDING].difference / before:+.0f} %" if before else "")
        lines.append(_line(cells))
    return lines


def _paired(found: dict[str, list[Columns]], one: str, other: str) -> tuple[list[Columns], list[Columns]]:
    """The seeds that both have: the first ones, in order."""
    count = min(len(found[one]), len(found[other]))
    return found[one][:count], found[other][:count]


def _test(one: list[Columns], other: list[Columns], key: str, resamples: int) -> PairedTest:
    """Mean over the seeds that both have, questions paired, photos resampled."""
    count = min(len(one), len(other))
    group = one[0].get(key.rsplit("|", 1)[0] + "|photo")
    a, b = (np.mean([c[key] for c in runs[:count]], axis=0) for runs in (one, other))
    return paired_mean_test(a, b, group, resamples)


def _way(settings: Settings, domain: str) -> str:
    """How much of the way from few captions to all each arm closes, by T2I R@1."""
    few, every = results(settings, f"{domain}-few"), results(settings, f"{domain}-all")
    if "contrastive" not in few or "contrastive" not in every:
        return ""
    start = float(np.mean([c[DECIDING].mean() for c in few["contrastive"]]))
    end = float(np.mean([c[DECIDING].mean() for c in every["contrastive"]]))
    lines = [
        f"**{domain}, T2I R@1: the way from few captions ({100 * start:.1f}) to all ({100 * end:.1f}) of plain "
        "contrastive tuning**",
        "", *_head(["arm with few captions", "T2I R@1", "share of the way"]),
    ]  # fmt: skip
    for arm in settings.arms:
        if arm.name in few and arm.name != "contrastive":
            value = float(np.mean([c[DECIDING].mean() for c in few[arm.name]]))
            share = f"{100 * (value - start) / (end - start):+.0f} %" if end > start else ""
            lines.append(_line([arm.name, f"{100 * value:.1f}", share]))
    return "\n".join(lines)
