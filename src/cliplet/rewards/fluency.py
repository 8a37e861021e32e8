"""Fluency as a reward: does the caption read like the training captions, word after word and to its end?"""

from collections.abc import Hashable, Sequence

from cliplet.metrics.ngrams import Caption, Floats
from cliplet.rewards.base import WordReward
from cliplet.rewards.language_model import NgramModel
from cliplet.rewards.references import all_words


class FluencyReward(WordReward):
    """SLOR of a trigram language model: ``(log p(caption) - sum log f(word)) / words``, the end counted as a word.

    p is the model's probability (:class:`NgramModel`, counted on the training captions), f a word's share of their
    words. It says how much better each word is expected where it stands than anywhere; taking f away keeps the reward
    from preferring the commonest words. No fixed range (natural logarithms a word): about 1.8 for a caption by
    people, below 0 for words in random order; higher is better. Words that the training captions do not have at
    least twice are not excused by their rarity, so made-up words cost. Shuffled words, lists of nouns and captions that
    stop in the middle get low values; whether the caption is true of the photo is not looked at.

    Source: SLOR, Pauls and Klein, ACL 2012; as a measure of fluency, Kann et al., CoNLL 2018.

    Args:
        captions: training captions, as strings or as lists of words.

    Raises:
        InputError: no captions, or none with words.

    Example::

        reward = FluencyReward(training_captions)
        reward(["any"], ["a dog runs on the beach"])
    """

    name = "fluency"

    def __init__(self, captions: Sequence[str] | Sequence[Caption]) -> None:
        self._model = NgramModel(all_words(captions))

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """[n]: SLOR of captions given as lists of words."""
        logs = self._model(words)
        result: Floats = (logs.model - logs.unigrams) / logs.words
        return result
