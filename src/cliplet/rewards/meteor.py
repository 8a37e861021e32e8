"""METEOR 1.5 as a reward."""

from collections.abc import Hashable, Sequence

from cliplet.metrics.meteor import Meteor
from cliplet.metrics.ngrams import Caption, Floats
from cliplet.rewards.base import WordReward, image_rows
from cliplet.rewards.references import References, reference_words


class MeteorReward(WordReward):
    """METEOR 1.5 with the best reference: ``F * (1 - 0.6 * (chunks / matches)^0.2)``.

    F is the harmonic mean of precision and recall of words matched exactly, by stem, as synonyms or as paraphrases
    (alpha 0.85, which favours recall); chunks are the pieces in which matched words stand in another order. Range 0 to
    1, higher is better. It favours long captions, since recall counts most.

    Source: Denkowski and Lavie 2014; the same values as ``cliplet.metrics.meteor``. It needs no Java, but tables that
    the extra ``meteor`` brings.

    Args:
        references: for each image its captions, as strings or as lists of words.

    Raises:
        InputError: no references, or an image without any.
        MissingExtraError: the tables are not installed; at once, not when the first captions come.
    """

    name = "meteor"

    def __init__(self, references: References) -> None:
        self._meteor = Meteor()
        self.rows, self._references = reference_words(references, "METEOR")

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: METEOR of captions given as lists of words."""
        assert self.rows is not None
        references = [self._references[row] for row in image_rows(images, self.rows)]
        return self._meteor(words, references).per_caption
