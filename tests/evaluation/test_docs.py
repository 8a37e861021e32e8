"""Every command that the guide and the results page show is one that the program understands."""

import shlex
from pathlib import Path

import click
import pytest

from cliplet.cli.evaluate import evaluate

DOCS = Path(__file__).resolve().parents[2] / "docs"


def shown_commands():
    for page in ("evaluate.md", "results.md"):
        for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
            if line.startswith("cliplet evaluate "):
                yield pytest.param(line, id=line[17:60])


@pytest.mark.parametrize("line", list(shown_commands()))
def test_shown_command_parses(line):
    _, _, name, *arguments = shlex.split(line)
    command = evaluate.get_command(click.Context(evaluate), name)
    assert command is not None
    command.make_context(name, arguments)  # raises on an unknown option or a missing argument


def test_every_choice_of_the_protocol_is_explained():
    import dataclasses

    from cliplet.evaluation.benchmarks import BENCHMARKS
    from cliplet.evaluation.human import HumanProtocol

    guide = (DOCS / "evaluate.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(HumanProtocol):
        assert f"`{field.name}`" in guide or f"--{field.name}" in guide, field.name
    for name in BENCHMARKS:
        assert f"`{name}`" in guide
