"""Recipes as they ship: readable, and the published one runs with a teacher of CLIP's real size."""

import json

import pytest
import torch

from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.errors import InputError
from cliplet.models.dual import count_parameters, load_weights
from cliplet.training.config import TeacherConfig, load_recipe
from cliplet.training.distill import distill
from cliplet.training.distill.teacher import Teacher
from tests.shared_data import ROOT
from tests.training import make

PUBLISHED = ROOT / "recipes" / "lclip_clip_vit_b32.toml"


def test_published_losses():
    image, text, both = load_recipe(PUBLISHED).stages
    assert image.losses == {"l1": 0.5, "cosine": 0.5}
    assert text.towers == ("text",)
    assert both.losses == pytest.approx({"l1": 1 / 6, "cosine": 1 / 6, "sr": 1 / 3}, abs=1e-4)


def test_published_recipe_runs_with_a_teacher_of_random_weights(tmp_path, torchvision):
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32", pretrained=None)
    assert count_parameters(clip) == 151_277_313
    encoder = OpenClipEncoder(
        clip,
        open_clip.image_transform(224, is_train=False),
        open_clip.get_tokenizer("ViT-B-32"),
        batch_size=4,
    )
    data = make.dataset(tmp_path / "data", count=4)
    files = [f'captions=["{data}/captions.jsonl"]', f'photos=["{data}/photos"]']
    changes = [f"out={tmp_path}/run", "cpu=true", "precision=no", "stages.*.epochs=1", "stages.*.batch_size=2",
               *[f"train.{f}" for f in files], "dev.captions=[]", "dev.photos=[]", f"stages.0.data.{files[1]}",
               f"stages.1.data.{files[0]}", "export=none", "workers=0", "log_every=1"]  # fmt: skip
    result = distill(load_recipe(PUBLISHED, changes), Teacher([encoder], TeacherConfig()))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["loss"]) for line in lines if line["kind"] == "train"]
    assert [s for s, _ in steps] == ["image"] * 2 + ["text"] * 4 + ["both"] * 2
    assert all(0 < loss < 10 for _, loss in steps)
    student = load_weights(result)
    assert count_parameters(student.image) == 24_074_240
    assert count_parameters(student.text) == 27_478_656
    assert torch.equal(student.image.patch.weight, clip.visual.conv1.weight)  # inherited and frozen
    assert torch.equal(student.image.positions, clip.visual.positional_embedding)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.0.lrr=1", r"stages\[0\]\.lrr; did you mean lr"),
        ("model.image.widht=1", r"model\.image\.widht; did you mean width"),
        ("stages.7.lr=1", "no entry of a list of 3"),
        ("epochs", "not key=value"),
        ("name.first=x", "which holds no settings"),
        ("stages.0.losses={}", "has no loss"),
        ("stages.0.towers=['audio']", "not one of image, text"),
        ("export=int4", "not one of none, fp32, fp16, int8"),
    ],
)
def test_wrong_changes_are_named(change, message):
    with pytest.raises(InputError, match=message):
        load_recipe(PUBLISHED, [change])


def test_changes_reach_every_stage():
    recipe = load_recipe(PUBLISHED, ["stages.*.epochs=3", "stages.1.lr=5e-3", "seed=7", "name=my model"])
    assert [s.epochs for s in recipe.stages] == [3, 3, 3]
    assert recipe.stages[1].lr == 5e-3
    assert (recipe.seed, recipe.name) == (7, "my model")


def test_recipe_errors_name_the_file(tmp_path):
    (tmp_path / "bad.toml").write_text("name = \n")
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="no recipe"):
        load_recipe(tmp_path / "none.toml")


def test_a_run_needs_a_teacher_and_stages(tmp_path):
    data = make.dataset(tmp_path / "data", count=4)
    base = f'out = "{tmp_path}/run"\ntokenizer = "train"\n[train]\nphotos = ["{data}/photos"]\n'
    (tmp_path / "a.toml").write_text(base)
    with pytest.raises(InputError, match="stages"):
        distill(load_recipe(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_text(base + '[[stages]]\ntowers=["image"]\nlosses={l1=1.0}\n')
    with pytest.raises(InputError, match="no teacher"):
        distill(load_recipe(tmp_path / "b.toml"))


def test_the_stand_in_for_a_tower_needs_the_teachers_width(tmp_path):
    data = make.dataset(tmp_path / "data", count=8)
    (tmp_path / "r.toml").write_text(
        f'out = "{tmp_path}/run"\ntokenizer = "train"\n[train]\nphotos = ["{data}/photos"]\n'
        f'captions = ["{data}/captions.jsonl"]\n[[stages]]\ntowers=["text"]\nlosses={{sr=1.0}}\n'
        "[model.image]\nwidth=32\nheads=4\nblocks=1\nimage_size=32\npatch_size=8\nembedding_dim=8\n"
        "[model.text]\nwidth=32\nheads=4\nembedding_rank=8\nembedding_dim=8\n"
    )
    teacher = make.encoder()
    teacher.card = ModelCard("t", 16, ImageSpec(32, "squash"), TextSpec(16, ""), fingerprint_of=lambda: "1")
    with pytest.raises(InputError, match="needs the teacher's width"):
        distill(load_recipe(tmp_path / "r.toml"), Teacher([teacher], TeacherConfig()))
