"""Seeded inputs of every kind that people give to a Scorer, each against an oracle; counts silent faults and the like.

    python -m benchmarks.fuzz_inputs           # 300 calls with objects and 300 with files, seed 0: a minute
    python -m benchmarks.fuzz_inputs --seed 3 --calls 1000 --model FOLDER

The oracle is the score of the same photo given as a PNG's path with the same caption as a plain string. A call is

- right: good rows have the oracle's score, bad rows none and a reason, an impossible call is an InputError;
- silent: a row has another score, a bad row has one, or a row has neither a score nor a reason;
- refused: a good row or call was refused;
- traceback: an error that is none of cliplet's; hang: no answer within --seconds.

Exit status 1 when any call is not right. More kinds of inputs are more functions in ``SOURCES``.
"""

import argparse
import math
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.fuzz_files import file_call
from benchmarks.fuzz_forms import (
    BAD,
    CONTAINERS,
    GOOD,
    GREY,
    TOLERANCE,
    World,
    add_forms_of_torch,
    as_objects,
    contained,
    texts_in,
)  # fmt: skip
from PIL import Image

from cliplet import InputError, Scorer
from cliplet.errors import ClipletError

CAPTIONS = [
    "a dog on the beach",
    "two red cars",
    "a man in blue",
    "",
    "green grass and a house",
    "a plate of food",
]
"""The fourth cannot be scored."""
ODD_CAPTIONS = [
    None,
    float("nan"),
    7,
    b"a dog on the beach",
    ["a dog"],
    np.float64("nan"),
    "bad \ud800",
    "  ",
]
Row = tuple[float | None, float]
"""The right score (None: the row must fail) and its tolerance."""


@dataclass
class Call:
    """One call and what must come of it."""

    name: str
    run: Callable[[], tuple[Any, Any]]
    """Gives scores and reasons by row."""
    rows: list[Row] | None
    """None: the whole call must be refused."""
    may_refuse: bool = False
    """Whether it may be refused too."""


def make_world(scorer: Scorer, folder: Path, rng: np.random.Generator) -> World:
    """Six smooth random photos, two of them grey, and the oracle's table."""
    world = World(scorer, folder)
    for i in range(6):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        if i >= 4:
            small[:] = small[:, :, :1]
        size = (96, 64) if i % 2 else (80, 80)
        world.pixels.append(np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)))
        world.paths.append(folder / f"photo{i}.png")
        Image.fromarray(world.pixels[-1]).save(world.paths[-1])
    good = [c for c in CAPTIONS if c]
    for i, path in enumerate(world.paths):
        for caption in good:
            world.scores[i, caption] = float(scorer.score([path], [caption]).score[0])
    for a in good:
        for b in good:
            found = scorer.score([world.paths[0]], [a], [[b]]).reference_cosine
            world.references[a, b] = float(found[0])
    assert len({round(s, 3) for s in world.scores.values()}) > 12, (
        "an oracle of equal scores would prove nothing"
    )
    (folder / "text.png").write_text("no photo")
    (folder / "cut.png").write_bytes(world.paths[0].read_bytes()[:500])
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "fifo.png")
    return world


# ---------------------------------------------------------------- calls
def columns(world: World, rng: np.random.Generator) -> Call:
    """Rows of mixed or equal forms in containers, with captions and now and then references."""
    kind = str(rng.choice(CONTAINERS))
    large = rng.random() < 0.03
    n = int(rng.integers(1030, 1100)) if large else int(rng.integers(1, 14))
    one_form = rng.random() < 0.5 or large
    held: tuple[str, Callable[[World, int], Any], float] = GOOD[rng.integers(len(GOOD))]
    makers, rows, texts, names = [], [], [], set()
    for _ in range(n):
        i, caption = int(rng.integers(6)), CAPTIONS[rng.integers(len(CAPTIONS))]
        bad = rng.random() < (0.02 if large else 0.12)
        if bad:
            name, make = BAD[rng.integers(len(BAD))]
            tolerance = 0.0
        else:
            forms = GOOD + GREY if i >= 4 and not one_form else GOOD
            name, make, tolerance = held if one_form else forms[rng.integers(len(forms))]
        text: Any = caption
        if rng.random() < 0.06:
            text = ODD_CAPTIONS[rng.integers(len(ODD_CAPTIONS))]
        elif rng.random() < 0.1:
            text = np.str_(caption)
        makers.append(lambda make=make, i=i: make(world, i))
        texts.append(text)
        usable = not bad and isinstance(text, str) and bool(caption) and text == caption
        rows.append((world.scores[i, caption], tolerance) if usable else (None, 0.0))
        names.add(name)
    order = str(rng.choice([*CONTAINERS[:-1], "strings"]))
    held_images = contained(kind, makers, rng)  # both draw from rng: made before the call
    captions = texts_in(order, texts, rng)
    same_index = kind == "Series" and order == "Series"
    if same_index and not isinstance(captions, list):  # without pandas they are lists
        captions.index = held_images.index

    def run() -> tuple[Any, Any]:
        result = world.scorer.score(held_images, captions)
        return result.score, result.failures

    return Call(f"{n} rows, {kind} of {', '.join(sorted(names))}; captions in {order}", run, rows)


def stacks(world: World, rng: np.random.Generator) -> Call:
    """One array or tensor of several photos, or one photo for several captions."""
    chosen = [int(i) for i in rng.choice([1, 3, 5], int(rng.integers(1, 9)))]
    texts = [CAPTIONS[rng.integers(len(CAPTIONS))] for _ in chosen]
    stack = np.stack([world.pixels[i] for i in chosen])
    forms: list[tuple[str, Callable[[], Any]]] = [
        ("[n, h, w, 3]", lambda: stack),
        ("[n, 3, h, w]", lambda: stack.transpose(0, 3, 1, 2)),
        ("float [n, 3, h, w]", lambda: (stack / 255).transpose(0, 3, 1, 2).astype(np.float32)),
        ("int32 [n, h, w, 3]", lambda: stack.astype(np.int32)),
    ]
    try:
        import torch
    except ImportError:
        pass
    else:
        forms.append(("tensor", lambda: torch.from_numpy(stack).permute(0, 3, 1, 2)))
        forms.append(("float tensor", lambda: torch.from_numpy(stack).permute(0, 3, 1, 2) / 255))
    name, make = forms[rng.integers(len(forms))]
    rows: list[Row] = [
        (world.scores[i, t] if t else None, TOLERANCE) for i, t in zip(chosen, texts, strict=True)
    ]

    def run() -> tuple[Any, Any]:
        result = world.scorer.score(make(), texts)
        return result.score, result.failures

    return Call(f"{len(texts)} rows in one {name}", run, rows)


def one_image(world: World, rng: np.random.Generator) -> Call:
    """One photo of any form for several captions."""
    i = int(rng.integers(6))
    forms = GOOD + GREY if i >= 4 else GOOD
    name, make, tolerance = forms[rng.integers(len(forms))]
    texts = [CAPTIONS[rng.integers(len(CAPTIONS))] for _ in range(int(rng.integers(1, 7)))]
    rows: list[Row] = [(world.scores[i, t] if t else None, tolerance) for t in texts]

    def run() -> tuple[Any, Any]:
        result = world.scorer.score(make(world, i), texts)
        return result.score, result.failures

    shape = np.shape(make(world, i)) if "[3, h, w]" in name or "tensor" in name else ()
    two_ways = len(shape) == 3 and len(texts) == shape[0] == 3  # or three greys
    return Call(f"one {name} for {len(texts)} captions", run, None if two_ways else rows)


def references(world: World, rng: np.random.Generator) -> Call:
    """References in containers of containers; the score looked at is the largest cosine with one."""
    good = [c for c in CAPTIONS if c]
    n = int(rng.integers(1, 9))
    texts = [good[rng.integers(len(good))] for _ in range(n)]
    inner: list[Callable[[list[str]], Any]] = [
        list,
        tuple,
        np.array,
        as_objects,
        iter,
        deque,
        lambda x: [*x, None],
    ]
    groups, rows = [], []
    for text in texts:
        group = [good[rng.integers(len(good))] for _ in range(int(rng.integers(0, 4)))]
        if not group:
            groups.append([None, [], float("nan"), [""], ()][rng.integers(5)])
            rows.append((None, 0.0))
            continue
        make = inner[rng.integers(len(inner))]
        groups.append(group[0] if len(group) == 1 and rng.random() < 0.5 else make(group))
        rows.append((max(world.references[text, r] for r in group), TOLERANCE))
    kind = str(rng.choice(["list", "tuple", "objects", "Series", "generator"]))
    flat = all(isinstance(g, str) for g in groups)
    given = contained(kind, [lambda g=g: g for g in groups], rng)  # type: ignore[misc]
    path = [world.paths[0]] * n

    def run() -> tuple[Any, Any]:
        found = world.scorer.score(path, texts, given).reference_cosine
        return found, [None if math.isfinite(v) else "no references" for v in found]

    return Call(f"{n} rows, references in {kind}{' of strings' if flat else ''}", run, rows)


def impossible(world: World, rng: np.random.Generator) -> Call:
    """Calls that must be refused whole."""
    n = int(rng.integers(2, 8))
    paths, texts = [str(world.paths[i % 6]) for i in range(n)], [CAPTIONS[0]] * n
    kinds: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("too few captions", lambda: paths, lambda: texts[1:]),
        ("too many captions in a generator", lambda: paths, lambda: iter([*texts, "x"])),
        ("too few images in a generator", lambda: iter(paths[1:]), lambda: texts),
        ("too many images in a generator", lambda: iter([*paths, paths[0]]), lambda: texts),
        ("a set of captions", lambda: paths, lambda: {f"{t} {i}" for i, t in enumerate(texts)}),
        ("a mapping of images", lambda: {f"{i}": p for i, p in enumerate(paths)}, lambda: texts),
        ("a number for images", lambda: 3, lambda: texts),
        ("no captions", lambda: paths, lambda: None),
        ("a generator that breaks", lambda: (1 // (i - 1) and p for i, p in enumerate(paths)), lambda: texts),
        ("three greys or one photo", lambda: np.zeros((3, 30, 30), np.uint8), lambda: [CAPTIONS[0]] * 3),
    ]
    try:
        import pandas
    except ImportError:
        pass
    else:
        labels = list(range(n))
        frame = pandas.DataFrame({"image": paths, "caption": texts})
        kinds.append(("Series in two orders", lambda: frame["image"],
                      lambda: pandas.Series(texts, index=labels[1:] + labels[:1])))  # fmt: skip
        kinds.append(("a table", lambda: frame, lambda: frame["caption"]))
    name, images, captions = kinds[rng.integers(len(kinds))]

    def run() -> tuple[Any, Any]:
        result = world.scorer.score(images(), captions())
        return result.score, result.failures

    return Call(name, run, None)


def files(world: World, rng: np.random.Generator) -> Call:
    """Captions files: layouts times faults."""
    name, score, must_refuse, may_refuse = file_call(world, rng)

    def run() -> tuple[Any, Any]:
        scores, reasons, rows = score()
        if not must_refuse:
            call.rows = rows
        return scores, reasons

    call = Call(f"file: {name}", run, None if must_refuse else [], may_refuse)
    return call


Sources = list[tuple[Callable[[World, np.random.Generator], Call], float]]
FILES: Sources = [(files, 1.0)]
SOURCES: Sources = [
    (columns, 0.5), (stacks, 0.1), (one_image, 0.15), (references, 0.1), (impossible, 0.15),
]  # fmt: skip
"""Makers of calls with objects and how often each is drawn."""


# ---------------------------------------------------------------- judging
class Hang(BaseException):
    """No answer in time; no ``except Exception`` on the way swallows it."""


def judge(call: Call, seconds: int) -> tuple[str, str]:
    """What became of a call, and why it is not right."""

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        scores, reasons = call.run()
    except InputError as error:
        return ("right", "") if call.rows is None or call.may_refuse else ("refused", str(error))
    except ClipletError as error:
        return "refused", str(error)
    except Hang:
        return "hang", f"no answer in {seconds} s"
    except Exception:
        return "traceback", traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
    if call.rows is None:
        return "silent", "was not refused"
    if len(scores) != len(call.rows):
        return "silent", f"{len(scores)} rows for {len(call.rows)}"
    worst = ("right", "")
    for i, ((wanted, tolerance), score, reason) in enumerate(zip(call.rows, scores, reasons, strict=True)):
        scored = math.isfinite(score)
        if scored != (reason is None):
            return "silent", f"row {i}: score {score}, reason {reason}"
        if scored and (wanted is None or abs(score - wanted) > tolerance):
            return "silent", f"row {i}: {score} instead of {wanted}"
        if not scored and wanted is not None:
            worst = ("refused", f"row {i}: {reason}")
    return worst


def fuzz(
    scorer: Scorer, calls: int, seed: int, seconds: int = 30, sources: Sources | None = None
) -> tuple[Counter[str], list[str]]:
    """Counts by outcome, and a line for each call that is not right; ``sources``: ``SOURCES`` when left out."""
    counts: Counter[str] = Counter({name: 0 for name in ("right", "silent", "refused", "traceback", "hang")})
    wrong = []
    makers, shares = zip(*(sources or SOURCES), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(scorer, Path(folder), np.random.default_rng([seed, 0]))
        for number in range(calls):
            rng = np.random.default_rng([seed, 1, number])
            call = makers[rng.choice(len(makers), p=np.array(shares) / sum(shares))](world, rng)
            outcome, why = judge(call, seconds)
            counts[outcome] += 1
            if outcome != "right":
                wrong.append(f"{outcome}: call {number}: {call.name}: {why}")
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--files", type=int, default=300, help="calls with captions files, after the others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=30, help="after which a call is taken to hang")
    parser.add_argument("--model", help="default: the packaged one")
    options = parser.parse_args()
    add_forms_of_torch()
    scorer, ended = Scorer(options.model), 0
    for what, calls, sources in (("objects", options.calls, SOURCES), ("files", options.files, FILES)):
        counts, wrong = fuzz(scorer, calls, options.seed, options.seconds, sources)
        print(*wrong, sep="\n")
        print(f"{what}:", ", ".join(f"{name}: {count}" for name, count in counts.items()))
        ended |= bool(wrong)
    sys.exit(ended)


if __name__ == "__main__":
    main()
