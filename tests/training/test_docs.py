"""Every command and example of docs/lclip.md, run as it stands on a small set of drawings."""

import re
import shlex

import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.encoders.registry import packaged_models
from tests.shared_data import ROOT
from tests.training import make

GUIDE = (ROOT / "docs" / "lclip.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_commands(tmp_path, monkeypatch, torchvision):
    if not packaged_models():
        pytest.skip("no model is packaged with this checkout")
    make.dataset(tmp_path / "d", count=32)
    (tmp_path / "d").rename(tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    (recipe,) = blocks("toml")
    (tmp_path / "work" / "my.toml").write_text(recipe)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "cliplet"
        if arguments[:2] == ["distill", "my.toml"]:
            arguments += ["stages.*.epochs=1", "cpu=true"]  # the guide's epochs take minutes
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    assert (tmp_path / "work" / "mine-fp16" / "parity.md").is_file()


def test_python_example():
    for block in blocks("python"):
        exec(compile(block, "docs/lclip.md", "exec"), {})
