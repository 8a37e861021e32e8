"""What README.md and docs/ name is there; every command and Python block of README.md and docs/score.md runs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cliplet
from cliplet.cli.main import cli
from cliplet.scoring.demo import CAPTIONS, demo_photos
from tests.test_layers import ROOMS, SOURCE

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/score.md")
ALL_PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def is_there(module: str) -> bool:
    """Whether ``cliplet.a.b.name`` is a module, or a name that stands in the file of one."""
    here, names = Path(cliplet.__file__).parent, module.split(".")[1:]
    while names and (here / names[0]).is_dir():
        here /= names.pop(0)
    if names and (here / f"{names[0]}.py").is_file():
        here /= f"{names.pop(0)}.py"
    else:
        here /= "__init__.py"
    return len(names) < 2 and all(
        re.search(rf"\b{name}\b", here.read_text(encoding="utf-8")) for name in names
    )


def test_only_what_is_there_is_found():
    assert is_there("cliplet.rewards.FluencyReward")
    assert is_there("cliplet.metrics.tokenizer")
    assert not is_there("cliplet.metrics.ptb")
    assert not is_there("cliplet.evaluation.statistics.kendall_tau")


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_paths_and_modules_exist(page: str) -> None:
    text = text_of(page)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("http") or (ROOT / page).parent.joinpath(link).exists(), link
    for path in re.findall(r"(?<![\w/])(?:recipes|benchmarks|tests|src|docs)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path
    for script in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert (ROOT / "benchmarks" / f"{script}.py").is_file(), script
    for module in re.findall(r"(?<![\w./])cliplet(?:\.[a-zA-Z_]+)+", text):
        assert is_there(module), module


@pytest.mark.parametrize("page", ALL_PAGES)
def test_shown_commands_and_options_exist(page: str) -> None:
    fenced = re.compile(r"^```.*?^```", re.M | re.S)
    code = "\n".join(fenced.findall(text_of(page))).replace("\\\n", " ")
    shown = re.findall(r"^(?:.*&& )?(cliplet .*)", code, re.M)
    for line in shown + re.findall(r"`(cliplet [^`]*)`", fenced.sub("", text_of(page))):
        command: click.Command = cli
        words = line.split()[1:]
        while words and isinstance(command, click.Group):
            name = words.pop(0)
            if "|" in name or not re.fullmatch(r"[a-z][a-z-]*", name):  # several at once, or a placeholder
                break
            inner = command.get_command(click.Context(command), name)
            assert inner is not None, line
            command = inner
        known = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", " " + " ".join(words).partition(" #")[0]):
            assert option in known | {"--help"}, (line, option)


def test_the_page_for_developers_shows_the_rooms_and_the_tables():
    page = text_of("docs/develop.md")
    there = [room for room in ROOMS if (SOURCE / room).is_dir()]
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == there
    tables = re.findall(r"\| `([A-Z]+)` in `([\w.]+)` \|", page)
    assert len(tables) == 6
    for name, module in tables:
        assert is_there(f"{module}.{name}"), name


def test_the_index_names_every_page():
    index = text_of("docs/README.md")
    for page in ALL_PAGES:
        name = page.removeprefix("docs/")
        assert page in ("README.md", "docs/README.md") or f"]({name})" in index, page


@pytest.mark.parametrize("page", ALL_PAGES)
def test_pages_are_for_strangers(page: str) -> None:
    assert not re.search(r"\.\./shared|[Ii]ssue \d|(?<!\w)/work/", text_of(page))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.S)


def shown_commands() -> list[str]:
    """Each ``cliplet ...`` command, without the install before it."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.strip().splitlines():
                found += [part.strip() for part in line.split("&&") if part.strip().startswith("cliplet ")]
    return list(dict.fromkeys(found))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the files that the pages speak of, made from real photos."""
    pytest.importorskip("skimage")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in CAPTIONS:
        (photos / name).write_bytes((demo_photos() / name).read_bytes())
    for name in ("dog.jpg", "cat.png"):
        (tmp_path / name).write_bytes((photos / "chelsea.png").read_bytes())
    first, second = ({name: texts[k] for name, texts in CAPTIONS.items()} for k in (0, 1))
    files = {"captions": first, "mine": first, "theirs": second, "references": CAPTIONS}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_pages_show_commands():
    assert len(shown_commands()) >= 4


@pytest.mark.parametrize("command", shown_commands())
def test_a_shown_command_runs(workplace: Path, command: str) -> None:
    arguments = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(arguments, cwd=workplace, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(("page", "number"), [(p, i) for p in PAGES for i in range(len(blocks(p, "python")))])
def test_a_shown_python_block_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, page: str, number: int
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("CLIPLET_CACHE", str(workplace / "cache"))
    names = {"images": ["dog.jpg"], "captions": ["a cat"], "references": [["a cat", "a ginger cat"]]}
    exec(compile(blocks(page, "python")[number], page, "exec"), names)
    if "reward" in names:
        assert names["values"][0] > names["values"][1]
        return
    assert "scorer" in names
    assert names["result"].failures == [None] * len(names["result"].score)
