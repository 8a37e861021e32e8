"""False captions of the training pairs: one word swapped for a wrong one, or another photo's caption."""

from collections.abc import Sequence
from dataclasses import dataclass

from cliplet.evaluation.hard_negatives import KINDS, Kind
from cliplet.training.pairs import PairSet


@dataclass(frozen=True)
class FalseCaption:
    """A caption that a training photo does not show, made from one of its own."""

    caption: int
    """The true caption's row in ``pairs.captions``."""
    text: str
    """The false caption."""
    kind: Kind
    """What kind of word was swapped."""
    before: str
    """The word that was there."""
    after: str
    """The word put in its place."""


def false_captions(
    pairs: PairSet,
    kinds: Sequence[Kind] = KINDS,
    words: str = "all",
    seed: int = 0,
    fluent: bool = True,
    per_caption: int = 1,
) -> list[FalseCaption]:
    """False captions of the training captions, in the order of these."""
    raise NotImplementedError
