"""Objectives of tuning recipes: chosen by name, given their columns, added to the loss, dropped from the result."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from cliplet.cli.distill import distill
from cliplet.errors import InputError
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.run import dclip
from cliplet.training.objectives import Objective, chosen_objectives
from cliplet.training.recipe_file import apply_changes
from tests.training import tuning


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


def wide(image: Tensor, text: Tensor, margin: float = 0.5, kinds: Any = ()) -> Tensor:
    """A user's own function with settings."""
    return (image.std(0) + text.std(0) - margin).square().mean()


def no_objective(embedding: Tensor) -> Tensor:
    return embedding.sum()


class Lost(Distance):
    settings_type = dict


class Mute(Distance):
    def forward(self, step: Any) -> dict[str, Tensor]:
        return {"share": step.image.mean()}


def many(image: Tensor) -> Tensor:
    return image.sum(dim=1)


def number(image: Tensor) -> Any:
    return 1.0


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
        ({f"{__name__}:Lost": 1.0}, "settings_type must be a dataclass"),
        ({f"{__name__}:gapp": 1.0}, "has no attribute 'gapp'; it has gap"),
        ({"nowhere:gap": 1.0}, "no module 'nowhere'"),
        ({f"{__name__}:gap": {"margin": 1.0}}, "unknown setting"),
        ({f"{__name__}:wide": {"margin": "much"}}, r"margin='much' must be"),
        ({f"{__name__}:wide": {"margn": 1.0}}, "did you mean margin"),
    ],
)
def test_what_is_wrong_is_named(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen_objectives(wanted)


def test_a_functions_defaults_are_its_settings() -> None:
    chosen = chosen_objectives({f"{__name__}:wide": {"margin": 2, "kinds": ["a"]}})[f"{__name__}:wide"]
    assert vars(chosen.settings) == {"margin": 2.0, "kinds": ["a"]}
    assert vars(chosen_objectives({f"{__name__}:wide": 1.0})[f"{__name__}:wide"].settings) == {
        "margin": 0.5, "kinds": (),
    }  # fmt: skip


MINE = """
from dataclasses import dataclass

import torch

from cliplet.training.objectives import Objective


def wide(image, text, margin=0.5):
    return (image.std(0) + text.std(0) - margin).square().mean()


@dataclass
class Settings:
    power: float = 2.0


class Distance(Objective):
    settings_type = Settings

    def __init__(self, setup, settings):
        super().__init__(setup, settings)
        self.factor = torch.nn.Parameter(torch.ones(()))
        self.unused = torch.nn.Parameter(torch.ones(3))

    @classmethod
    def offers(cls, settings, train, bare, regions):
        return [("distances", f"{len(train.captions)} to the power of {settings.power:g}")]

    def batch(self, drawn):
        return {"used": torch.from_numpy(drawn.photos % 2 == 0)}

    def forward(self, step):
        apart = (step.image - step.text).norm(dim=1) ** self.settings.power
        used = step.columns["used"]
        return {"loss": self.factor * (apart * used).mean(), "share": used.float().mean()}
"""


def test_ones_own_from_a_recipe_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, elsewhere = tuning.write_data(tmp_path / "data"), tmp_path / "elsewhere"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine_of_recipes.py").write_text(MINE)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ways = {
        "own": 'objectives."mine_of_recipes:Distance"={weight = 0.5, power = 1.0}',
        "plainly": 'objectives."mine_of_recipes:wide"={margin = 0.2}',
    }
    for name, line in ways.items():
        monkeypatch.setitem(tuning.WAYS, name, line)
    recipe = tuning.write_recipe(data, tmp_path / "recipes" / "run", tuple(ways))
    said = CliRunner().invoke(distill, [str(recipe), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "32 to the power of 1" in said.output
    done = CliRunner().invoke(distill, [str(recipe), "student_stage.epochs=1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    logs = {n: tmp_path / "recipes" / "run" / f"{n}-seed0" / "log.jsonl" for n in ways}
    lines = {n: json.loads(log.read_text().splitlines()[0]) for n, log in logs.items()}
    assert {"mine_of_recipes:Distance", "mine_of_recipes:Distance.share"} <= set(lines["own"])
    assert "mine_of_recipes:wide" in lines["plainly"]
    learnt = read_weights(tmp_path / "recipes" / "run" / "own-seed0" / "model" / "model.safetensors")
    assert not any("factor" in name for name in learnt)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mute", "gave share, but no loss"),
        ("many", "is no tensor with one number, but"),
        ("number", "but float"),
    ],
)
def test_what_is_no_loss_is_said(tmp_path: Path, name: str, message: str) -> None:
    data = tuning.write_data(tmp_path / "data")
    change = f'objectives={{"{__name__}:{name}" = 1.0}}'
    with pytest.raises(InputError, match=message):
        dclip(tuning.recipe(data, tmp_path / "run", "plain", change))


def test_settings_below_a_weight_are_explained(tmp_path: Path) -> None:
    values: dict[str, Any] = {"objectives": {"negclip": 0.5}}
    with pytest.raises(InputError, match=r"'source' stands below 0.5.*weight = 1.0, source"):
        apply_changes(values, ["objectives.negclip.source=random"])
