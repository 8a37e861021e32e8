"""The code and the commands of docs/rewards.md run, and what it and its notes say of their tables holds."""

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from cliplet.rewards import MixedReward
from tests.rewards.test_trl import ignore_warnings_of_libraries, import_trl, tiny_language_model
from tests.shared_data import shared_data

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
NOTES = (ROOT / "docs" / "notes" / "rewards.md").read_text(encoding="utf-8")
LOOP, TRL = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SMALL = {"reward_degenerate": "--photos 40", "reward_speed": "--calls 1 --batches 8 --parts cider length"}


def run_loop() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(LOOP, names)
    return names


def test_the_loop_runs() -> None:
    pytest.importorskip("skimage")
    names = run_loop()
    assert isinstance(names["reward"], MixedReward)
    assert names["values"].shape == (3,)
    assert names["values"][0] > names["values"][1]


@pytest.mark.usefixtures("torchvision")
def test_the_trl_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    trl, datasets = import_trl()
    model, tokenizer = tiny_language_model()
    rows = [{"prompt": "a dog", "image_id": name} for name in ("coffee.png", "rocket.jpg")]
    with warnings.catch_warnings():
        ignore_warnings_of_libraries()
        config = trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, max_completion_length=6, per_device_train_batch_size=2,
            num_generations=2, save_strategy="no", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
            logging_steps=1,
        )  # fmt: skip
        names = run_loop() | {"model": model, "tokenizer": tokenizer, "config": config}
        names["dataset"] = datasets.Dataset.from_list(rows)
        exec(TRL, names)
    logged = set().union(*names["trainer"].state.log_history)
    assert {"rewards/mixture/mean", "reward_parts/cider", "reward_spreads/cider"} <= logged


def run_command(name: str) -> str:
    command = next(command for command in COMMANDS if name in command)
    done = subprocess.run(
        [sys.executable, *shlex.split(f"{command.strip()} {SMALL[name]}")[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(table: str) -> dict[str, dict[str, str]]:
    """A Markdown table as row name -> column name -> cell."""
    header, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_every_shown_command_is_run_here() -> None:
    assert len(COMMANDS) == len(SMALL)
    assert all(any(name in command for command in COMMANDS) for name in SMALL)


def test_the_guide_shows_rows_of_the_notes() -> None:
    rows = [
        row for row in re.findall(r"^\|.*$", PAGE, re.MULTILINE) if re.match(r"\| [\w ,+]+ \| \d+ \|", row)
    ]
    assert len(rows) == 5
    assert all(row in NOTES for row in rows)


def test_degenerate_captions_against_the_rewards() -> None:
    pytest.importorskip("pycocoevalcap")
    shared_data("flickr8k/images_dev.tar")
    printed = re.findall(r"(?:^\|.*\n)+", run_command("reward_degenerate"), re.MULTILINE)
    shown = re.findall(r"(?:^\|.*\n)+", NOTES, re.MULTILINE)
    assert printed[0] == next(table for table in shown if table.startswith("| kind |"))
    means, wins = (rows_of(table) for table in printed[1:])
    for table, on_page in zip(printed[1:], [t for t in shown if t.startswith("| reward | ")], strict=False):
        assert table.splitlines()[0] == on_page.splitlines()[0]
        assert list(rows_of(table)) == list(rows_of(on_page))
    lclip, mixture = means["lclipscore"], wins["lclipscore + cider, end + fluency"]
    assert float(lclip["true"]) - float(lclip["permuted"]) < 0.1
    assert float(lclip["true"]) - float(lclip["other photo"]) > 0.4
    assert float(wins["lclipscore"]["nouns added"]) < 50
    for kind in ("permuted", "repeated", "stutter", "nouns", "all nouns", "other photo"):
        assert float(mixture[kind]) >= 85, kind
    assert float(mixture["nouns added"]) > 50


def test_the_speed_command_runs() -> None:
    shared_data("flickr8k/Flickr8k.token.txt")
    printed = rows_of(re.search(r"(?:^\|.*\n)+", run_command("reward_speed"), re.MULTILINE).group())
    assert set(printed) == {"lclipscore + cider", "cider", "length"}
    assert all(float(row["captions/s"].replace(",", "")) > 0 for row in printed.values())
