"""Objectives of tuning recipes: ways to make a CLIP better from few pairs, each turned on by one line.

:data:`OBJECTIVES` is the table. To add one takes its file and a row here; a user's own is named as
``module:attribute``.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cliplet.data.plugins import known_or_own
from cliplet.errors import InputError
from cliplet.models.config import from_dict
from cliplet.training.objectives.bare import Pseudo, Sclip
from cliplet.training.objectives.base import (
    Columns,
    Drawn,
    NoSettings,
    Objective,
    Rows,
    Setup,
    Step,
    of,
    under,
)
from cliplet.training.objectives.clusters import Nclip
from cliplet.training.objectives.distill import Distill
from cliplet.training.objectives.long_texts import LongTexts
from cliplet.training.objectives.multi_text import MultiText
from cliplet.training.objectives.negatives import Negclip, Triplet
from cliplet.training.objectives.regions import Regions
from cliplet.training.objectives.regulator import Regulator
from cliplet.training.objectives.sigmoid import Sigmoid
from cliplet.training.objectives.un2clip import Un2Clip

__all__ = [
    "OBJECTIVES", "Chosen", "Columns", "Drawn", "NoSettings", "Objective", "Rows", "Setup", "Step", "chosen_objectives",
    "of", "under",
]  # fmt: skip

OBJECTIVES: dict[str, type[Objective]] = {
    "sr": Regulator,
    "negclip": Negclip,
    "triplet": Triplet,
    "sclip": Sclip,
    "pseudo": Pseudo,
    "nclip": Nclip,
    "un2clip": Un2Clip,
    "sigmoid": Sigmoid,
    "multi_text": MultiText,
    "regions": Regions,
    "long_texts": LongTexts,
    "distill": Distill,
}
"""Name in recipes to objective, in the order of logs."""
PLAIN = ("image", "text", "scale")
"""What a function of a user's own may be called with: the batch's unit embeddings ``[B, d]`` and the logit scale. Its
further parameters have defaults: they are its settings."""


@dataclass(frozen=True)
class Chosen:
    """An objective that a recipe turns on."""

    kind: type[Objective]
    """The class."""
    weight: float
    """Its weight in the loss."""
    settings: Any
    """Of its :attr:`Objective.settings_type`."""


def chosen_objectives(wanted: Mapping[str, Any]) -> dict[str, Chosen]:
    """The objectives that a recipe turns on.

    Args:
        wanted: by name, a weight, or a table of ``weight`` and settings. Those of weight 0 are off.

    Raises:
        InputError: an unknown name or setting, or a value of another type; the message names it.
    """
    found = {}
    for name, value in wanted.items():
        where = f"objectives.{name}"
        table = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = table.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise InputError(
                f"{where} is {weight!r}: give a weight of at least 0, or a table with weight and settings"
            )
        kind = _find(name)
        settings: Any = from_dict(kind.settings_type, table, f"{where}.")
        if weight:
            found[name] = Chosen(kind, float(weight), settings)
    return found


def _find(name: str) -> type[Objective]:
    found: Any = known_or_own(name, OBJECTIVES, "objective")
    if isinstance(found, type) and issubclass(found, Objective):
        if not dataclasses.is_dataclass(found.settings_type):
            raise InputError(
                f"objective {name!r}: its settings_type must be a dataclass, not {found.settings_type!r}"
            )
        return found
    if callable(found) and not isinstance(found, type):
        return _of_function(name, found)
    raise InputError(
        f"objective {name!r} is of type {type(found).__name__}: it must be a class of "
        f"cliplet.training.objectives.Objective, or a function of some of {', '.join(PLAIN)}"
    )


def _of_function(name: str, function: Callable[..., Tensor]) -> type[Objective]:
    """The objective of a function that is called with what the names of its parameters say.

    Parameters with a default are its settings.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # of a function that is not Python's
        raise InputError(
            f"objective {name!r} does not tell its parameters ({error}): write a function of your own round it"
        ) from error
    needs = [p.name for p in parameters if p.default is p.empty]
    if not needs or not set(needs) <= set(PLAIN):
        raise InputError(
            f"objective {name!r} is a function of {', '.join(needs) or 'nothing'}: a function takes some of "
            f"{', '.join(PLAIN)}; for more write a class of cliplet.training.objectives.Objective"
        )
    given = [
        (
            p.name,
            type(p.default) if isinstance(p.default, bool | int | float | str) else Any,
            _default(p.default),
        )
        for p in parameters
        if p.default is not p.empty
    ]

    class OfFunction(Objective):
        help = (inspect.getdoc(function) or "").partition("\n")[0]
        settings_type = dataclasses.make_dataclass("Settings", given, frozen=True)

        def forward(self, step: Step) -> Tensor:
            return function(**{need: getattr(step, need) for need in needs}, **vars(self.settings))

    return OfFunction


def _default(value: Any) -> Any:
    """A dataclass field's."""
    return dataclasses.field(default_factory=lambda: value)
