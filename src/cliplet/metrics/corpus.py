"""Corpus values as functions of sums over captions, so that any metric can be resampled exactly.

BLEU and METEOR are no means over captions: they are computed from counts summed over the corpus. Kept as one row of
addends a caption, such a value can be recomputed on any resample of the corpus, which intervals and tests need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CorpusStatistic:
    """A corpus value that depends on the captions only through sums."""

    addends: Floats
    """``[captions, k]``: what each caption adds."""
    value: Callable[[Floats], Floats]
    """From sums ``[..., k]`` to the corpus value ``[...]``."""

    @classmethod
    def mean(cls, per_caption: NDArray[Any]) -> "CorpusStatistic":
        """The mean over captions that have a value (not NaN)."""
        values = np.asarray(per_caption, dtype=np.float64)
        known = ~np.isnan(values)
        return cls(np.stack([np.where(known, values, 0), known], axis=1).astype(np.float64), _ratio)

    def corpus(self) -> float:
        """The value of the whole corpus."""
        return float(self.value(self.addends.sum(axis=0)))

    def by_group(self, codes: NDArray[np.integer], groups: int) -> Floats:
        """Sums ``[groups, k]`` of the captions of each group (an image)."""
        return np.stack([np.bincount(codes, column, groups) for column in self.addends.T], axis=1)

    def placed(self, rows: Sequence[int], n: int) -> "CorpusStatistic":
        """The same captions as rows of a table of ``n``, the others adding nothing."""
        addends = np.zeros((n, self.addends.shape[1]))
        addends[list(rows)] = self.addends
        return CorpusStatistic(addends, self.value)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])
