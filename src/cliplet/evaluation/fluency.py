"""How usual a sentence is: a trigram model fitted on captions, which says of changed sentences how odd they sound."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cliplet.statistics.kendall import Floats

_TOKEN = re.compile(r"[a-z0-9][a-z0-9'-]*|[^\sa-z0-9]")
_BEGIN, _END = "<s>", "</s>"
History = tuple[str, ...]
Counts = dict[History, Counter[str]]
"""How often each word follows each history of up to two words."""


def tokens(sentence: str) -> list[str]:
    """Words and punctuation in lower case, between two marks of the beginning and one of the end."""
    return [_BEGIN, _BEGIN, *_TOKEN.findall(sentence.lower()), _END]


class NgramModel:
    """Interpolated trigrams with Witten-Bell's weights.

    ``P(w | h) = (c(h w) + t(h) P(w | h')) / (c(h) + t(h))`` with c the counts, t(h) the number of different words after
    h, and h' the history without its first word; below single words lies the uniform distribution.

    Args:
        sentences: what it is fitted on.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.after = count_ngrams(sentences)
        self.total = {history: counts.total() for history, counts in self.after.items()}
        self.words = len(self.after.get((), ())) + 1
        """Different words, and one for those never seen."""

    def probability(self, word: str, history: Sequence[str], without: Counts | None = None) -> float:
        """P(word | the last two words of the history).

        Args:
            word: as :func:`tokens` gives it.
            history: the words before it.
            without: counts of sentences (:func:`count_ngrams`) that were fitted and shall not count.
        """
        found = 1.0 / self.words
        for length in range(min(2, len(history)) + 1):
            h = tuple(history[len(history) - length :])
            after = self.after.get(h)
            if after is None:
                break
            own = without.get(h) if without else None
            count, total, kinds = after[word], self.total[h], len(after)
            if own:
                count, total = count - own[word], total - own.total()
                if length:  # of single words there are too many for a difference
                    kinds -= sum(after[w] <= n for w, n in own.items())
            if total <= 0:
                break
            found = (count + kinds * found) / (total + kinds)
        return found

    def log_likelihood(self, sentence: str, without: Counts | None = None) -> float:
        """Natural logarithm of a sentence's probability."""
        words = tokens(sentence)
        return self._span(words, range(2, len(words)), without)

    def _span(self, words: list[str], places: Iterable[int], without: Counts | None) -> float:
        return sum(math.log(self.probability(words[i], words[i - 2 : i], without)) for i in places)

    def difference(self, changed: str, sentence: str, without: Counts | None = None) -> float:
        """How much likelier a changed sentence is than the sentence, as a difference of log likelihoods.

        Args:
            changed: with some words swapped.
            sentence: the sentence.
            without: see :meth:`probability`.
        """
        new, old = tokens(changed), tokens(sentence)
        if len(new) != len(old):
            return self.log_likelihood(changed, without) - self.log_likelihood(sentence, without)
        places = [i for i, (a, b) in enumerate(zip(new, old, strict=True)) if a != b]
        if not places:
            return 0.0
        span = range(
            places[0], min(places[-1] + 3, len(new))
        )  # the words after have the changed ones in their history
        return self._span(new, span, without) - self._span(old, span, without)


def count_ngrams(sentences: Iterable[str]) -> Counts:
    """Words, pairs and triples of sentences."""
    found: Counts = {}
    for sentence in sentences:
        words = tokens(sentence)
        for i in range(2, len(words)):
            for start in (i, i - 1, i - 2):
                found.setdefault(tuple(words[start:i]), Counter())[words[i]] += 1
    return found


def fair_choice(gaps: Floats, groups: Sequence[str], order: Sequence[int]) -> NDArray[np.bool_]:
    """Which pairs to keep so that no guesser that goes by the sign of one of the gaps wins more than half.

    Pairs of a group whose gaps are alike in sign (and, of the first one, in size to a whole number) are kept in as many
    cases as there are with all gaps reversed, as SugarCrepe's adversarial refinement does.

    Args:
        gaps: what each guesser sees, positive where it prefers the true caption ``[pairs, guessers]``.
        groups: of each pair, such as its kind.
        order: a number for each pair; those with the lowest stay.

    Source: SugarCrepe (arXiv 2306.14610), section 3.
    """
    signs = np.sign(gaps).astype(np.int64)
    signs[:, 0] *= np.ceil(np.abs(gaps[:, 0])).astype(np.int64)
    cells: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for i in sorted(range(len(gaps)), key=lambda i: (order[i], i)):
        cells.setdefault((groups[i], tuple(signs[i].tolist())), []).append(i)
    keep = np.zeros(len(gaps), dtype=bool)
    for (group, cell), rows in cells.items():
        mirror = cells.get((group, tuple(-c for c in cell)), [])
        keep[rows[: len(mirror)]] = True
    return keep
