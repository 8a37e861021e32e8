"""False captions made from true ones: how many of each kind, and how often guessers tell them without a photo.

Command: python -m benchmarks.false_captions CAPTIONS [--split NAMES] [--photos N] [--words train] [--words-seed 0]
Needs: pip install cliplet

"likelier" takes the caption that a trigram model fitted on the captions of the other photos finds likelier.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cliplet.data.book import read_book
from cliplet.data.text import read_names
from cliplet.evaluation.fluency import NgramModel, count_ngrams
from cliplet.evaluation.hard_negatives import KINDS, HardNegative, hard_negatives
from cliplet.evaluation.pairs import blind_wins

WAYS = {"as drawn": (False, False), "fluent": (True, False), "balanced": (True, True)}
GUESSERS = ("shorter", "longer", "commoner words", "likelier")


def guesses(
    made: Sequence[HardNegative], captions: Mapping[str, Sequence[str]], model: NgramModel
) -> dict[str, np.ndarray]:
    """Wins of each guesser ``[made]``; ties count half."""
    own = {image: count_ngrams(captions[image]) for image in {n.image for n in made}}
    apart = np.array([model.difference(n.false, n.true, own[n.image]) for n in made])
    return {**blind_wins([n.pair() for n in made]), "likelier": (apart < 0) + 0.5 * (apart == 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--split", type=Path, help="file of image names")
    parser.add_argument("--photos", type=int, help="the first so many")
    parser.add_argument("--words", default="train", choices=["all", "train", "test"])
    parser.add_argument("--words-seed", type=int, default=0)
    arguments = parser.parse_args()
    book = read_book([arguments.captions])
    names = read_names(arguments.split, "image names") if arguments.split else list(book.images)
    captions = book.only(names[: arguments.photos]).images
    total = sum(map(len, captions.values()))
    print(f"{len(captions)} photos, {total} captions; words = {arguments.words}, seed {arguments.words_seed}")
    model = NgramModel(c for own in captions.values() for c in own)
    for way, (fluent, balanced) in WAYS.items():
        made = hard_negatives(
            captions, KINDS, 0, arguments.words, arguments.words_seed, fluent, balanced=balanced
        )
        wins = guesses(made, captions, model)
        swapped = {(n.category, frozenset((n.before.lower(), n.after.lower()))) for n in made}
        for kind in (*KINDS, "all"):
            here = np.array([kind in ("all", n.category) for n in made])
            words = sum(kind in ("all", swapped_kind) for swapped_kind, _ in swapped)
            shares = [f"{name} {100 * wins[name][here].mean():5.1f}" for name in GUESSERS if here.any()]
            print(
                f"{way:9} {kind:7} {here.sum():6} false captions of {words:4} word pairs: {'  '.join(shares)}"
            )


if __name__ == "__main__":
    main()
