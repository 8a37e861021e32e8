"""Every help line is a sentence that says what a thing is, and what tables hold stands in it."""

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.evaluation.benchmarks import BENCHMARKS
from cliplet.metrics.clipscore import PRESETS
from cliplet.metrics.registry import METRICS


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands())
OPTIONS = [
    pytest.param(option, id=" ".join([*path, option.opts[0]]))
    for path, command in ALL
    for option in command.params
    if isinstance(option, click.Option)
]


def test_the_walk_finds_the_commands_and_their_options():
    assert {("score",), ("evaluate", "human"), ("models", "doctor")} <= {path for path, _ in ALL}
    assert len(OPTIONS) > 80


@pytest.mark.parametrize("option", OPTIONS)
def test_an_options_help_is_a_sentence(option):
    assert re.fullmatch(r"[A-Z].*[^.]\.", option.help or "", re.DOTALL), option.help
    assert not re.match(r"(Of|As|With|Where|Which|How) ", option.help), f"say what it is: {option.help}"


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in ALL])
def test_a_commands_help_is_a_sentence(path, command):
    first = (command.help or "").split("\n\n")[0]
    assert re.fullmatch(r"[A-Z].*[.?]", first, re.DOTALL), first


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli, [*arguments, "--help"], terminal_width=80)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    return " ".join(done.output.split())


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in ALL])
def test_help_fits_a_terminal_of_80_columns(path):
    assert shown(*path.split()).startswith("Usage:")


@pytest.mark.parametrize("command", [["score"], ["compare"], ["evaluate", "human"]])
def test_help_names_what_the_tables_hold(command):
    text = shown(*command)
    assert f"{', '.join(METRICS)}, your own module:attribute" in text
    assert "|".join(PRESETS) in text


def test_help_lists_the_benchmarks():
    text = shown("evaluate", "human")
    for benchmark in BENCHMARKS.values():
        assert f"{benchmark.name} {benchmark.title}" in text


def test_tables_are_read_only_when_help_is_shown():
    code = (
        "import sys, cliplet.cli.score, cliplet.cli.compare, cliplet.cli.evaluate\n"
        "assert not {'numpy', 'cliplet.metrics.registry', 'cliplet.evaluation.benchmarks'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_that_are_not_in_a_table_are_refused_with_those_that_are():
    done = CliRunner().invoke(cli, ["evaluate", "human", "flickr", "--data", "."])
    assert done.exit_code == 2
    assert "'flickr' is not one of flickr8k-expert, flickr8k-cf" in done.output
    done = CliRunner().invoke(cli, ["score", "a.json", "--preset", "big"])
    assert done.exit_code == 2
    assert "'big' is not one of paper, torchmetrics, cosine" in done.output
