"""The tables of the bench, from what lies in its folder: values with intervals, and what each arm adds."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.registry import load
from cliplet.evaluation.comparison import Columns
from cliplet.statistics.resampling import PairedTest, bootstrap_mean, holm, paired_mean_test

from .measure import JUDGEMENTS
from .recipe import PLAIN, Settings
from .run import BLIND, FACTS, JUDGED, START, results

SHOWN = {
    "T2I|R@1": "T2I R@1", "T2I|mAP": "T2I mAP", "I2T|R@1": "I2T R@1", "I2T|mAP": "I2T mAP",
    "T2I distinct|R@1": "T2I R@1 distinct", "class by name|top-1": "21 classes by name",
    "probe|top-1": "21 classes, probe", "probe of kinds|mAP": "80 kinds, probe mAP",
    "imagenet500|top-1": "imagenet500", "wrong word|all": "wrong word", "wrong object|right": "object",
    "wrong colour|right": "colour", "wrong number|right": "number", "wrong action|right": "action",
    "both true|right": "both true", "phrases|right": "phrases", "long T2I|R@1": "long T2I R@1",
    "drawn pairs|all|both right": "drawn pairs", "drawn pairs|all|both right, bias-corrected": "drawn, corrected",
    "natural quartets|all|both right": "quartets",
    "natural quartets|all|both right, bias-corrected": "quartets, corrected",
}  # fmt: skip
"""Columns of the first table of a setting, and their heads."""
FURTHER = ("imagenet500|top-1", "wrong word|all", "class by name|top-1")
"""Columns of the settings with few captions in the table of all settings."""
DECIDING = "T2I|R@1"
TESTED = (DECIDING, "T2I|mAP", "imagenet500|top-1", "wrong word|all")
"""Columns whose differences have an interval and a p-value."""
LEAST = 50
"""Questions without which a column is not shown."""
SHORT = 0.03
"""A way of less than this is too short to speak of a share of it."""
Found = dict[str, dict[int, Columns]]
"""Columns of each arm and seed."""


def tables(settings: Settings) -> str:
    """All tables as Markdown: a setting each, then the way from few captions to all."""
    start = load(Path(settings.out) / START).card
    parts = [f"All arms start from {start.name}, fingerprint {start.fingerprint}."]
    done = {name: found for name in settings.known if PLAIN in (found := results(settings, name))}
    parts += [_overview(settings, done)] if len(done) > 1 else []
    parts += [_setting(settings, name, found) for name, found in done.items()]
    parts += [text for domain in settings.domains if (text := _way(settings, domain.name))]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _overview(settings: Settings, done: dict[str, Found]) -> str:
    """Some columns of all settings side by side, and how many seeds they are the mean of."""
    columns = [(name, "") for name in done]
    few = [name for name in done if name.endswith("-few")]
    columns += [(name, key) for name in few for key in FURTHER if _enough([key], done[name])]
    heads = [f"{name}, {SHOWN[key]}" if key else f"{name}, T2I R@1 / mAP (seeds)" for name, key in columns]
    lines = ["## All settings", "", *_head(["arm", *heads])]
    first = f"{PLAIN}, first seed"  # what arms with one seed compare with
    for arm in (START, first, *(a.name for a in settings.arms)):
        cells = []
        for name, key in columns:
            runs = done[name].get(PLAIN if arm == first else arm, {})
            runs = {min(runs): runs[min(runs)]} if arm == first else runs
            if not runs:
                cells.append("")
            elif key:
                cells.append(f"{100 * _mean(runs.values(), key):.1f}")
            else:
                both = " / ".join(f"{100 * _mean(runs.values(), k):.1f}" for k in (DECIDING, "T2I|mAP"))
                cells.append(both + (f" ({len(runs)})" if arm != START else ""))
        if any(cells):
            lines.append(_line([arm, *cells]))
    return "\n".join(lines)


def _setting(settings: Settings, name: str, found: Found) -> str:
    keys = _enough(SHOWN, found)
    facts = _facts(settings, name)
    agreed = _agreement(settings, name, found)
    people = [head for head in JUDGEMENTS.values() if any(head in about for about in agreed.values())]
    lines = [f"## {name}", ""]
    lines += _head(["arm", "seeds", *[SHOWN[k] for k in keys], *people, "s a step", "minutes"])
    for arm, runs in found.items():
        cells = [arm, str(len(runs)), *[_value(settings, runs, key) for key in keys]]
        cells += [agreed[arm].get(head, "") for head in people]
        own = facts.get(arm, [])
        cells.append(f"{mean(f['step_seconds'] for f in own):.2f}" if own else "")
        cells.append(f"{mean(f['processor_seconds'] for f in own) / 60:.1f}" if own else "")
        lines.append(_line(cells))
    asked = [f"{SHOWN[k]} {len(next(iter(found[PLAIN].values()))[k]):,}" for k in keys]
    told = [
        f"Questions: {', '.join(asked)}.",
        "",
        *_blind(settings, name, keys),
        *_differences(settings, found),
    ]
    return "\n".join([*lines, "", *told])


def _agreement(settings: Settings, name: str, found: Found) -> dict[str, dict[str, str]]:
    """Agreement with people by arm and head, times 100: the mean over seeds, the interval that of the first."""
    told: dict[str, dict[str, str]] = {}
    for arm, runs in found.items():
        files = [
            Path(settings.out) / f"{name}-draw{s}" / (START if arm == START else f"{arm}-seed{s}") / JUDGED
            for s in sorted(runs)
        ]
        seen = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.exists()]
        told[arm] = {}
        for head in seen[0] if seen else ():
            value, first = mean(about[head]["value"] for about in seen), seen[0][head]
            told[arm][head] = f"{100 * value:.1f} [{100 * first['low']:.1f}, {100 * first['high']:.1f}]"
    return told


def _blind(settings: Settings, name: str, keys: Sequence[str]) -> list[str]:
    """How often guessers that see no photo tell the caption with the wrong word."""
    file = next(Path(settings.out).glob(f"{name}-draw*/{START}/{BLIND}"), None)
    guesses = json.loads(file.read_text(encoding="utf-8")) if file else {}
    if not guesses or "wrong word|all" not in keys:
        return []
    told = ", ".join(f"{guesser} {100 * share:.1f}" for guesser, share in guesses.items())
    return [f"Wrong words, by guessers that see no photo: {told}.", ""]


def _enough(keys: Iterable[str], found: Found) -> list[str]:
    """Those of some columns that rest on enough questions."""
    base = next(iter(found[PLAIN].values()))
    few = (DECIDING, "probe of kinds|mAP")
    return [k for k in keys if k in base and (k in few or len(base[k]) >= LEAST)]


def _value(settings: Settings, runs: dict[int, Columns], key: str) -> str:
    """Mean over seeds; the deciding column with its interval over photos and its spread over seeds."""
    there = [columns[key] for columns in runs.values() if key in columns]
    if not there:
        return ""
    text = f"{100 * np.mean([c.mean() for c in there]):.1f}"
    if key == DECIDING:
        group = _photo(next(iter(runs.values())), key)
        interval = bootstrap_mean(np.mean(there, axis=0), group, settings.resamples)
        text += f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        if len(there) > 1:
            text += f" ±{100 * np.std([c.mean() for c in there], ddof=1):.1f}"
    return text


def _photo(columns: Columns, key: str) -> NDArray[Any] | None:
    """The photo that each question of a column was asked about."""
    return columns.get(key.rsplit("|", 1)[0] + "|photo")


def _facts(settings: Settings, name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(Path(settings.out).glob(f"{name}-draw*/*/{FACTS}")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(facts["arm"], []).append(facts)
    return found


def _differences(settings: Settings, found: Found) -> list[str]:
    """What each arm has more than the one that it is compared with and than plain tuning, at the seeds of both.

    Intervals resample photos; p-values are corrected for the number of rows (Holm).
    """
    rows = [
        (arm.name, other)
        for arm in settings.arms
        for other in dict.fromkeys((arm.against, PLAIN))
        if other != arm.name and set(found.get(arm.name, ())) & set(found.get(other, ()))
    ]
    keys = _enough(TESTED, found)
    tests = {
        (row, key): _test(found[row[0]], found[row[1]], key, settings.resamples)
        for row in rows
        for key in keys
    }
    corrected = {
        key: dict(zip(rows, holm([tests[row, key].p_value for row in rows]), strict=True)) for key in keys
    }
    lines = _head(["arm", "against", *[h for k in keys for h in (SHOWN[k], "p (Holm)")], "T2I R@1, relative"])
    for row in rows:
        cells = [*row]
        for key in keys:
            test = tests[row, key]
            cells.append(f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]")
            cells.append(f"{corrected[key][row]:.3f}")
        before = _mean(_paired(found[row[0]], found[row[1]])[1])
        cells.append(f"{100 * tests[row, DECIDING].difference / before:+.1f} %" if before else "")
        lines.append(_line(cells))
    others = [k for k in _enough(SHOWN, found) if k not in keys]
    lines += ["", *_head(["arm", "against", *[SHOWN[k] for k in others]])]
    for row in rows:
        one, other = _paired(found[row[0]], found[row[1]])
        told = [f"{100 * (_mean(one, k) - _mean(other, k)):+.1f}" if k in one[0] else "" for k in others]
        lines.append(_line([*row, *told]))
    return lines


def _paired(one: dict[int, Columns], other: dict[int, Columns]) -> tuple[list[Columns], list[Columns]]:
    """Both at the seeds that both have."""
    seeds = [seed for seed in one if seed in other]
    return [one[s] for s in seeds], [other[s] for s in seeds]


def _mean(runs: Iterable[Columns], key: str = DECIDING) -> float:
    """A column's mean over questions and seeds."""
    return float(np.mean([columns[key].mean() for columns in runs]))


def _test(one: dict[int, Columns], other: dict[int, Columns], key: str, resamples: int) -> PairedTest:
    """Mean over the seeds that both have, questions paired, photos resampled."""
    pair = _paired(one, other)
    a, b = (np.mean([columns[key] for columns in runs], axis=0) for runs in pair)
    return paired_mean_test(a, b, _photo(pair[0][0], key), resamples)


def _way(settings: Settings, domain: str) -> str:
    """How much of the way from few captions to all each arm closes; nothing is said where the way is short.

    An arm's way begins where plain tuning stands with the arm's own draws.
    """
    few, every = results(settings, f"{domain}-few"), results(settings, f"{domain}-all")
    if PLAIN not in few or PLAIN not in every:
        return ""
    keys = (DECIDING, "T2I|mAP")
    ends = {key: (_mean(few[PLAIN].values(), key), _mean(every[PLAIN].values(), key)) for key in keys}
    told = " and ".join(f"{SHOWN[k]} {100 * a:.1f} to {100 * b:.1f}" for k, (a, b) in ends.items())
    lines = [f"**{domain}: the way from few captions to all of plain contrastive tuning, {told}**", ""]
    lines += _head(["arm with few captions", *[h for k in keys for h in (SHOWN[k], "share of the way")]])
    for arm in settings.arms:
        if arm.name != PLAIN and set(few.get(arm.name, ())) & set(few[PLAIN]):
            cells = [arm.name]
            runs, plain = _paired(few[arm.name], few[PLAIN])
            for key, (_, end) in ends.items():
                value, start = _mean(runs, key), _mean(plain, key)
                long = end - start >= SHORT
                cells += [
                    f"{100 * value:.1f}",
                    f"{100 * (value - start) / (end - start):+.0f} %" if long else "",
                ]
            lines.append(_line(cells))
    return "\n".join(lines)
