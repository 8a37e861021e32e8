"""Which word of a sentence is most likely wrong: by what is gained without it and with other words in its place.

For word i let c be the cosine of the sentence, c(a) with another word a of its kind in its place, n and n(-i) those of
the NEAR words on either side with it and without it, all in units of the photo's own spread of cosines s
(:mod:`cliplet.scoring.background`):

    doubt_i = ALTERNATIVES * log mean over a of exp(SHARPNESS * (c(a) - c) / s) + LEFT_OUT * (n(-i) - n) / s
              + KINDS[kind]

and the probability that word i is the wrong one, if one is, is exp(doubt_i) over the sum of all words'. The mean of
exponentials is the evidence for "some other word of this kind fits the photo better" when all are equally likely
beforehand. The weights were fitted as this softmax on false captions of half of Flickr8k's dev photos
(``python -m benchmarks.explain --fit``); words of no kind ("a", "is") are no candidates unless a sentence has no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cliplet.scoring.units import Word, replaced, without
from cliplet.scoring.vocabulary import Kind, words_of_kind

SHARPNESS = 5.0
"""How sharply a better alternative counts, for a gain of one spread."""
ALTERNATIVES = 0.58
"""Weight of the alternatives."""
LEFT_OUT = 0.46
"""Weight of leaving the word out of its neighbourhood."""
NEAR = 3
"""Words on either side that are its neighbourhood."""
KINDS: dict[Kind, float] = {
    "noun": 2.69, "nouns": 2.34, "doing": 2.97, "does": 3.18, "colour": 3.30, "number": 3.60, "quality": 0.80,
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
    near: list[tuple[str, str]]
    """Each word's neighbourhood with it and without it."""
    others: list[list[tuple[str, str]]]
    """For each word the words tried in its place, and the sentence with each."""

    @property
    def texts(self) -> list[str]:
        """All of them."""
        near, others = sum(self.near, ()), [text for own in self.others for _, text in own]
        return [*self.without, *near, *others]


def variants(sentence: str, words: Sequence[Word]) -> Variants:
    """The sentence without each of its words (places are in the sentence), and with each other word of its kind.

    A word that the sentence has elsewhere is not tried.
    """
    here = {word.text.lower() for word in words}
    others: list[list[tuple[str, str]]] = []
    near = []
    for i, word in enumerate(words):
        around = words[max(0, i - NEAR) : i + NEAR + 1]
        start = around[0].start
        part = sentence[start : around[-1].end]
        near.append((part, without(part, [replace(word, start=word.start - start, end=word.end - start)])))
        listed = words_of_kind()[word.kind] if word.kind is not None else ()
        others.append([(other, replaced(sentence, word, other)) for other in listed if other not in here])
    return Variants([without(sentence, [word]) for word in words], near, others)


def evidence(
    words: Sequence[Word],
    cosine: float,
    near: Sequence[tuple[float, float]],
    others: Sequence[Sequence[tuple[str, float]]],
    spread: float,
) -> Floats:
    """``[words, 2]``: what ALTERNATIVES and LEFT_OUT are multiplied with; arguments as of :func:`doubts`."""
    spread = max(spread, 1e-6)
    found = np.zeros((len(words), 2))
    for i, (pair, tried) in enumerate(zip(near, others, strict=True)):
        if tried:
            gains = (np.array([c for _, c in tried]) - cosine) / spread
            found[i, 0] = _log_mean_exp(SHARPNESS * gains)
        found[i, 1] = (pair[1] - pair[0]) / spread
    return found


def doubts(
    words: Sequence[Word],
    cosine: float,
    left_out: Sequence[float],
    near: Sequence[tuple[float, float]],
    others: Sequence[Sequence[tuple[str, float]]],
    spread: float,
    factor: float = 1.0,
) -> list[WordDoubt]:
    """How likely each word of a sentence is the wrong one.

    Args:
        words: the words.
        cosine: of the sentence and the photo.
        left_out: cosine without each word.
        near: cosines of each word's neighbourhood with it and without it.
        others: for each word the alternatives and their cosines.
        spread: of the photo's cosines with everyday sentences.
        factor: score points for each unit of cosine.
    """
    raw = evidence(words, cosine, near, others, spread) @ np.array([ALTERNATIVES, LEFT_OUT])
    raw += [0.0 if word.kind is None else KINDS[word.kind] for word in words]
    candidates = np.array([word.kind is not None for word in words])
    if not candidates.any():
        candidates[:] = True
    odds = np.where(candidates, np.exp(np.minimum(raw - raw[candidates].max(), 0.0)), 0.0)
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
