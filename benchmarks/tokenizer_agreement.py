"""How often cliplet's tokeniser agrees with the Stanford jar that pycocoevalcap runs (needs Java).

    python benchmarks/tokenizer_agreement.py [--random 20000] [--seed 0] [--tokenizer ptb-punctuation]

Compares, in pycocoevalcap's own protocol (all captions of a set as the lines of one file), the captions of Flickr8k
and COCO val2017 from the test data folder, the hard captions of the tests, and random captions of six kinds; prints
one row a set and the first disagreements. For ptb-punctuation the jar's tokens are left unfiltered.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pycocoevalcap.tokenizer import ptbtokenizer  # noqa: E402
from tests.metrics.hard_captions import GENERATORS, HARD, random_captions  # noqa: E402
from tests.shared_data import data_root  # noqa: E402

from cliplet.metrics.tokenizer.ptb import TOKENIZERS, tokenize_many  # noqa: E402


def jar(captions: list[str]) -> list[str]:
    """pycocoevalcap's tokens of each caption, joined by spaces."""
    tokens = ptbtokenizer.PTBTokenizer().tokenize(
        {i: [{"caption": caption}] for i, caption in enumerate(captions)}
    )
    return [tokens[i][0] if i in tokens else "<missing>" for i in range(len(captions))]


def real_captions() -> dict[str, list[str]]:
    """The captions of the test data."""
    sets = {}
    flickr = data_root() / "flickr8k" / "Flickr8k.token.txt"
    if flickr.exists():
        lines = flickr.read_text("utf-8").splitlines()
        sets["Flickr8k"] = [line.partition("\t")[2] for line in lines]
    coco = data_root() / "coco-captions-val2017"
    if coco.exists():
        rows = json.loads((coco / "captions_val2017.json").read_text())["annotations"]
        sets["COCO val2017"] = [row["caption"] for row in rows]
        rows = json.loads((coco / "captions_val2017_fakecap_results.json").read_text())
        sets["COCO results file"] = [row["caption"] for row in rows]
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--random", type=int, default=20_000, help="random captions of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="ptb")
    options = parser.parse_args()
    if options.tokenizer == "ptb-punctuation":
        ptbtokenizer.PUNCTUATIONS = []
    hard = [caption for pairs in HARD.values() for caption, _ in pairs]
    sets = real_captions()
    real = [caption for captions in sets.values() for caption in captions] or hard
    sets["hard captions of the tests"] = hard
    for kind in GENERATORS:
        sets[f"random: {kind}"] = random_captions(kind, options.random, real, options.seed)
    print(f"{'set':<36} {'captions':>8} {'differ':>6} {'agree':>9} {'jar s':>6} {'cliplet s':>9}")
    for name, captions in sets.items():
        start = time.perf_counter()
        theirs = jar(captions)
        middle = time.perf_counter()
        ours = [" ".join(tokens) for tokens in tokenize_many(captions, tokenizer=options.tokenizer)]
        end = time.perf_counter()
        differ = [i for i in range(len(captions)) if ours[i] != theirs[i]]
        share = 1 - len(differ) / len(captions)
        print(
            f"{name:<36} {len(captions):>8} {len(differ):>6} {share:>9.4%} {middle - start:>6.2f} {end - middle:>9.2f}"
        )
        for i in differ[:5]:
            print(f"    {captions[i]!r}\n      jar     {theirs[i]!r}\n      cliplet {ours[i]!r}")


if __name__ == "__main__":
    main()
