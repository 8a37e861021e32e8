"""METEOR beside pycocoevalcap's jar: agreement on real, spoilt and hard captions, and speed with start-up.

    python -m benchmarks.meteor              # everything, some minutes
    python -m benchmarks.meteor --speed      # speed alone

Needs Java, pycocoevalcap and the test data (see tests/shared_data.py). Both sides get the same text and tokenise it
themselves. The first run of METEOR's tables (reading pycocoevalcap's files once) is timed by itself.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.parity import meteor_cases as cases

ROOT = Path(__file__).resolve().parents[1]

OURS = """
import json, sys
from cliplet.metrics.meteor import Meteor
from cliplet.metrics.tokenizer.ptb import tokenize_many
given = json.load(sys.stdin)
words = iter(tokenize_many([c for group in given["references"] for c in group]))
references = [[next(words) for _ in group] for group in given["references"]]
score = Meteor()(tokenize_many(given["candidates"]), references)
json.dump({"corpus": score.corpus, "per_caption": score.per_caption.tolist()}, sys.stdout)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true", help="speed alone")
    parser.add_argument(
        "--images", type=int, action="append", help="how many for speed; default: 100, then 5000"
    )
    arguments = parser.parse_args()
    if not arguments.speed:
        agreement()
    speed(arguments.images or [100, 5000])


def agreement() -> None:
    flickr = cases.flickr8k_people()
    sets = {
        "COCO val2017, results file": cases.coco_results(),
        "COCO val2017, a person's caption": cases.coco_people(),
        "Flickr8k, caption 0 of 5": flickr,
        "Flickr8k, caption 3 of 5": cases.flickr8k_people(3),
        "Flickr8k, spoilt captions": cases.spoilt(flickr, 5000, seed=1),
        "COCO, spoilt captions": cases.spoilt(cases.coco_people(), 4000, seed=2),
        "hard captions": cases.hard(),
        "random text": cases.random_text(4000, seed=3),
    }
    print(
        f"{'captions':34} {'n':>6} {'within 1e-4':>12} {'largest difference':>19} {'corpus':>9} {'difference':>11}"
    )
    for name, case in sets.items():
        ours, theirs = cases.our_scores(case), cases.reference_scores(case)
        difference = np.abs(ours.per_caption - np.array(theirs["per_caption"]))
        share = (difference <= 1e-4).mean()
        print(
            f"{name:34} {len(difference):6} {share:12.4%} {difference.max():19.1e} {theirs['corpus']:9.6f} "
            f"{abs(ours.corpus - theirs['corpus']):11.1e}",
            flush=True,
        )


def speed(counts: list[int]) -> None:
    """Whole processes, from start to the last score, on a spoilt caption against all five references."""
    program = str(ROOT / "tests" / "parity" / "pycocoevalcap_meteor.py")
    with tempfile.TemporaryDirectory() as cache:
        # both sides may keep their compiled Python files, as an installed package does
        environment = {**os.environ, "CLIPLET_CACHE": cache, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        tiny = (["a dog"], [["a dog"]])
        first = _timed(["-c", OURS], tiny, environment)
        again = min(_timed(["-c", OURS], tiny, environment) for _ in range(3))
        print(
            f"first run, which makes the tables' cache: {first[0]:.1f} s ({first[1]:.1f} s of processor time); "
            f"later runs with one caption: {again[0]:.2f} s"
        )
        everything = cases.coco_captioner()
        for count in counts:
            repeats = 3 if count <= 1000 else 1
            case = (everything[0][:count], everything[1][:count])
            ours, theirs = [], []
            for _ in range(repeats):
                theirs.append(_timed([program], case, environment))
                ours.append(_timed(["-c", OURS], case, environment))
            t, o = np.min(theirs, axis=0), np.min(ours, axis=0)
            references = sum(map(len, case[1])) / count
            print(
                f"{count} images x {references:.1f} references, with start-up, best of {repeats}: pycocoevalcap "
                f"{t[0]:.2f} s ({t[1]:.1f} s of processor time), cliplet {o[0]:.2f} s ({o[1]:.2f} s): "
                f"{t[0] / o[0]:.1f} times as fast, {t[1] / o[1]:.1f} times less processor time",
                flush=True,
            )


def _timed(arguments: list[str], case: cases.Cases, environment: dict[str, str]) -> tuple[float, float]:
    """(seconds, seconds of processor time) of a Python process and all that it starts."""
    given = json.dumps({"candidates": case[0], "references": case[1]})
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], input=given, text=True, encoding="utf-8", env=environment, check=True, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
