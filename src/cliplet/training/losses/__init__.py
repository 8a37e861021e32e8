"""Distillation and contrastive losses, each a function of embeddings (or states) that returns a scalar.

In a distributed run the losses that compare pairs within a batch gather the batch of all processes first (see
:mod:`cliplet.training.losses.gather`), so their value and gradient do not depend on the number of processes.

:data:`LOSSES` is the table of those that a recipe weighs by name. To add a loss takes its file and a row here; a
user's own is named as ``module:attribute``.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cliplet.data.plugins import known_or_own
from cliplet.errors import InputError
from cliplet.training.losses.clusters import cluster_agreement, cluster_confidence, cluster_spread
from cliplet.training.losses.contrastive import affinity_mimicking, contrastive, interactive_contrastive
from cliplet.training.losses.denoising import denoising, flow
from cliplet.training.losses.embedding import FeatureMSE, cosine, feature_mse, l1
from cliplet.training.losses.gather import gather, gather_ragged
from cliplet.training.losses.multi_text import multi_positive, multi_text
from cliplet.training.losses.negatives import negclip, triplet, union
from cliplet.training.losses.regions import hard_phrases, region_phrases
from cliplet.training.losses.regulator import similarity_regulator
from cliplet.training.losses.relation import attention_distillation, hidden_distillation
from cliplet.training.losses.semi import bare_contrastive, caption_labels, keyword_labels
from cliplet.training.losses.sigmoid import sigmoid

__all__ = [
    "LOSSES",
    "FeatureMSE",
    "Loss",
    "affinity_mimicking",
    "attention_distillation",
    "bare_contrastive",
    "caption_labels",
    "cluster_agreement",
    "cluster_confidence",
    "cluster_spread",
    "contrastive",
    "cosine",
    "denoising",
    "feature_mse",
    "find_losses",
    "flow",
    "gather",
    "gather_ragged",
    "hard_phrases",
    "hidden_distillation",
    "interactive_contrastive",
    "keyword_labels",
    "l1",
    "multi_positive",
    "multi_text",
    "negclip",
    "region_phrases",
    "sigmoid",
    "similarity_regulator",
    "triplet",
    "union",
]

TOWER = ("student", "teacher")
"""Embeddings of one tower ``[B, d_t]``: the loss is computed for each tower that learns, and summed."""
PAIR = (
    "student_image", "student_text", "mapped_image", "mapped_text", "teacher_image", "teacher_text", "scale",
    "teacher_scale",
)  # fmt: skip
"""Embeddings of photos and their captions, row by row: the student's own ``[B, d_s]``, the student's mapped to the
teacher's width and the teacher's ``[B, d_t]``; the learnt logit scale, and the stage's ``teacher_scale``. Where a tower
does not learn, the teacher's embedding stands for the student's."""


@dataclass(frozen=True)
class Loss:
    """A loss that recipes weigh."""

    function: Callable[..., Tensor]
    """Gives a scalar."""
    needs: tuple[str, ...]
    """What it is called with, in order: both of :data:`TOWER`, or any of :data:`PAIR`."""
    help: str = ""
    """One line for ``--settings``."""

    def __post_init__(self) -> None:
        if not self.needs or not (set(self.needs) <= set(TOWER) or set(self.needs) <= set(PAIR)):
            name = getattr(self.function, "__name__", self.function)
            raise InputError(
                f"loss {name} needs {', '.join(self.needs) or 'nothing'}; a loss takes {', '.join(TOWER)}, or some of "
                f"{', '.join(PAIR)}"
            )

    @property
    def pairs(self) -> bool:
        """Whether it compares photos with captions."""
        return set(self.needs) <= set(PAIR)

    @property
    def scaled(self) -> bool:
        """Whether the logit scale learns from it."""
        return "scale" in self.needs

    @property
    def mapped(self) -> bool:
        """Whether it compares the student's embeddings with the teacher's directly."""
        return not self.pairs or any(name.startswith("mapped") for name in self.needs)


LOSSES = {
    "l1": Loss(l1, TOWER, "L1 to the teacher's embedding, for each trained tower."),
    "cosine": Loss(cosine, TOWER, "Cosine loss to the teacher's embedding, for each trained tower."),
    "feature_mse": Loss(
        feature_mse, TOWER, "MSE of unit embeddings, for each trained tower (CLIP-KD weighs it by 2000)."
    ),
    "sr": Loss(
        similarity_regulator,
        ("student_image", "student_text", "teacher_image", "teacher_text"),
        "Similarity Regulator between the towers.",
    ),
    "contrastive": Loss(
        contrastive,
        ("student_image", "student_text", "scale"),
        "Contrastive cross-entropy between the towers.",
    ),
    "affinity": Loss(
        affinity_mimicking,
        ("student_image", "student_text", "teacher_image", "teacher_text", "scale", "teacher_scale"),
        "Affinity mimicking between the towers.",
    ),
    "interactive": Loss(
        interactive_contrastive,
        ("mapped_image", "mapped_text", "teacher_image", "teacher_text", "scale"),
        "Interactive contrastive loss.",
    ),
}
"""Name in recipes to loss, in the order of logs."""


def _check_files(besides: set[str]) -> None:
    """Raise an ImportError for a file of this folder without a row."""
    rows = {loss.function.__module__.rpartition(".")[2] for loss in LOSSES.values()}
    forgotten = {module.name for module in pkgutil.iter_modules(__path__)} - rows - besides
    if forgotten:
        raise ImportError(f"no loss of {', '.join(sorted(forgotten))} is in LOSSES: add a row")


# Those of relation are of token states, which stages do not have; the others are turned on as objectives.
_check_files(
    besides={
        "clusters",
        "denoising",
        "gather",
        "multi_text",
        "negatives",
        "regions",
        "relation",
        "semi",
        "sigmoid",
    }
)


def find_losses(weights: Mapping[str, float]) -> dict[str, Loss]:
    """The losses that have a weight, those of the table first.

    Args:
        weights: by name of the table, or ``module:attribute`` of a :class:`Loss` or of a function that takes what the
            names of its parameters say (see :data:`TOWER` and :data:`PAIR`).

    Raises:
        InputError: an unknown name, or an attribute that is no loss.
    """
    named = {name: _find(name) for name, weight in weights.items() if weight}
    return {name: named[name] for name in (*(n for n in LOSSES if n in named), *named)}


def _find(name: str) -> Loss:
    found: Any = known_or_own(name, LOSSES, "loss")
    if isinstance(found, Loss):
        return found
    if not callable(found):
        raise InputError(f"loss {name!r} is of type {type(found).__name__}: it must be a function or a Loss")
    parameters = inspect.signature(found).parameters.values()
    return Loss(found, tuple(p.name for p in parameters if p.default is p.empty))
