"""The help of recipes: every setting has one, and it is the truth."""

import dataclasses

from click.testing import CliRunner

from cliplet.cli.distill import distill
from cliplet.training.config import DistillConfig, DistillStage
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.objectives import OBJECTIVES
from cliplet.training.settings import all_settings


def test_every_setting_has_a_name_a_default_and_help():
    found = {s.name: s for s in all_settings(DistillConfig)}
    assert all(s.help for s in found.values()), [s.name for s in found.values() if not s.help]
    assert found["stages.0.lr"].default == repr(DistillStage().lr)
    assert found["stages.0.losses.sr"].help.startswith("Similarity Regulator")
    assert found["model.text.embedding_rank (kind multiplexed)"].default == "256"
    assert "model.image.name (kind timm)" in found
    assert found["teacher"].default == ""


def test_command_lists_them():
    result = CliRunner().invoke(distill, ["--settings"])
    assert result.exit_code == 0
    assert "stages.0.weight_decay = 0.01\n    Weight decay of matrices; vectors have none." in result.output


def test_objectives_are_listed_with_their_settings_at_80_columns():
    found = {s.name: s for s in all_settings(DclipConfig)}
    assert all(s.help for s in found.values()), [s.name for s in found.values() if not s.help]
    for name, kind in OBJECTIVES.items():
        assert found[f"objectives.{name}"].help == kind.help
        for field in dataclasses.fields(kind.settings_type):
            assert f"objectives.{name}.{field.name}" in found
    assert found["objectives.nclip.clusters"].default == "256"
    for kind in ("tune", "distill", "captioner"):
        result = CliRunner().invoke(distill, ["--settings", kind])
        assert result.exit_code == 0
        assert [line for line in result.output.splitlines() if len(line) > 80] == []
    assert "objectives.sclip.template = '{}'\n    The text of a keyword" in (
        CliRunner().invoke(distill, ["--settings", "tune"]).output
    )
