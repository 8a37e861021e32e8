"""All captions of a photo, joined, as one long text of it (FG-CLIP's and Long-CLIP's long captions)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cliplet.errors import InputError
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.objectives.base import Columns, Drawn, Objective, Rows, Setup, Step, of, under
from cliplet.training.pairs import PairSet
from cliplet.training.processes import say


@dataclass(frozen=True)
class LongTextsConfig:
    """How captions are joined."""

    captions: int = 5
    """Captions joined, at most; at least 2."""
    orders: int = 1
    """Long texts of each photo, its captions in another order each; one is drawn a step."""
    least: int = 50
    """Photos with several captions without which training does not begin."""

    def __post_init__(self) -> None:
        if self.captions < 2 or self.orders < 1 or self.least < 1:
            raise InputError(
                "objectives.long_texts: captions must be at least 2, orders and least at least 1"
            )


class LongTexts(Objective):
    """Contrast of photos with their captions joined into one long text; equal texts are no negatives.

    ``student.weights.contrastive`` stays the loss of single captions. A text tower that reads fewer tokens than the
    long texts have cuts them: ``student.context_length`` gives it more positions.

    Raises:
        InputError: too few photos have several captions.
    """

    help = "Photos against all their captions joined (FG-CLIP); see student.context_length."
    settings_type: ClassVar[type] = LongTextsConfig

    def __init__(self, setup: Setup, settings: LongTextsConfig) -> None:
        super().__init__(setup, settings)
        long = joined(setup.train, settings.captions, settings.orders)
        if len(long) < settings.least:
            raise InputError(
                f"objectives.long_texts: {len(long):,} training photos have more than one caption and "
                f"{settings.least:,} are asked for; lower objectives.long_texts.least, or leave the objective out"
            )
        number = {text: n for n, text in enumerate(dict.fromkeys(t for own in long.values() for t in own))}
        self._rows = {photo: [number[t] for t in own] for photo, own in long.items()}
        texts = list(number)
        cut = int(setup.learner.clip.encoder.tokenize(texts)[1].sum())
        if cut > 0.1 * len(texts):
            say(
                f"long_texts: {cut:,} of {len(texts):,} joined captions are longer than the "
                f"{setup.learner.clip.encoder.card.text.context_length} tokens that the text tower reads and are cut; "
                "student.context_length gives it more"
            )
        self.texts = setup.read(texts)

    @classmethod
    def offers(
        cls, settings: LongTextsConfig, train: PairSet, bare: PairSet, regions: RegionSettings
    ) -> Rows:
        """Photos with several captions."""
        long = joined(train, settings.captions, 1)
        words = [len(own[0].split()) for own in long.values()]
        length = f", {np.median(words):.0f} words at the median" if words else ""
        return [("long_texts", f"{len(long):,} photos with several captions to join{length}")]

    def batch(self, drawn: Drawn) -> Columns:
        """A long text of each photo that has one."""
        places = [i for i, photo in enumerate(drawn.photos.tolist()) if photo in self._rows]
        rows = np.array([drawn.rng.choice(self._rows[int(drawn.photos[i])]) for i in places], dtype=np.int64)
        return {
            **under("texts_", self.texts.columns(rows if len(rows) else np.zeros(1, dtype=np.int64))),
            "places": torch.tensor(places, dtype=torch.long),
            "number": torch.from_numpy(rows),
        }

    def forward(self, step: Step) -> Tensor:
        """The contrastive loss of the photos that have a long text."""
        c = step.columns
        text = step.texts(of("texts_", c))[: len(c["number"])]
        return losses.region_phrases(step.image[c["places"]], text, c["number"], step.scale)


def joined(pairs: PairSet, most: int, orders: int) -> dict[int, list[str]]:
    """The captions of each photo that has several different ones as long texts, in orders that depend on its row alone.

    Args:
        pairs: photos and captions.
        most: captions joined.
        orders: texts a photo.
    """
    found = {}
    for photo, rows in enumerate(pairs.captions_of()):
        own = list(dict.fromkeys(pairs.captions[c] for c in rows))
        if len(own) < 2:
            continue
        texts = []
        for order in range(orders):
            turn = np.random.default_rng([photo, order]).permutation(len(own))[:most]
            texts.append(" ".join(_sentence(own[i]) for i in turn))
        found[photo] = texts
    return found


def _sentence(caption: str) -> str:
    """A caption that ends like a sentence."""
    text = caption.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
