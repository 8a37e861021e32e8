"""How many captions a second the rewards judge, with photos embedded beforehand.

    python -m benchmarks.reward_speed                     # a few minutes on two cores
    python -m benchmarks.reward_speed --calls 2 --batches 160 --parts cider meteor

Captions are Flickr8k training captions of 10 to 14 words, each given to another photo, as a captioner's samples would
be; references are those of 1,000 training photos. Image embeddings are random directions: a reward's time does not
depend on their values. "half repeated": every caption stands twice in its batch, as samples of a trained
captioner do. No caption of an earlier call comes again, so the memory of captions helps with repeats only.

Each figure is the median of some calls after one to warm up. "a second of processor time" divides by the time that
the process spent on all cores, so that other programs on the machine count less; times the number of cores it says
what a quiet machine could reach at best.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from benchmarks.flickr8k_rewards import captions_of

import cliplet
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import REWARDS, MixedReward, Reward, build_reward

MIXTURE = ("lclipscore", "cider")
BATCHES = (160, 1000)
PHOTOS = 1000
Call = tuple[list[str], list[str]]


def sampled_like(captions: dict[str, list[str]]) -> list[str]:
    """Different captions of 10 to 14 words, in random order."""
    flat = list(dict.fromkeys(caption for group in captions.values() for caption in group))
    words = tokenize_many(flat, joined=False)
    chosen = [caption for caption, tokens in zip(flat, words, strict=True) if 10 <= len(tokens) <= 14]
    random.Random(0).shuffle(chosen)
    return chosen


def calls(
    captions: Iterator[str], images: Sequence[str], size: int, repeated: bool, number: int
) -> list[Call]:
    """Batches of captions not used before, each for some photo."""
    made = []
    rng = random.Random(0)
    for _ in range(number):
        different = [next(captions) for _ in range(size // 2 if repeated else size)]
        batch = different * 2 if repeated else different
        rng.shuffle(batch)
        made.append((rng.choices(images, k=len(batch)), batch))
    return made


def speed(reward: Reward, batches: Sequence[Call]) -> tuple[float, float]:
    """Captions a second of wall time and of processor time: medians over the calls after the first."""
    reward(*batches[0])
    wall, processor = [], []
    for images, captions in batches[1:]:
        start, start_processor = time.perf_counter(), time.process_time()
        reward(images, captions)
        wall.append(len(captions) / (time.perf_counter() - start))
        processor.append(len(captions) / (time.process_time() - start_processor))
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=3, help="timed calls of each kind")
    parser.add_argument("--parts", nargs="*", default=REWARDS, help="parts to time alone")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="captions a call")
    options = parser.parse_args()
    training = captions_of("train")
    references = dict(islice(training.items(), PHOTOS))
    encoder = cliplet.load()
    vectors = np.random.default_rng(0).normal(size=(len(references), encoder.card.embedding_dim))
    names = dict.fromkeys((*MIXTURE, *options.parts), 1.0)
    start = time.perf_counter()
    every = build_reward(names, references, encoder=encoder, image_embeddings=vectors, remember=0)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores; {time.perf_counter() - start:.1f} s to prepare {len(references):,} photos' references\n"
    )
    mixture = MixedReward({name: (every.rewards[name], 1.0) for name in MIXTURE})
    rewards: dict[str, Reward] = {" + ".join(MIXTURE): mixture}
    rewards |= {name: every.rewards[name] for name in options.parts}
    images = list(references)
    print("| reward | captions a call | captions/s | a second of processor time |\n| --- | --- | --- | --- |")
    for name, reward in rewards.items():
        captions = iter(sampled_like(training))
        for size in options.batches:
            for repeated in (False, True):
                wall, processor = speed(reward, calls(captions, images, size, repeated, options.calls + 1))
                label = f"{size:,}{', half repeated' if repeated else ''}"
                print(f"| {name} | {label} | {wall:,.0f} | {processor:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
