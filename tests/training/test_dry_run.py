"""``--dry-run`` of captioners and of the packaged model's recipe: what it says, and that it writes nothing."""

import dataclasses

import pytest

from cliplet.errors import ModelError
from cliplet.models import pretrained
from cliplet.training.recipes import KINDS
from lclip_everyday.recipe import RECIPE
from tests.captioner import make as captioners
from tests.training import make
from tests.training.parts import use_stand_ins, write_detector

pytestmark = pytest.mark.usefixtures("torchvision")


def test_captioner(tmp_path):
    stages = (
        captioners.cross_entropy(),
        captioners.self_critical("cider", updates=7),
        captioners.self_critical("cider", name="again"),
    )
    recipe = captioners.recipe(tmp_path, stages, views=3)
    before = sorted(tmp_path.rglob("*"))
    rows = dict(KINDS["captioner"].describe(recipe))
    assert sorted(tmp_path.rglob("*")) == before
    assert rows["training"] == rows["dev"] == "16 photos, 32 captions"
    assert rows["image towers"].startswith("timm:test_efficientnet: 1 cells of ")
    assert rows["stage cross_entropy"].startswith("8 steps of 4 (2 epochs), ")
    assert rows["stage self_critical"].startswith("14 steps of 4 (2 epochs), ")
    assert rows["stage again"].startswith("8 steps of 4 (2 epochs), ")
    assert "GB on disk" in rows["grids, once"]
    assert rows["time expected"].endswith("without evaluation and export")


def test_packaged_model(tmp_path, monkeypatch):
    use_stand_ins(monkeypatch, tmp_path / "parts")
    data = make.dataset(tmp_path / "data", 16)
    pairs = {"captions": [f"{data}/captions.jsonl"], "photos": [f"{data}/photos"]}
    stage = {"epochs": 3, "batch_size": 8}
    settings = RECIPE.configuration(
        {
            "out": f"{tmp_path}/run", "train": pairs, "dev": pairs, "sentence_models": ["minilm-l3"], "ensemble": [0],
            "vocabulary": 200, "text_stage": stage, "image_stage": stage, "more_captions": [f"{data}/captions.jsonl"],
            "detector": str(write_detector(tmp_path / "d.onnx")), "detector_layers": ["inner"],
            "trunk": 0, "short_texts": False, "bare": {"photos": pairs["photos"]}, "bare_left_out": 6,
            "soft": [0.25, 0.5],
        }
    )  # fmt: skip
    rows = dict(RECIPE.describe(settings))
    assert not (tmp_path / "run").exists()
    assert rows["training"] == rows["dev"] == "16 photos, 32 captions"
    assert rows["pretrained parts"] == "all installed"
    assert rows["bare photos"] == "10, which get pseudo-captions; 6 more are kept out"
    wanted = "64 texts and the pseudo-captions by minilm-l3; photos by EfficientNet-Lite0, the detector"
    assert rows["computed once"] == wanted
    assert rows["stage text"] == "24 steps of 8 (3 epochs)"  # 64 captions
    assert (
        rows["stage image, soft=0.25"] == rows["stage image, soft=0.5"] == "9 steps of 8 (3 epochs)"
    )  # 26 photos
    assert rows["stage ReLUs"] == "0 steps of 128 (0 epochs)"

    def missing(package, ending):
        raise ModelError(f"the pretrained part {package} is missing: pip install {package}")

    monkeypatch.setattr(pretrained, "package_file", missing)
    assert (
        "pip install"
        in dict(RECIPE.describe(dataclasses.replace(settings, detector_layers=())))["pretrained parts"]
    )
