"""Penalties on a caption's shape alone: its length, and words that it says again."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.ngrams import Caption, Floats, encode, number
from cliplet.rewards.base import WordReward, image_rows
from cliplet.rewards.references import References, reference_words


class LengthReward(WordReward):
    """``-|words - target| / target``: how far a caption's length is from that of the references.

    The target is the mean number of words of the image's references, or one number for all. Range: 0 (as long as the
    target) down to -1 for an empty caption, and without end for ever longer ones; higher is better. It sees nothing but
    the number of words.

    Args:
        references: for each image its captions; not needed with a target.
        target: words that every caption should have.

    Raises:
        InputError: neither references nor a target, a target that is not positive, or references without words.
    """

    name = "length"

    def __init__(self, references: References | None = None, *, target: float | None = None) -> None:
        if target is not None:
            if not target > 0:
                raise InputError(f"the target length must be a positive number of words, not {target}")
            self._targets = np.array([float(target)])
        elif references is None:
            raise InputError("the length reward needs references or a target length")
        else:
            self.rows, grouped = reference_words(references, "length")
            self._targets = np.array([np.mean([len(caption) for caption in group]) for group in grouped])
            if not self._targets.all():
                image = list(self.rows)[int(np.flatnonzero(self._targets == 0)[0])]
                raise InputError(f"the references of image {image!r} have no words, so they set no length")

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: the value of captions given as lists of words."""
        lengths = np.fromiter(map(len, words), np.float64, len(words))
        target = self._targets[0] if self.rows is None else self._targets[image_rows(images, self.rows)]
        result: Floats = -np.abs(lengths - target) / target
        return result


class RepetitionReward(WordReward):
    """``-repeated / words``: the share of a caption's words that repeat what it said before.

    A word is repeated if it equals the word before it ("dog dog"), or if the two end a pair of words that stood
    earlier in the caption ("a dog and a dog": the second "dog"). Saying "a" twice is no repetition. Range -1 to 0, 0
    for a caption without repetition and for an empty one; higher is better. It needs no references.

    Source: seq-rep-n of Welleck et al., ICLR 2020, at n = 2, with the rule on neighbours added and counted per word.
    """

    name = "repetition"

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: the value of captions given as lists of words."""
        flat, lengths, vocabulary, _ = encode(words)  # [words of all captions], [n]
        caption = np.repeat(np.arange(len(lengths)), lengths)
        inside = caption[1:] == caption[:-1]  # pairs of neighbours in one caption
        owner, first, second = caption[1:][inside], flat[:-1][inside], flat[1:][inside]
        _, pair = number(owner * len(vocabulary) ** 2 + first * len(vocabulary) + second)
        seen = np.ones(len(pair), bool)
        seen[np.unique(pair, return_index=True)[1]] = False  # where each pair stands first
        repeated = np.bincount(owner[seen | (first == second)], minlength=len(lengths))
        result: Floats = -repeated / np.maximum(lengths, 1)
        return result
