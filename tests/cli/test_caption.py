"""``cliplet caption``: from a recipe to a captions file that ``score`` takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cliplet.cli.caption import caption
from cliplet.cli.score import score
from cliplet.errors import InputError
from cliplet.training.captioner.config import CaptionRecipe
from cliplet.training.settings import all_settings
from tests.captioner import make
from tests.shared_data import ROOT
from tests.test_import_light import HEAVY
from tests.tiny_model import build_tiny_model


def call(*arguments: object) -> Result:
    return CliRunner().invoke(caption, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, torchvision) -> Path:
    """A captioner trained by the command, and its photos."""
    folder = tmp_path_factory.mktemp("captioner")
    make.make.dataset(folder / "data", count=8)
    recipe = folder / "recipe.toml"
    data = f'captions = ["{folder}/data/captions.jsonl"]\nphotos = ["{folder}/data/photos"]\n'
    recipe.write_text(
        f"""
out = "{folder}/run"
cpu = true
tokenizer_size = 100
[train]
{data}
[dev]
{data}
[model]
width = 32
heads = 2
layers = 1
max_tokens = 10
[model.grid]
towers = ["timm:test_efficientnet"]
pretrained = false
size = 32
[[stages]]
epochs = 1
batch_size = 4
"""
    )
    done = call("train", recipe, "seed=3", "stages.0.epochs=4", "stages.0.updates=10", "stages.0.lr=5e-3")
    assert done.exit_code == 0, done.output
    assert f"{folder}/run/model" in done.output
    return folder


def test_the_file_goes_straight_into_score(trained, tmp_path):
    photos, out = trained / "data/photos", tmp_path / "captions.json"
    done = call("run", trained / "run/model", photos, "-o", out, "--beam", 2)
    assert "captions of 8 photos by captioner" in done.output
    found = json.loads(out.read_text())
    assert sorted(found) == sorted(p.name for p in photos.iterdir())
    assert all(isinstance(text, str) for text in found.values())
    assert any(found.values())
    model = build_tiny_model(tmp_path / "model")
    scored = CliRunner().invoke(score, [str(out), "--images", str(photos), "--model", str(model)])
    assert scored.exit_code == 0, scored.output


def test_bad_photos_are_counted_and_listed(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    good = trained / "data/photos/000.png"
    (photos / "good.png").write_bytes(good.read_bytes())
    (photos / "bad.jpg").write_bytes(b"no photo")
    (photos / "empty.png").write_bytes(b"")
    out = tmp_path / "out.json"
    done = call("run", trained / "run/model", photos, good, "-o", out)
    assert done.exit_code == 0
    assert "2 photos could not be captioned" in done.output
    assert set(json.loads(out.read_text())) == {"good.png", str(good)}
    assert set(json.loads((tmp_path / "out.failed.json").read_text())) == {"bad.jpg", "empty.png"}
    assert call("run", trained / "run/model", photos, "-o", out, "--strict").exit_code == 1
    call("run", trained / "run/model", good, "-o", out, "--greedy")
    assert not (tmp_path / "out.failed.json").exists()


def test_several_captions_and_seeds(trained, tmp_path):
    photos, out = trained / "data/photos", tmp_path / "out.json"

    def drawn(seed: int) -> dict:
        call("run", trained / "run/model", photos, "-o", out, "--nucleus", 1.0, "--captions", 3, "--seed", seed,
             "--temperature", 3)  # fmt: skip
        return json.loads(out.read_text())

    first = drawn(1)
    assert all(len(texts) == 3 for texts in first.values())
    assert first == drawn(1) != drawn(2)


def test_what_cannot_work_is_said_before_the_work(trained, tmp_path):
    model, photos = trained / "run/model", trained / "data/photos"
    assert "choose one" in call("run", model, photos, "--greedy", "--beam", 2).output
    with pytest.raises(InputError, match="named folder|no such"):
        call("run", model, tmp_path / "nothing", "-o", tmp_path / "x.json")
    with pytest.raises(InputError, match=r"\.json"):
        call("run", model, photos, "-o", tmp_path / "x.csv")
    with pytest.raises(InputError, match="two photos are called"):
        call("run", model, photos, photos, "-o", tmp_path / "x.json")


def test_captioning_needs_no_pytorch(trained, tmp_path):
    code = (
        "import sys; from cliplet.cli.caption import caption\n"
        "caption([*sys.argv[1:]], standalone_mode=False)\n"
        "print('MODULES', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    arguments = ["run", trained / "run/model", trained / "data/photos", "-o", tmp_path / "out.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.rpartition("MODULES")[2].split())


def test_every_setting_has_a_help_line():
    assert all(setting.help for setting in all_settings(CaptionRecipe))
    shown = call("train", "--settings")
    assert "stages.0.rewards.0.weight" in shown.output


def test_shipped_recipe_can_be_read():
    from cliplet.training.captioner.config import load_caption_recipe

    recipe = load_caption_recipe(ROOT / "recipes/caption_flickr8k.toml", ["seed=4"])
    assert [stage.kind for stage in recipe.stages] == ["cross_entropy"] + 3 * ["self_critical"]
    assert recipe.seed == 4
