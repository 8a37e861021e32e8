"""The phrase test and box naming on the photos of a set, for a model in training."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.card import ImageSpec
from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import KINDS, Kind, Words
from cliplet.evaluation.phrases import (
    Encode,
    NamingResult,
    PhraseResult,
    box_naming,
    phrase_questions,
    phrase_test,
    phrase_wins,
)
from cliplet.regions.coco import COCO_CLASSES
from cliplet.regions.store import RegionSettings
from cliplet.training.dclip.inputs import Ints, Learner, Photos
from cliplet.training.objectives.phrases import embed_boxes, find_phrases, placed
from cliplet.training.pairs import PairSet


class RegionTest:
    """Boxes of a set with phrases that name them, and edited phrases; found once, asked of any number of models.

    Args:
        pairs: photos and captions that no model has learnt from.
        regions: where boxes come from.
        folder: where to keep them.
        spec: how photos become the tower's input.
        most: edited phrases a box, at most.
        words: part of the word pairs; ``test`` where models have learnt on ``train``.
        words_seed: of that split.
        kinds: of words to edit.
        balanced: ask about one edited phrase at a time, so that nobody can answer by commoner words
            (:func:`~cliplet.evaluation.phrases.phrase_questions`).

    Raises:
        InputError: the proposer gives no classes, or no box has a phrase that can be edited; the message has counts.
    """

    def __init__(
        self,
        pairs: PairSet,
        regions: RegionSettings,
        folder: Path,
        spec: ImageSpec,
        most: int = 10,
        words: Words = "test",
        words_seed: int = 0,
        kinds: tuple[Kind, ...] = KINDS,
        balanced: bool = True,
    ) -> None:
        found = find_phrases(pairs, regions, folder)
        boxes, seen = placed(found.named, pairs.photos, spec)
        named = [one for one, shown in zip(found.named, seen, strict=True) if shown]
        captions_of = pairs.captions_of()
        captions = [[pairs.captions[c] for c in captions_of[row]] for row, _ in named]
        self._asked, self.questions = phrase_questions(
            [one.phrase for _, one in named], [pairs.names[row] for row, _ in named], captions, most,
            words=words, words_seed=words_seed, kinds=kinds, balanced=balanced,
        )  # fmt: skip
        edited = len(set(self._asked))
        self.told = f"{found.told()}; {len(self.questions):,} questions about {edited:,} of these phrases"
        if not self.questions:
            raise InputError(f"no phrase test: {self.told}")
        self._named, self._boxes, self._names = named, boxes[seen], pairs.names

    @cached_property
    def rows(self) -> Ints:
        """The photo of each named box."""
        return np.array([row for row, _ in self._named], dtype=np.int64)

    def phrases(self, learner: Learner, photos: Photos, resamples: int = 1000) -> list[PhraseResult]:
        """The phrase test by the present weights; the photo as a whole stands among the guessers.

        Args:
            learner: the model.
            photos: the set's photos as it reads them.
            resamples: of the intervals.
        """
        rows = self.rows[self._asked]
        regions = embed_boxes(learner, photos, rows, self._boxes[self._asked])
        distinct, place = np.unique(rows, return_inverse=True)
        whole = np.concatenate([photos.embed(int(row), int(row) + 1) for row in distinct])[place]
        encode = learner.clip.encoder.encode_texts
        return phrase_test(regions, self.questions, encode, whole, resamples)

    def wins(self, learner: Learner, photos: Photos, encode: Encode) -> tuple[NDArray[np.float64], Ints]:
        """Which questions are answered right by the present weights ``[questions]``, and the photo of each.

        Args:
            learner: the model.
            photos: the set's photos as it reads them.
            encode: its texts to embeddings.
        """
        rows = self.rows[self._asked]
        regions = embed_boxes(learner, photos, rows, self._boxes[self._asked])
        return phrase_wins(regions, self.questions, encode), rows

    def naming(
        self, learner: Learner, photos: Photos, classes: tuple[str, ...] = COCO_CLASSES, resamples: int = 1000
    ) -> NamingResult:
        """How many of the named boxes are nearest to their class; the labels are the detector's.

        Args:
            learner: the model.
            photos: the set's photos as it reads them.
            classes: the names to choose from.
            resamples: of the interval.
        """
        first = {(row, one.box): n for n, (row, one) in reversed(list(enumerate(self._named)))}
        chosen = np.array(sorted(first.values()), dtype=np.int64)
        regions = embed_boxes(learner, photos, self.rows[chosen], self._boxes[chosen])
        labels = [self._named[n][1].label for n in chosen]
        names = [self._names[row] for row in self.rows[chosen]]
        encode = learner.clip.encoder.encode_texts
        return box_naming(regions, labels, classes, encode, names, resamples=resamples)
