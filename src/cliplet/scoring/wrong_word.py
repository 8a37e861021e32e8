"""Which word of a sentence is most likely wrong: by what is gained without it and with other words in its place.

For word i with cosine c of the sentence, c(-i) without it and c(a) with another word a of its kind in its place, all in
units of the photo's own spread of cosines s (:mod:`cliplet.scoring.background`):

    doubt_i = ALTERNATIVES * log mean over a of exp(SHARPNESS * (c(a) - c) / s) + LEFT_OUT * (c(-i) - c) / s + KINDS[kind]

and the probability that word i is the wrong one, if one is, is exp(doubt_i) over the sum of all words'. The mean of
exponentials is the evidence for "some other word of this kind fits the photo better" when all are equally likely
beforehand. The weights were fitted as this softmax on false captions of half of Flickr8k's dev photos
(``benchmarks/explain.py --fit``); words of no kind ("a", "is") are no candidates unless a sentence has no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliplet.scoring.units import Word, replaced, without
from cliplet.scoring.vocabulary import Kind, words_of_kind

SHARPNESS = 7.0
"""How sharply a better alternative counts, for a gain of one spread."""
ALTERNATIVES = 0.38
"""Weight of the alternatives."""
LEFT_OUT = 0.7
"""Weight of leaving the word out."""
KINDS: dict[Kind, float] = {
    "noun": 0.06, "nouns": 0.09, "doing": 0.56, "does": 0.84, "colour": 1.49, "number": 1.39, "quality": -0.68,
    "place": 0.0,
}  # fmt: skip
"""How much likelier a word of this kind is the wrong one, in log odds."""
BETTER = 3
"""Alternatives that are named."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WordDoubt:
    """One word and how likely it is the wrong one."""

    text: str
    """The word."""
    start: int
    """Place of its first character in the caption."""
    end: int
    """Place after its last character."""
    kind: Kind | None
    """What kind of word; None for words that say nothing by themselves."""
    left_out: float
    """Change of the score when it is left out, in the score's unit; above 0: the score is better without it."""
    doubt: float
    """Log odds, as the module says."""
    probability: float
    """Probability that it is the wrong word of its sentence if one is, 0..1."""
    better: tuple[tuple[str, float], ...]
    """Words that fit better in its place, with the change of the score; the best first, at most BETTER."""


@dataclass(frozen=True)
class Variants:
    """The texts that the words of one sentence need."""

    without: list[str]
    """The sentence without each word."""
    others: list[list[tuple[str, str]]]
    """For each word the words tried in its place, and the sentence with each."""

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [*self.without, *(text for own in self.others for _, text in own)]


def variants(sentence: str, words: Sequence[Word]) -> Variants:
    """The sentence without each of its words (places are in the sentence), and with each other word of its kind.

    A word that the sentence has elsewhere is not tried.
    """
    here = {word.text.lower() for word in words}
    others: list[list[tuple[str, str]]] = []
    for word in words:
        listed = words_of_kind()[word.kind] if word.kind is not None else ()
        others.append([(other, replaced(sentence, word, other)) for other in listed if other not in here])
    return Variants([without(sentence, [word]) for word in words], others)


def doubts(
    words: Sequence[Word],
    cosine: float,
    left_out: Sequence[float],
    others: Sequence[Sequence[tuple[str, float]]],
    spread: float,
    factor: float = 1.0,
) -> list[WordDoubt]:
    """How likely each word of a sentence is the wrong one.

    Args:
        words: the words.
        cosine: of the sentence and the photo.
        left_out: cosine without each word.
        others: for each word the alternatives and their cosines.
        spread: of the photo's cosines with everyday sentences.
        factor: score points for each unit of cosine.
    """
    spread = max(spread, 1e-6)
    removed = (np.asarray(left_out, dtype=np.float64) - cosine) / spread
    raw: Floats = LEFT_OUT * removed
    for i, (word, tried) in enumerate(zip(words, others, strict=True)):
        if word.kind is not None:
            raw[i] += KINDS[word.kind]
            if tried:
                gains = (np.array([c for _, c in tried]) - cosine) / spread
                raw[i] += ALTERNATIVES * _log_mean_exp(SHARPNESS * gains)
    candidates = np.array([word.kind is not None for word in words])
    if not candidates.any():
        candidates[:] = True
    odds = np.where(candidates, np.exp(raw - raw[candidates].max()), 0.0)
    shares = odds / odds.sum()
    found = []
    for i, (word, tried) in enumerate(zip(words, others, strict=True)):
        better = sorted(((c - cosine) * factor, other) for other, c in tried if c > cosine)[::-1][:BETTER]
        named = tuple((other, gain) for gain, other in better)
        found.append(
            WordDoubt(word.text, word.start, word.end, word.kind, (left_out[i] - cosine) * factor, float(raw[i]),
                      float(shares[i]), named)
        )  # fmt: skip
    return found


def _log_mean_exp(values: Floats) -> float:
    top = values.max()
    return float(top + np.log(np.mean(np.exp(values - top))))
