"""Every command and every Python block that README.md and docs/score.md show runs as shown."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cliplet.scoring.demo import CAPTIONS, demo_photos

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/score.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


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
