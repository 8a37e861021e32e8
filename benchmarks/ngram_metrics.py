"""Speed of tokenising + BLEU + ROUGE-L + CIDEr-D against pycocoevalcap, and of CiderReward, in one run (needs Java).

    python benchmarks/ngram_metrics.py [--runs 3] [--million]

Takes the COCO val2017 references and the results file from the test data folder (4,989 images, 5 references each),
runs both toolkits in turn and prints medians, their ratio and the largest differences of any score. cliplet starts
every run with an empty tokeniser memo. ``--million`` also scores a million captions and prints the memory they took.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from tests.shared_data import data_root

from cliplet.metrics.registry import reference_scores
from cliplet.metrics.tokenizer import ptb as ptb_tokenizer
from cliplet.rewards import CiderReward

Steps = dict[str, float]


def load() -> tuple[dict[int, list[str]], dict[int, str]]:
    folder = data_root() / "coco-captions-val2017"
    references: dict[int, list[str]] = {}
    for row in json.loads((folder / "captions_val2017.json").read_text())["annotations"]:
        references.setdefault(row["image_id"], []).append(row["caption"])
    rows = json.loads((folder / "captions_val2017_fakecap_results.json").read_text())
    results = {row["image_id"]: row["caption"] for row in rows}
    return {image: references[image] for image in results}, results


def timed(steps: Steps, name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    steps[name] = time.perf_counter() - start
    return result


def theirs(references: dict[int, list[str]], results: dict[int, str]) -> tuple[Steps, dict[str, Any]]:
    """pycocoevalcap as its own eval.py runs it."""
    steps: Steps = {}
    captions = {image: [{"caption": c} for c in group] for image, group in references.items()}
    candidates = {image: [{"caption": caption}] for image, caption in results.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        gts, res = timed(
            steps,
            "tokenise",
            lambda: (PTBTokenizer().tokenize(captions), PTBTokenizer().tokenize(candidates)),
        )
        scores = {
            "bleu": timed(steps, "BLEU", lambda: Bleu(4).compute_score(gts, res)),
            "rouge_l": timed(steps, "ROUGE-L", lambda: Rouge().compute_score(gts, res)),
            "cider_d": timed(steps, "CIDEr-D", lambda: Cider().compute_score(gts, res)),
        }
    return steps, scores


def ours(references: dict[int, list[str]], results: dict[int, str]) -> tuple[Steps, dict[str, Any]]:
    """cliplet as `cliplet score` runs it, from a cold start."""
    ptb_tokenizer._tables.cache_clear()
    steps: Steps = {}
    said, groups, names = list(results.values()), list(references.values()), ("bleu", "rouge", "cider")
    scores = timed(steps, "all together", lambda: reference_scores(said, groups, None, names))
    bleu = [f"BLEU-{n}" for n in range(1, 5)]
    corpus = timed(steps, "corpus", lambda: {n: s.corpus() for n, s in scores.statistics.items()})
    return steps, {
        "bleu": ([corpus[name] for name in bleu], np.stack([scores.per_caption[name] for name in bleu])),
        "rouge_l": (corpus["ROUGE-L"], scores.per_caption["ROUGE-L"]),
        "cider_d": (corpus["CIDEr-D"], scores.per_caption["CIDEr-D"]),
    }


def compare(runs: int) -> None:
    references, results = load()
    captions = sum(map(len, references.values()))
    print(f"{len(results):,} images, {captions:,} references; median of {runs} runs, in turn")
    rows: dict[str, list[Steps]] = {"pycocoevalcap": [], "cliplet": []}
    for _ in range(runs):
        their_steps, their_scores = theirs(references, results)
        our_steps, our_scores = ours(references, results)
        rows["pycocoevalcap"].append(their_steps)
        rows["cliplet"].append(our_steps)
    total = {}
    for name, timings in rows.items():
        total[name] = statistics.median(sum(steps.values()) for steps in timings)
        parts = ", ".join(f"{step} {statistics.median(t[step] for t in timings):.2f}" for step in timings[0])
        print(f"  {name:<14} {total[name]:6.2f} s   ({parts})")
    print(f"  ratio          {total['pycocoevalcap'] / total['cliplet']:6.1f}")
    for name, (corpus, per_caption) in their_scores.items():
        apart = max(
            np.max(np.abs(np.subtract(corpus, our_scores[name][0]))),
            np.max(np.abs(np.subtract(per_caption, our_scores[name][1]))),
        )
        print(f"  largest difference of {name}: {apart:.1e}")


def reward_speed(runs: int) -> None:
    references, _ = load()
    images, candidates = list(references), [captions[0] for captions in references.values()]
    start = time.perf_counter()
    reward = CiderReward({image: captions[1:] for image, captions in references.items()})
    print(f"CiderReward, one thread ({time.perf_counter() - start:.2f} s to prepare {len(images):,} images)")
    reward(images, candidates)
    for batch in (50, 250, 5000):
        wall, cpu = [], []
        for _ in range(runs):
            start, start_cpu = time.perf_counter(), time.process_time()
            for first in range(0, len(images), batch):
                reward(images[first : first + batch], candidates[first : first + batch])
            wall.append(len(images) / (time.perf_counter() - start))
            cpu.append(len(images) / (time.process_time() - start_cpu))
        print(
            f"  batches of {batch:>5,}: {statistics.median(wall):>8,.0f} captions/s,"
            f" {statistics.median(cpu):>8,.0f} a second of processor time"
        )


def many_captions(references: dict[int, list[str]], number: int) -> Iterator[tuple[int, str]]:
    """Different captions without end: real ones, each with a word of its own in the middle."""
    pairs = [(image, caption) for image, captions in references.items() for caption in captions]
    for k in range(number):
        image, caption = pairs[k % len(pairs)]
        yield image, f"{caption[:20]} x{k} {caption[20:]}"


def memory() -> None:
    references, _ = load()
    reward = CiderReward(references)
    source = many_captions(references, 1_000_000)
    peak = []
    start = time.perf_counter()
    while batch := list(islice(source, 20_000)):
        reward([image for image, _ in batch], [caption for _, caption in batch])
        peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(
        f"a million different captions through CiderReward: {time.perf_counter() - start:.0f} s; peak memory"
        f" {peak[9]:,.0f} MB after 200,000, {peak[-1]:,.0f} MB at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    options = parser.parse_args()
    compare(options.runs)
    reward_speed(options.runs)
    if options.million:
        memory()


if __name__ == "__main__":
    main()
