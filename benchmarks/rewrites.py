"""What the rewriting rules give on real captions, and how near their rewrites lie to the captions.

For each rule, and for the control of random words left out and swapped: the share of captions it rewrites, and of its
rewrites (one a caption) the share with a cosine of at least .9 by a sentence encoder. ``--show`` prints examples, the
farthest first. ``--retrieved`` looks for near captions of other photos among all training captions instead.

    python -m benchmarks.rewrites --data flickr8k
    python -m benchmarks.rewrites --data flickr8k --rule voice --show 30
    python -m benchmarks.rewrites --data flickr8k --retrieved --show 30
"""

import argparse
import time
from pathlib import Path

import numpy as np
from benchmarks.captioner_judge import flickr8k

from cliplet.data.rewrites import RULES, eda, rewrites_by_rule
from cliplet.encoders.base import unit_norm
from cliplet.encoders.sentence import SentenceEncoder
from cliplet.training.pairs import PairSet
from cliplet.training.rewriting import near_captions


def by_rules(pairs: PairSet, encoder: SentenceEncoder, count: int, only: str, show: int) -> None:
    """A row a rule."""
    rng = np.random.default_rng(0)
    captions = [pairs.captions[i] for i in rng.choice(len(pairs.captions), count, replace=False)]
    start = time.perf_counter()
    found = [rewrites_by_rule(caption) for caption in captions]
    took = 1000 * (time.perf_counter() - start) / count
    some = np.mean([bool(own) for own in found])
    print(f"{count} captions, {took:.2f} ms each; {some:.1%} have a rewrite", end=", ")
    print(f"{np.mean([sum(map(len, own.values())) for own in found]):.1f} each on average\n")
    print("| rule | captions | rewrites | mean cosine | cosine >= .9 | >= .8 |\n|---|---|---|---|---|---|")
    for rule in (*RULES, "eda"):
        if only and rule != only:
            continue
        made = [
            (c, eda(c) if rule == "eda" else own.get(rule, []))
            for c, own in zip(captions, found, strict=True)
        ]
        made = [(caption, own) for caption, own in made if own]
        one = [(caption, own[rng.integers(len(own))]) for caption, own in made]
        if not one:
            continue
        a, b = (unit_norm(encoder.encode_texts(list(texts))) for texts in zip(*one, strict=True))
        cosine = (a * b).sum(axis=1)
        print(
            f"| {rule} | {len(one) / count:.1%} | {sum(len(own) for _, own in made):,} | {cosine.mean():.3f} | "
            f"{np.mean(cosine >= 0.9):.1%} | {np.mean(cosine >= 0.8):.1%} |"
        )
        for i in np.argsort(cosine)[:show]:
            print(f"    {cosine[i]:.2f}  {one[i][0]}  =>  {one[i][1]}")


def retrieved(pairs: PairSet, encoder: SentenceEncoder, least: float, show: int) -> None:
    """How many captions have a near one of another photo, and which."""
    embedded = unit_norm(encoder.encode_texts(pairs.captions))
    start = time.perf_counter()
    found = near_captions(embedded, pairs, np.arange(len(pairs.captions)), least, 4)
    took = time.perf_counter() - start
    some = [i for i, own in enumerate(found) if own]
    print(
        f"cosine >= {least}: {len(some):,} of {len(found):,} captions have {sum(map(len, found)):,} near ones of other "
        f"photos ({took:.0f} s)"
    )
    for i in np.random.default_rng(0).choice(some, min(show, len(some)), replace=False):
        print(f"    {pairs.captions[i]}  =>  {found[i][0]}")


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of Flickr8k")
    parser.add_argument("--encoder", default="minilm-l6", help="a sentence encoder")
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--rule", default="", help="only this one")
    parser.add_argument("--show", type=int, default=0, help="examples")
    parser.add_argument("--retrieved", action="store_true")
    parser.add_argument("--cosine", type=float, default=0.9)
    wanted = parser.parse_args()
    pairs, encoder = flickr8k(wanted.data, "train"), SentenceEncoder.from_name(wanted.encoder)
    if wanted.retrieved:
        retrieved(pairs, encoder, wanted.cosine, wanted.show)
    else:
        by_rules(pairs, encoder, wanted.captions, wanted.rule, wanted.show)


if __name__ == "__main__":
    main()
