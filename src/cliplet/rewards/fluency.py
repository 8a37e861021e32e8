"""Fluency as a reward."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.metrics.ngrams import Caption, Floats
from cliplet.rewards.base import WordReward


class FluencyReward(WordReward):
    """Skeleton: being written."""

    name = "fluency"

    def __init__(self, captions: Sequence[Caption]) -> None:
        self._captions = len(captions)

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]."""
        return np.zeros(len(words))
