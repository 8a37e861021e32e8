"""SPIDEr (Liu et al., ICCV 2017, arXiv 1612.00370): the mean of SPICE and CIDEr-D.

It runs where SPICE does (:mod:`cliplet.metrics.spice`), in one run of the Java program for both.
"""

import numpy as np

from cliplet.metrics import cider
from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.ngrams import Floats
from cliplet.metrics.spice import of_corpus
from cliplet.statistics.corpus import CorpusStatistic


def columns(corpus: Corpus) -> ReferenceScores:
    """SPIDEr for the table of metrics, 0 to 5.5; NaN where SPICE has no score.

    Its corpus value is the mean of the corpus values of both, of which SPICE leaves out captions without a score.
    """
    by_cider = cider.columns(corpus)
    spice, cider_d = corpus.once(of_corpus).per_caption, by_cider.per_caption["CIDEr-D"]
    parts = [CorpusStatistic.mean(values).addends for values in (spice, cider_d)]
    found = ReferenceScores(notes=by_cider.notes)
    found.add("SPIDEr", (spice + cider_d) / 2, CorpusStatistic(np.concatenate(parts, axis=1), _mean_of_means))
    return found


def _mean_of_means(sums: Floats) -> Floats:
    """[...] from sums [..., 4] of SPICE, its captions, CIDEr-D and its captions."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2)
