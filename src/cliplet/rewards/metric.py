"""Any metric on references as a reward."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.metrics.ngrams import Floats
from cliplet.metrics.registry import ReferenceMetric, find_metrics, reference_scores
from cliplet.rewards.base import check_known, check_pairs, image_rows
from cliplet.rewards.references import References, reference_words


class MetricReward:
    """The score of a metric of ``cliplet.metrics.registry`` for each caption; of several columns the last.

    It computes from scratch at every call, so the metrics that have a reward of their own (CIDEr-D, BLEU, METEOR) are
    faster there. Range and direction are the metric's; a caption without a score gets 0.

    Args:
        metric: its name, ``module:attribute``, or the ReferenceMetric.
        references: for each image its captions, strings.

    Raises:
        InputError: an unknown metric, one that cannot run here, no references, or an image without any.
    """

    def __init__(self, metric: str | ReferenceMetric, references: References) -> None:
        (self.metric,) = find_metrics([metric])
        self.name = self.metric.name
        self.rows, _ = reference_words(references, self.name)
        self._references = [[str(caption) for caption in group] for group in references.values()]

    def check_images(self, images: Sequence[Hashable]) -> None:
        """Raise InputError if an image has no references."""
        check_known(images, self.rows, f"references in the reward {self.name!r}")

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> Floats:
        """The reward of each caption for its image, float64 ``[n]``.

        Raises:
            InputError: nothing to reward, lengths that differ, a caption that is no string, or an unknown image.
        """
        check_pairs(images, captions)
        self.check_images(images)
        references = [self._references[row] for row in image_rows(images, self.rows)]
        found = reference_scores(captions, references, None, [self.metric], joined=False)
        return np.nan_to_num(list(found.per_caption.values())[-1])
