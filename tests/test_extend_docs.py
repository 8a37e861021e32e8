"""docs/extend.md: its module works as shown, in the commands shown."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplet.encoders.onnx import OnnxEncoder
from cliplet.rewards import build_reward
from tests.tiny_model import DIM, build_tiny_model

PAGE = (Path(__file__).resolve().parents[1] / "docs/extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
OBJECTIVE = next(block for block in BLOCKS if "class Backwards" in block)
MODULE = "\n\n".join(block for block in BLOCKS if block != OBJECTIVE)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
REFERENCES = {f"{i}.png": ["a brown dog runs", "the dog"] for i in range(3)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("extend")
    (root / "mine.py").write_text(MODULE)
    (root / "backwards.py").write_text(OBJECTIVE)
    (root / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.full((12, 12, 3), 80 * i, dtype=np.uint8)).save(root / "photos" / f"{i}.png")
    files = {
        "mine": {"0.png": "a dog runs", "1.png": "a cat", "2.png": "the dog"},
        "theirs": {"0.png": "two men", "1.png": "a brown dog", "2.png": "a car"},
        "references": REFERENCES,
    }
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    ratings = ["0.png,a dog runs,a dog,4", "1.png,a red car,a dog,1", "2.png,two men,a dog,1"]
    (root / "survey.txt").write_text("\n".join(ratings))
    build_tiny_model(root / "model")
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_runs(workplace: Path, command: str) -> None:
    model = [] if "--model" in command else ["--model", "model"]
    arguments = [sys.executable, "-m", *shlex.split(command), *model]
    done = subprocess.run(arguments, cwd=workplace, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert any(found in done.stdout for found in ("overlap", '"Letters"', '"model": "colours"'))


def test_the_shown_rewards_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "path", list(sys.path))
    weights = {"cider": 1.0, "mine:brevity": 0.1, "mine:close": 0.5, "mine:shape": 0.0, "rouge": 0.0}
    vectors = np.random.default_rng(0).normal(size=(3, DIM))
    encoder = OnnxEncoder(workplace / "model")
    mixed = build_reward(weights, REFERENCES, encoder=encoder, image_embeddings=vectors)
    found = mixed.parts(["0.png", "1.png"], ["a dog runs", "two men"]).values
    assert list(found) == list(weights)
    assert found["mine:shape"].tolist() == [10.0, 7.0]
    assert found["mine:brevity"].tolist() == [-3.0, -2.0]


def test_the_shown_loss_works(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from cliplet.training.losses import find_losses

    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loss = find_losses({"mine:closer": 2.0})["mine:closer"]
    assert loss.pairs
    same = torch.eye(2)
    assert loss.function(same, same, same, same.flip(0)).item() == 1


def test_the_shown_objectives_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from cliplet.training.dclip.cost import describe
    from cliplet.training.dclip.run import dclip
    from tests.training import tuning

    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = tuning.write_data(workplace / "tuning")
    ways = {
        "gap": 'objectives."mine:gap"={weight = 0.5, margin = 0.1}',
        "backwards": 'objectives."backwards:Backwards"={margin = 0.2}',
    }
    for name, line in ways.items():
        monkeypatch.setitem(tuning.WAYS, name, line)
        config = tuning.recipe(data, workplace / name, name, "student_stage.epochs=1")
        rows = dict(describe(config))
        dclip(config)
        log = (workplace / name / f"{name}-seed0" / "log.jsonl").read_text().splitlines()
        assert line.split('"')[1] in json.loads(log[0])
    assert rows["backwards:Backwards (of backwards): captions to read backwards"] == "32"
