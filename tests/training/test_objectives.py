"""Objectives of tuning recipes: chosen by name, given their columns, added to the loss, dropped from the result."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.training.objectives import Objective, chosen_objectives


@dataclass(frozen=True)
class Power:
    """Settings."""

    power: float = 2.0
    """Of the distance."""


class Distance(Objective):
    """A user's own: a learnt multiple of the distance, over every second pair."""

    help = "Distance of pairs."
    settings_type = Power

    def __init__(self, setup: Any, settings: Power) -> None:
        super().__init__(setup, settings)
        self.factor = nn.Parameter(torch.ones(()))

    def batch(self, drawn: Any) -> dict[str, Tensor]:
        return {"used": torch.from_numpy(drawn.photos % 2 == 0)}

    def forward(self, step: Any) -> dict[str, Tensor]:
        apart = (step.image - step.text).norm(dim=1) ** self.settings.power
        used = step.columns["used"]
        loss = self.factor * (apart * used).sum() / used.sum().clamp(min=1)
        return {"loss": loss, "share": used.float().mean()}


def gap(image: Tensor, text: Tensor) -> Tensor:
    """A user's own function."""
    return (image.mean(0) - text.mean(0)).square().sum()


def no_objective(embedding: Tensor) -> Tensor:
    return embedding.sum()


def test_a_weight_or_a_table() -> None:
    own = f"{__name__}:Distance"
    assert chosen_objectives({own: 0.5})[own].weight == 0.5
    table = chosen_objectives({own: {"weight": 2, "power": 1.0}})[own]
    assert (table.weight, table.settings.power) == (2.0, 1.0)
    assert chosen_objectives({own: 0}) == {}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"negclipp": 1.0}, "unknown objective 'negclipp'"),
        ({f"{__name__}:Distance": {"powr": 1.0}}, "did you mean power"),
        ({f"{__name__}:Distance": -1.0}, "at least 0"),
        ({f"{__name__}:Distance": "much"}, "at least 0"),
        ({f"{__name__}:no_objective": 1.0}, "is a function of embedding"),
        ({f"{__name__}:Power": 1.0}, "must be a class of"),
    ],
)
def test_what_is_wrong_is_named(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen_objectives(wanted)
