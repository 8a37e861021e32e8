"""Rich's markup in names, captions and reasons is text; a full disk at ``--out`` is one line."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
from tests.tiny_model import build_tiny_model

MARKUP = "[/x] [bold [red]c[/blue]"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model whose name is markup, a photo called like it, and a captions file called like it."""
    root = tmp_path_factory.mktemp("markup")
    model = shutil.copytree(build_tiny_model(tmp_path_factory.mktemp("model")), root / "[bold]m[-x]")
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps(card | {"name": MARKUP}))
    Image.new("RGB", (20, 20), "red").save(root / "[bold]d[x].jpg")
    Image.new("RGB", (20, 20), "blue").save(root / "cat.jpg")
    content = {"[bold]d[x].jpg": MARKUP, "cat.jpg": MARKUP, "[/none].jpg": MARKUP, "[x]": 3}
    (root / "[red]c[-x].json").write_text(json.dumps(content))
    (root / "other[-b].json").write_text(json.dumps({"[bold]d[x].jpg": "[/a]", "cat.jpg": "a"}))
    (root / "refs.json").write_text(json.dumps({"cat.jpg": [MARKUP], "[bold]d[x].jpg": ["[/b]"]}))
    return root


@pytest.mark.parametrize(
    "command",
    [
        ["score", "[red]c[-x].json", "--images", ".", "--refs", "refs.json"],
        ["score", "[red]c[-x].json", "--images", ".", "--diversity", "--out", "[/out]"],
        ["score", "[bold]d[x].jpg", MARKUP, "[/y]"],
        ["compare", "[red]c[-x].json", "other[-b].json", "--images", ".", "--refs", "refs.json", "--resamples", "9"],
        ["evaluate", "retrieval", "[red]c[-x].json", "--images", ".", "--draws", "0"],
    ],
)  # fmt: skip
def test_markup_is_text(world, monkeypatch, command):
    monkeypatch.chdir(world)
    done = CliRunner().invoke(cli, [*command, "--model", "[bold]m[-x]"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if command[0] == "score" and command[1].endswith("json"):
        assert f"model {MARKUP}" in done.output
        assert "[red]c[-x].json: 4 captions" in done.output
        assert "[/none].jpg: there is no photo '[/none].jpg'" in done.output


def test_show_and_doctor_take_a_model_whose_name_is_markup(world):
    for command in (["models", "show"], ["models", "doctor"]):
        done = CliRunner().invoke(cli, [*command, str(world / "[bold]m[-x]")], catch_exceptions=False)
        assert done.exit_code in (0, 2), done.output


def test_a_full_disk_at_out_is_one_line(world, tmp_path):
    code = "import resource, signal, sys; from cliplet.cli.main import main; " \
           "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " \
           "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); main()"  # fmt: skip
    command = [
        "score",
        "[red]c[-x].json",
        "--images",
        ".",
        "--model",
        "[bold]m[-x]",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=world, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"Error: {tmp_path / 'out'}")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
