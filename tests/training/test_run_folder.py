"""A run's folder: whose it is, and what the run could not use."""

import dataclasses
import json
from pathlib import Path

import pytest

from cliplet.errors import InputError
from cliplet.training.run_folder import claim_folder, list_left_out


def test_a_folder_belongs_to_one_recipe(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", {"a": 1, "b": (2, 3), "out": "x"})
    claim_folder(tmp_path / "run", {"a": 1, "b": (2, 3), "out": "y"})
    with pytest.raises(InputError, match=r"another recipe \(other: b\)"):
        claim_folder(tmp_path / "run", {"a": 1, "b": (2, 4), "out": "x"})
    claim_folder(tmp_path / "run", {"a": 1, "b": (2, 4), "out": "x"}, restart=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="holds no run"):
        claim_folder(tmp_path / "notes", {"a": 1}, restart=True)


@dataclasses.dataclass(frozen=True)
class Recipe:
    a: int = 1
    newer: int = 2


def test_an_earlier_run_has_the_defaults_of_newer_settings(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"a": 1}))
    claim_folder(tmp_path, Recipe())
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"a": 1, "newer": 2}
    with pytest.raises(InputError, match=r"another recipe \(other: newer\)"):
        claim_folder(tmp_path, Recipe(newer=3))
    (tmp_path / "recipe.json").write_text(json.dumps({"a": 1, "gone": 4}))
    with pytest.raises(InputError, match="another version or recipe, .*unknown setting gone"):
        claim_folder(tmp_path, Recipe())


def test_what_is_left_out_is_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_left_out(tmp_path, [])
    assert not list(tmp_path.iterdir())
    list_left_out(tmp_path, ["a.jpg: broken", "b.jpg: broken", "a.jpg: broken"])
    list_left_out(tmp_path, ["b.jpg: broken", "caf\udce9.jpg: broken"])
    assert (tmp_path / "skipped.txt").read_text() == "a.jpg: broken\nb.jpg: broken\ncaf?.jpg: broken\n"
    said = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in said] == [
        "2 photos or captions left out", "1 photos or captions left out",
    ]  # fmt: skip
