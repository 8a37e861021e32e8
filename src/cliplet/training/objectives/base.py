"""What an objective of a tuning recipe is: settings, what it prepares once, its columns of a batch, its loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.regions.store import RegionSettings
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.inputs import Captions, Learner, Photos
from cliplet.training.pairs import PairSet

Ints = NDArray[np.int64]
Columns = dict[str, Tensor]
"""Tensors of a batch by name."""
Rows = list[tuple[str, str]]
"""A table of two columns: what, and how much."""


@dataclass(frozen=True)
class Setup:
    """What an objective prepares itself from, once, before the training; the model has the base model's weights."""

    learner: Learner
    """The model in training."""
    train: PairSet
    """Photos and their captions."""
    photos: Photos
    """The training photos' views as the model reads them."""
    captions: Captions
    """The training captions as the model reads them."""
    bare: PairSet
    """Photos without captions; empty where the recipe has none."""
    folder: Path
    """Where to keep what is computed once (:func:`cliplet.training.computed.computed`); runs share it, so the names of
    files say what is in them."""
    augment: AugmentConfig
    """The views of training photos."""
    regions: RegionSettings
    """Where boxes come from."""
    batch_size: int
    """Photos a step in each process."""
    seed: int
    """Of the training."""
    fit: Any
    """Trains a further part where one is needed, as :func:`cliplet.training.fit.fit_part` without its first
    argument."""

    def read(self, texts: Sequence[str]) -> Captions:
        """Further texts as the model reads them; :meth:`Captions.columns` gives rows of them for a batch."""
        return Captions(self.learner, texts, self.folder)

    def look(self, photos: Sequence[Any], augment: AugmentConfig = AugmentConfig()) -> Photos:  # noqa: B008
        """Further photos as the model reads them; :meth:`Photos.batch` gives rows of them for a batch."""
        return Photos.compute(self.learner, photos, self.folder, augment)


@dataclass(frozen=True)
class Drawn:
    """The pairs of one batch, of this process."""

    photos: Ints
    """Row of each photo in the training pairs ``[B]``."""
    captions: Ints
    """Row of the caption that was drawn for it ``[B]``."""
    views: Ints
    """View that was drawn ``[B]``."""
    mirrored: NDArray[np.bool_]
    """Whether the view is mirrored ``[B]``."""
    rng: np.random.Generator
    """For further draws; depends on seed, epoch, batch and process alone."""
    together: Ints | None = None
    """Photos of the batches of all processes; None where these are all."""

    @property
    def every(self) -> Ints:
        """Rows of all photos that are in the batch, in this process or another."""
        return self.photos if self.together is None else self.together


@dataclass(frozen=True)
class Step:
    """One batch, as the loss of an objective sees it."""

    image: Tensor
    """The batch's photos ``[B, d]``, unit norm, with gradient."""
    text: Tensor
    """Their captions ``[B, d]``, row by row, unit norm."""
    scale: float
    """Logit scale, 1 / ``student.temperature``."""
    columns: Mapping[str, Tensor]
    """What :meth:`Objective.batch` gave."""
    images: Callable[[Mapping[str, Tensor]], Tensor]
    """Further photos, as :meth:`Photos.batch` gave them, through the image tower: ``[n, d]``, unit norm."""
    texts: Callable[[Mapping[str, Tensor]], Tensor]
    """Further texts, as :meth:`Captions.columns` gave them, through the text tower: ``[n, d]``, unit norm."""


@dataclass(frozen=True)
class NoSettings:
    """Of an objective without settings."""


class Objective(nn.Module):
    """A loss beside the pairs' own, with all that it needs: one line of a recipe turns it on.

    ``objectives.NAME = 0.5`` in a recipe gives it a weight; ``[objectives.NAME]`` with ``weight`` and further lines
    also its settings. Parameters of the module learn with the model, are kept in checkpoints, and are dropped at
    export. A class of your own is named as ``module:attribute``.

    Args:
        setup: what it may prepare itself from.
        settings: an instance of :attr:`settings_type`.

    Raises:
        InputError: the data does not offer what it needs; the message says what is missing and what to do.
    """

    help: ClassVar[str] = ""
    """One line for ``--settings``."""
    settings_type: ClassVar[type] = NoSettings
    """Frozen dataclass of its settings, a docstring under each."""
    contrastive: ClassVar[bool] = False
    """Whether it has the contrastive loss of the pairs inside, so that ``student.weights.contrastive`` is left out."""

    def __init__(self, setup: Setup, settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    def offers(cls, settings: Any, train: PairSet, bare: PairSet, regions: RegionSettings) -> Rows:
        """What the data offers it, for ``--dry-run``; quick, writes nothing."""
        return []

    def batch(self, drawn: Drawn) -> Columns:
        """Its columns of a batch."""
        return {}

    def forward(self, step: Step) -> Tensor | dict[str, Tensor]:
        """The loss, a scalar; or ``loss`` and further scalars for the log."""
        raise NotImplementedError


def under(prefix: str, columns: Mapping[str, Tensor]) -> Columns:
    """The columns with a prefix before their names, so that several sets fit into one batch."""
    return {prefix + name: value for name, value in columns.items()}


def of(prefix: str, columns: Mapping[str, Tensor]) -> Columns:
    """The columns whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}
