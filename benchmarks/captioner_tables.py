"""Tables and plots of benchmarks/captioner_rewards.py, from the files that it left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.files import write_atomically
from cliplet.reports.svg import line_chart
from cliplet.training.captioner.shape import CollapseWatch

COLUMNS = (
    ("BLEU-4", "BLEU-4", 100, 1), ("METEOR", "METEOR", 100, 1), ("CIDEr-D", "CIDEr", 1, 3),
    ("ROUGE-L", "ROUGE-L", 100, 1), ("L-CLIPScore", "L-CLIPScore", 1, 3), ("judge", "judge", 1, 3),
    ("R@1 by L-CLIPScore", "R@1, own", 100, 1), ("R@1 by judge", "R@1, judge", 100, 1),
    ("length", "words", 1, 1), ("vocabulary", "vocabulary", 1, 0), ("repeated_2", "repeated bigrams %", 100, 1),
    ("no_end", "no end %", 100, 1),
)  # fmt: skip
"""Value, heading, factor, decimals."""
CURVES = (
    ("CIDEr-D", "cider", "CIDEr-D"), ("reward/lclipscore", "lclipscore", "L-CLIPScore"),
    ("length", "length", "words a caption"), ("repeated_2", "repetition", "share of repeated bigrams"),
)  # fmt: skip
"""Value of the log, file, axis."""
SHOWN = 8


def read_runs(out: Path, folders: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Finished runs of each variant, by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for variant, folder in folders.items():
        for path in sorted(out.glob(f"{folder}-seed*/judged.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            texts = json.loads((path.parent / "captions.json").read_text(encoding="utf-8"))
            content["values"]["vocabulary"] = len({word for text in texts.values() for word in text.split()})
            found.setdefault(variant, []).append({**content, "folder": path.parent, "texts": texts})
    return found


def print_tables(out: Path, folders: Mapping[str, str], images: Path) -> None:
    """Print all tables as Markdown and write the plots."""
    runs = read_runs(out, folders)
    if not runs:
        print(f"nothing is finished below {out}")
        return
    print_scores(runs, out)
    print_gains(runs)
    print_curves(runs, images)
    print_warnings(runs)
    print_samples(runs)
    models = sorted({run["reward_model"] for group in runs.values() for run in group})
    print(f"\nReward model: {', '.join(models)}")


def print_scores(runs: Mapping[str, list[dict[str, Any]]], out: Path) -> None:
    """The main table: mean over the seeds, and the spread between them."""
    print("\n| reward | seeds | " + " | ".join(heading for _, heading, _, _ in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for variant, group in runs.items():
        cells = []
        for key, _, factor, digits in COLUMNS:
            values = factor * np.array([run["values"][key] for run in group])
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}")
        print(f"| {variant} | {len(group)} | " + " | ".join(cells) + " |")
    people = out / "people.json"
    if people.exists():
        values = json.loads(people.read_text(encoding="utf-8"))["values"]
        cells = [f"{f * values[key]:.{d}f}" if key in values else "" for key, _, f, d in COLUMNS]
        print("| people: one caption against the other four | | " + " | ".join(cells) + " |")


def print_gains(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Each reward against the cross-entropy captioner that it started from."""
    variants = list(runs)
    start = {run["seed"]: run["values"] for run in runs[variants[0]]}
    print(f"\n| reward, against its {variants[0]} start | CIDEr | L-CLIPScore | judge |\n|---|---|---|---|")
    for variant in variants[1:]:
        cells = []
        for key in ("CIDEr-D", "L-CLIPScore", "judge"):
            own = [(run["values"][key], start.get(run.get("start", run["seed"]))) for run in runs[variant]]
            ratios = [100 * (value / first[key] - 1) for value, first in own if first]
            cells.append(
                f"{np.mean(ratios):+.1f} % ({min(ratios):+.1f} to {max(ratios):+.1f})" if ratios else ""
            )
        print(f"| {variant} | " + " | ".join(cells) + " |")


def short(variant: str) -> str:
    """A variant's name in a legend."""
    return variant.replace("CIDEr-D", "CIDEr").replace("L-CLIPScore", "L-CLIP")


def log_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of a run's log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def print_curves(runs: Mapping[str, list[dict[str, Any]]], images: Path) -> None:
    """Curves over self-critical training on dev (mean of the seeds), as SVG and as a table of CIDEr and L-CLIPScore."""
    images.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {key: {} for key, _, _ in CURVES}
    for variant, group in list(runs.items())[1:]:
        logs = [log_lines(run["folder"], "dev") for run in group]
        for key in curves:
            points = [
                (float(lines[0]["step"]), float(np.mean([line[key] for line in lines])))
                for lines in zip(*logs, strict=False)
            ]
            curves[key][short(variant)] = points
    for key, file, axis in CURVES:
        chart = line_chart(curves[key], f"{axis} on dev during self-critical training", "updates", axis)
        if chart:
            write_atomically(images / f"captioner-{file}.svg", chart)
    variants = list(runs)[1:]
    if not variants:
        return
    steps = [step for step, _ in curves["CIDEr-D"][short(variants[0])]]
    print("\n| dev: CIDEr / L-CLIPScore after updates | " + " | ".join(f"{s:.0f}" for s in steps) + " |")
    print("|---" * (len(steps) + 1) + "|")
    for variant in variants:
        pairs = zip(
            curves["CIDEr-D"][short(variant)], curves["reward/lclipscore"][short(variant)], strict=True
        )
        print(f"| {variant} | " + " | ".join(f"{a[1]:.3f} / {b[1]:.3f}" for a, b in pairs) + " |")


def print_warnings(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """The warnings that the logs bring about."""
    print()
    for variant, group in list(runs.items())[1:]:
        for run in group:
            watch = CollapseWatch()
            for line in log_lines(run["folder"], "train"):
                for text in watch.observe(line):
                    print(f"- {variant}, seed {run['seed']}, update {line['step']}: {text}")


def print_samples(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """The first photos' captions by each captioner (first seed)."""
    names = list(next(iter(runs.values()))[0]["texts"])
    chosen = names[:: max(1, len(names) // SHOWN)][:SHOWN]
    print("\n| photo | " + " | ".join(runs) + " |\n|---" + "|---" * len(runs) + "|")
    for name in chosen:
        print(f"| {name} | " + " | ".join(group[0]["texts"][name] for group in runs.values()) + " |")
