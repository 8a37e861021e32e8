"""The recipe and the commands of docs/retrieval.md, run as they stand on a small set of drawings."""

import re
import shlex

import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.training.dclip.config import load_dclip
from cliplet.training.objectives import OBJECTIVES
from tests.shared_data import ROOT
from tests.training import make

GUIDE = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")


def test_commands(tmp_path, monkeypatch):
    make.dataset(tmp_path / "w", count=32)
    make.dataset(tmp_path / "w" / "dev", count=16, seed=1)
    captions = tmp_path / "w" / "dev" / "captions.jsonl"
    captions.write_text(captions.read_text().replace('"image": "', '"image": "d'))
    for photo in (tmp_path / "w" / "dev" / "photos").iterdir():
        photo.rename(photo.with_name("d" + photo.name))
    for colour in make.COLOURS:
        (tmp_path / "w" / "classes" / colour).mkdir(parents=True)
        make.drawing(colour, "square", 7).save(tmp_path / "w" / "classes" / colour / "0.png")
    make.model_folder(tmp_path / "w" / "base")
    monkeypatch.chdir(tmp_path / "w")
    recipe, _ = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "w" / "tune.toml").write_text(recipe)
    (tmp_path / "w" / "names.txt").write_text("\n".join(make.COLOURS))
    (block,) = re.findall(r"```sh\n(cliplet regions photos.*?)```", GUIDE, re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "cliplet"
        if (
            arguments[0] == "distill"
        ):  # the drawings are many of a kind and few, and the base model is a small one
            arguments += ["base=base", "cpu=true", "exclude_alike=false", "student.prompt_names=names.txt",
                          "student_stage.batch_size=8", "student_stage.epochs=1", "teacher_stage.batch_size=8",
                          "teacher_stage.epochs=1", "student_stage.lr=1e-3", "resamples=20"]  # fmt: skip
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
        if arguments[0] == "distill":
            assert "| **no_distillation** |" in result.output
    assert (tmp_path / "w" / "boxes.jpg").is_file()
    assert "square" in result.output
    assert "photo, tuned - caption, tuned" in result.output


def test_what_turns_objectives_on_is_understood(tmp_path):
    base = 'kind = "tune"\n'
    _, shown = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "shown.toml").write_text(base + shown)
    config = load_dclip(tmp_path / "shown.toml")
    assert {name: one.weight for name, one in config.chosen_objectives().items()} == {
        "sclip": 1,
        "negclip": 0.5,
    }
    (tmp_path / "tune.toml").write_text(base)
    rows = [line.split("|") for line in GUIDE.splitlines() if line.startswith(("| `", "| contrastive"))]
    table = {cells[1].strip(" `"): cells[2:] for cells in rows if "student.weights.contrastive" in cells[2]
             or "objectives." in cells[2]}  # fmt: skip
    assert set(table) == {"contrastive", *OBJECTIVES}
    for name, cells in table.items():
        for change in re.findall(r"`((?:objectives|student)[^`]*=[^`]*)`", "|".join(cells)):
            chosen = load_dclip(tmp_path / "tune.toml", [change]).chosen_objectives()
            assert not change.startswith("objectives") or set(chosen) <= {name, "multi_text"}, change


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give photos, or --caption"),
        (["--caption", "a dog", "--run", "x"], "one photo"),
        (["a.jpg", "b.jpg", "--draw", "one.jpg"], "name a folder"),
        (["a.jpg", "--detector", "none.onnx"], "cannot be read"),
    ],
)
def test_wrong_use_is_explained(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        make.drawing("red", "bar", 0).save(tmp_path / f"{name}.jpg")
    result = CliRunner().invoke(cli, ["regions", *arguments])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)


def test_spans_and_regions_as_json(tmp_path):
    make.drawing("red", "bar", 0).save(tmp_path / "a.png")
    result = CliRunner().invoke(
        cli, ["regions", str(tmp_path / "a.png"), "--caption", "A red bar on grey", "--json"]
    )
    assert result.exit_code == 0
    import json

    content = json.loads(result.output)
    assert [s["text"] for s in content["spans"]] == ["A red bar", "grey"]
    assert len(content["regions"]) == 13
