"""One model, or several side by side, on every collection at hand: what the packaged model's page is filled from.

    python benchmarks/packaged_model.py --data D                        # the packaged model: some minutes on one core
    python benchmarks/packaged_model.py --data D --model A --model B    # and the differences, question by question
    python benchmarks/packaged_model.py --data D --only animals near-wrong --cache-dir C
    python benchmarks/packaged_model.py --data D --judged --out FILE.json

D holds the folders flickr8k, coco-dev, imagenet500, coco-train2014-photos, yolox-nano and ucm-captions; a table whose
folders are not there is left out and named. Shares are times 100; the intervals are 95 % bootstrap intervals that
resample photos. Speed is measured by ``python -m benchmarks.score_speed``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from benchmarks.packaged_model_captions import (
    counting_and_order,
    judged,
    match,
    near_wrong,
    near_wrong_answers,
    retrieval,
    wrong_words,
)
from benchmarks.packaged_model_data import Data, Measure
from benchmarks.packaged_model_names import aerial, animals, imagenet, near_nouns

from cliplet.encoders.base import BaseEncoder, Encoder
from cliplet.encoders.cache import CachedEncoder, EmbeddingCache
from cliplet.encoders.registry import load, packaged_models
from cliplet.errors import ClipletError
from cliplet.evaluation.near_nouns import FALLS_ON
from cliplet.evaluation.results import plain
from cliplet.files import write_atomically
from cliplet.reports.svg import number
from cliplet.statistics.resampling import (
    group_codes,
    paired_mean_test,
    percentile_interval,
    resample_weights,
)
from cliplet.versions import versions


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    """Its heading."""
    measure: Callable[[Data, Encoder], Iterable[Measure]]
    """What fills it."""
    needs: tuple[str, ...]
    """Folders of the data."""
    about: str = ""
    """What a reader must know."""


SECTIONS: dict[str, Section] = {
    "retrieval": Section("Retrieval", retrieval, ("flickr8k", "coco-dev")),
    "pairs": Section(
        "Captions with one wrong word", wrong_words, ("flickr8k", "coco-dev"),
        "The true caption must score above the same with one word swapped (`cliplet evaluate pairs --from-captions`).",
    ),
    "match": Section(
        "Match", match, ("flickr8k", "coco-dev", "ucm-captions"),
        "Mean distance of match and share of right captions, 0 to 1; no interval: resampling adds noise to an error.",
    ),
    "imagenet": Section(
        "ImageNet class names", imagenet, ("imagenet500",),
        "One photo for each of 500 classes. Training has seen the class names, so this is not zero-shot, but for the "
        "classes kept out (numpy's default_rng(0).choice(1000, 100, replace=False)); `lclip-flickr8k` saw those too.",
    ),
    "animals": Section(
        "Right animal among ten", animals, ("coco-dev", "coco-train2014-photos", "yolox-nano"),
        "\"A photo of a ...\" with COCO's ten animals. By captions: at least 3 of 5 name exactly one of them; by "
        f"detector: YOLOX-Nano is sure ({FALLS_ON}) of exactly one, on photos kept out of training.",
    ),
    "near-nouns": Section(
        "Near nouns", near_nouns, ("coco-dev", "imagenet500", "coco-train2014-photos", "yolox-nano"),
        "The right noun among the ten nearest of its group (`cliplet evaluate pairs --near-nouns`).",
    ),
    "near-wrong": Section(
        "Right sentence above near-wrong ones", near_wrong, ("coco-dev",),
        "30 photos of 30 kinds of scene (`benchmarks/near_wrong.csv`): the right sentence must beat all of its two or "
        "three wrong ones, in which one thing is exchanged for a like one.",
    ),
    "bad-at": Section(
        "Counting and word order", counting_and_order, ("flickr8k", "coco-dev"),
        "Text in photos is not measured: no photos with text are at hand.",
    ),
    "aerial": Section("Aerial photos", aerial, ("ucm-captions",), "Equal captions count as one."),
    "judged": Section(
        "Agreement with people", judged, ("flickr8k",),
        "Flickr8k's judged half, `cliplet evaluate human flickr8k-expert flickr8k-cf --metrics ''`: CLIPScore sees the "
        "photo alone, the others the references too.",
    ),
}  # fmt: skip
"""The tables, in their order."""


@dataclass
class Model:
    """A model and what was measured of it."""

    label: str
    encoder: BaseEncoder
    megabytes: float | None
    """Size of its folder; None where it has none."""
    found: dict[str, list[Measure]] = field(default_factory=dict)
    """Measures by section."""
    near_wrong: list[dict[str, Any]] = field(default_factory=list)


def open_model(name: str | None, cache: str) -> Model:
    encoder = load(name)
    folders = [f for f in packaged_models() if name in (None, f.name)]
    folder = Path(name) if name and Path(name).is_dir() else next(iter(folders), None)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6 if folder else None
    if encoder.card.fingerprint != "unknown":
        encoder = CachedEncoder(encoder, EmbeddingCache(cache))
    return Model(encoder.card.name, encoder, size)


def open_models(names: Sequence[str | None], cache: str) -> list[Model]:
    """The models; where two have the same name each is called by its folder's, or by what was given for it."""
    models = [open_model(name, cache) for name in names]
    given = [name or "packaged" for name in names]
    for labels in ([Path(name).name for name in given], given):
        if len({m.label for m in models}) == len(models):
            break
        for model, label in zip(models, labels, strict=True):
            model.label = label
    return models


# ---------------------------------------------------------------- numbers in words
def with_interval(ends: Iterable[float], digits: int = 1) -> str:
    """A value, and the lower and upper end of its interval where it has one."""
    value, low, high = ends
    shown = number(value, digits)
    return shown if np.isnan(low) else f"{shown} ({number(low, digits)} to {number(high, digits)})"


def against(first: Measure, other: Measure) -> dict[str, Any] | None:
    """How another model's answers to the same questions differ, and its share of the first one's errors."""
    if first.wins is None or other.wins is None or first.photo is None or other.photo is None:
        return None
    if not np.array_equal(first.photo, other.photo):
        return None
    test = paired_mean_test(other.wins, first.wins, first.photo)
    codes, n = group_codes(first.photo, len(first.wins))
    errors = [np.bincount(codes, 1 - m.wins, n) for m in (other, first) if m.wins is not None]
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.concatenate([(w @ errors[0]) / (w @ errors[1]) for w in resample_weights(n, 1000, 0)])
        ratio = float(errors[0].sum() / errors[1].sum())
    low, high = percentile_interval(drawn[np.isfinite(drawn)])
    return {
        "difference": 100 * test.difference, "low": 100 * test.low, "high": 100 * test.high,
        "p_value": test.p_value, "error_ratio": ratio, "error_low": low, "error_high": high,
    }  # fmt: skip


def section_rows(name: str, models: Sequence[Model]) -> list[dict[str, Any]]:
    """The rows of a table as they go into the JSON file."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    first = {(m.collection, m.name): m for m in models[0].found[name]}
    for model in models:
        for m in model.found[name]:
            key = (m.collection, m.name)
            row = rows.setdefault(
                key,
                {"section": name, "collection": m.collection, "measure": m.name, "photos": m.photos,
                 "asked": m.asked, "digits": m.digits, "results": {}, "against_first": {}},
            )  # fmt: skip
            row["results"][model.label] = {"value": m.value, "low": m.low, "high": m.high}
            if model is not models[0] and key in first and (found := against(first[key], m)):
                row["against_first"][model.label] = found
    return list(rows.values())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def section_table(rows: Sequence[dict[str, Any]], models: Sequence[Model]) -> str:
    labels, others = [m.label for m in models], [m.label for m in models[1:]]
    extra = [text for label in others for text in (f"{label}: difference", f"{label}: share of the errors")]
    cells = []
    for row in rows:
        values = [
            with_interval(row["results"][label].values(), row["digits"]) if label in row["results"] else "–"
            for label in labels
        ]
        for label in others:
            found = row["against_first"].get(label)
            values += (
                [with_interval(found[k] for k in ("difference", "low", "high")),
                 with_interval((found[k] for k in ("error_ratio", "error_low", "error_high")), digits=2)]
                if found else ["", ""]
            )  # fmt: skip
        cells.append([row["collection"], row["measure"], *values, str(row["photos"]), str(row["asked"])])
    return table(["collection", "measured", *labels, *extra, "photos", "asked"], cells)


def near_wrong_table(models: Sequence[Model]) -> str:
    """The result of each photo of the list: the right sentence, or the wrong one that won."""
    rows = []
    for answers in zip(*(m.near_wrong for m in models), strict=True):
        cells = [f"{'right' if a['won'] else a['best wrong']} ({number(a['ahead'], 3)})" for a in answers]
        rows.append([answers[0]["photo"].removeprefix("COCO_train2014_"), answers[0]["right"], *cells])
    return table(["photo", "right sentence", *(m.label for m in models)], rows)


def rounded(value: Any) -> Any:
    """The same with five digits behind the point."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="D")
    parser.add_argument("--model", action="append", help="may be repeated; default: the packaged model")
    parser.add_argument("--judged", action="store_true", help="agreement with people on the judged half too")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TABLE",
        choices=list(SECTIONS),
        help=f"these tables alone: {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--cache-dir", help="folder for embeddings, kept for the next run; default: none kept"
    )
    parser.add_argument("--out", type=Path, help="the same as JSON")
    args = parser.parse_args()
    chosen = args.only or [name for name in SECTIONS if name != "judged" or args.judged]
    if args.out and not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: its folder does not exist")
    if not args.data.is_dir():
        parser.error(f"--data {args.data}: there is no such folder")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            models = open_models(args.model or [None], args.cache_dir or temporary)
            content = measure(chosen, Data(args.data), models)
        except ClipletError as error:
            sys.exit(f"error: {error}")
    if args.out:
        write_atomically(args.out, json.dumps(rounded(plain(content)), indent=1, ensure_ascii=False) + "\n")
        print(f"\nwritten: {args.out}")


def measure(chosen: Sequence[str], data: Data, models: Sequence[Model]) -> dict[str, Any]:
    """Measure and print, table by table; returns the content of the JSON file."""
    for model in models:
        size = "" if model.megabytes is None else f", {number(model.megabytes)} MB"
        print(f"- {model.label}: {model.encoder.card.name}, weights {model.encoder.card.fingerprint}{size}")
    print("\nShares times 100 with 95 % intervals by photo. Speed: `python -m benchmarks.score_speed`.")
    rows, left_out = [], []
    for name in chosen:
        section, began = SECTIONS[name], time.perf_counter()
        missing = [folder for folder in section.needs if not (data.folder / folder).is_dir()]
        if missing:
            left_out.append(f"{section.title}: not measured, {', '.join(missing)} not in the data")
            continue
        try:
            for model in models:
                model.found[name] = list(section.measure(data, model.encoder))
                if name == "near-wrong":
                    model.near_wrong = near_wrong_answers(data, model.encoder)
        except ClipletError as error:
            left_out.append(f"{section.title}: not measured, {error}")
            continue
        found = section_rows(name, models)
        rows += found
        about = f"{section.about}\n\n" if section.about else ""
        print(f"\n## {section.title}\n\n{about}{section_table(found, models)}", flush=True)
        if name == "near-wrong":
            print(f"\n{near_wrong_table(models)}", flush=True)
        print(f"{section.title}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for note in left_out:
        print(f"\n{note}")
    return {
        "models": [
            {"label": m.label, "name": m.encoder.card.name, "fingerprint": m.encoder.card.fingerprint,
             "megabytes": m.megabytes}
            for m in models
        ],
        "measures": rows,
        "near_wrong": {m.label: m.near_wrong for m in models if m.near_wrong},
        "left_out": left_out,
        "versions": versions(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
