"""Regions and long texts as objectives: pairs, batches, controls, features of boxes, a whole run."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.encoders.card import ImageSpec
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.models.config import TimmConfig
from cliplet.regions.phrases import NamedBox
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.config import AugmentConfig, DataConfig
from cliplet.training.dclip.config import load_dclip
from cliplet.training.dclip.inputs import Captions, Learner, Photos
from cliplet.training.dclip.region_test import RegionTest
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.trainable import TrainableDual
from cliplet.training.objectives.base import Drawn, Setup, Step
from cliplet.training.objectives.long_texts import LongTexts, LongTextsConfig, joined
from cliplet.training.objectives.phrases import embed_boxes, find_phrases, on_input, placed
from cliplet.training.objectives.regions import Regions, RegionsConfig
from cliplet.training.pairs import PairSet, read_pairs
from tests.training import make

LITE = dataclasses.replace(
    make.CONFIG, image=TimmConfig(name="tf_efficientnet_lite0", embedding_dim=16, image_size=64)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Drawings, and a file with a box for each shape, and for some a second shape."""
    folder = make.dataset(tmp_path_factory.mktemp("regions"), 24)
    boxes = {
        "square": [8, 8, 24, 24],
        "bar": [0, 12, 32, 20],
        "corner": [0, 0, 12, 12],
        "frame": [0, 0, 32, 32],
    }
    lines = []
    for i in range(24):
        shape = make.SHAPES[i // 4 % 4]
        lines.append({"image": f"{i:03}.png", "box": boxes[shape], "label": shape, "score": 0.9})
    lines.append(
        {"image": "000.png", "box": [0, 0, 4, 4], "label": "square", "score": 0.9}
    )  # a second square
    (folder / "boxes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def pairs_of(data) -> PairSet:
    return read_pairs(DataConfig(captions=(f"{data}/captions.jsonl",), photos=(f"{data}/photos",)))


def setup_of(data, folder, config=make.CONFIG, train=("image.*", "text.head.*"), views=1, **changes) -> Setup:
    encoder = make.encoder(config)
    if config is LITE:
        encoder.card = dataclasses.replace(encoder.card, image=ImageSpec(64, "squash"))
    learner, pairs = Learner(TrainableDual(encoder), train), pairs_of(data)
    augment = AugmentConfig(views=views)
    values = {
        "learner": learner, "train": pairs, "photos": Photos.compute(learner, pairs.photos, folder, augment),
        "captions": Captions(learner, pairs.captions, folder), "bare": PairSet(), "folder": folder, "augment": augment,
        "regions": RegionSettings(proposer=f"{data}/boxes.jsonl"), "batch_size": 8, "seed": 0, "fit": None,
    }  # fmt: skip
    return Setup(**values | changes)


def drawn(photos, seed=0) -> Drawn:
    photos = np.array(photos)
    none = np.zeros(len(photos), dtype=np.int64)
    return Drawn(photos, 2 * photos, none, none.astype(bool), np.random.default_rng(seed))


def step_of(setup, columns, image=None) -> Step:
    learner = setup.learner

    def images(c):
        return F.normalize(learner.encode_images(dict(c)), dim=1)

    def texts(c):
        found = learner.encode_texts(dict(c))
        return found if learner.text_mode == "frozen" else F.normalize(found, dim=1)

    return Step(image, image, 20.0, columns, images, texts)


SMALL = RegionsConfig(least=5, hard=3, boxes=6)


def test_pairs_are_counted_and_an_unclear_one_is_left_out(data, tmp_path):
    found = find_phrases(pairs_of(data), RegionSettings(proposer=f"{data}/boxes.jsonl"), tmp_path)
    # two captions, "a red square" and "a red square" again: one phrase each; photo 0 has two squares
    assert len(found.named) == 23
    assert found.boxes == 25
    assert "25 boxes with a class" in found.told()
    assert "23 boxes on 23 photos are named by 23 phrases" in found.told()
    assert {named.phrase for _, named in found.named} <= {
        f"a {c} {s}" for c in make.COLOURS for s in make.SHAPES
    }


def test_what_is_missing_is_said(data, tmp_path):
    with pytest.raises(InputError, match="23 pairs of box and phrase can be used and 500 are asked for"):
        Regions(setup_of(data, tmp_path), RegionsConfig(least=500))
    with pytest.raises(InputError, match="boxes without classes"):
        Regions(setup_of(data, tmp_path, regions=RegionSettings(proposer="grid:2")), SMALL)
    pooled = setup_of(data, tmp_path, LITE, ("image.head.*",))
    with pytest.raises(InputError, match="last stage learn too"):
        Regions(pooled, SMALL)
    (row,) = Regions.offers(SMALL, pairs_of(data), PairSet(), RegionSettings(proposer=f"{data}/boxes.jsonl"))
    assert "about 23 pairs" in row[1]
    (row,) = Regions.offers(SMALL, pairs_of(data), PairSet(), RegionSettings(proposer="grid:2"))
    assert row[1].startswith("nothing")


@pytest.mark.parametrize("train", [("image.*",), ("image.*", "text.head.*"), ("image.*", "text.*")])
def test_the_loss_by_hand(data, tmp_path, train):
    setup = setup_of(data, tmp_path, train=train)
    objective = Regions(setup, SMALL)
    columns = objective.batch(drawn([0, 1, 2, 5, 16, 17]))  # 0 has no pair; 1 and 17 are both a green square
    again = objective.batch(drawn([0, 1, 2, 5, 16, 17]))
    assert all(torch.equal(columns[name], again[name]) for name in columns)
    found = objective(step_of(setup, columns))
    assert found["boxes"] == len(columns["owner"]) == 5
    named = dict(find_phrases(setup.train, setup.regions, tmp_path).named)
    regions, phrases, hard = [], [], []
    encoder = setup.learner.clip.encoder
    for photo in (1, 2, 5, 16, 17):
        box = torch.tensor([named[photo].box], dtype=torch.float16).float()
        one = setup.photos.batch(np.array([photo]), np.zeros(1, dtype=np.int64))
        regions.append(setup.learner.encode_regions(one, torch.zeros(1, dtype=torch.long), box)[0])
        phrases.append(named[photo].phrase)
    texts = torch.from_numpy(encoder.encode_texts(phrases))
    equal = torch.tensor([phrases.index(p) for p in phrases])
    assert len(set(phrases)) < len(phrases)
    region = losses.region_phrases(torch.stack(regions), texts, equal, 20.0)
    assert found["region"].item() == pytest.approx(region.item(), abs=2e-3)
    for photo, phrase in zip((1, 2, 5, 16, 17), phrases, strict=True):
        row = objective._pairs_of[photo][named[photo].box][0]
        false = [objective.texts.captions[i] for i in objective._false[row]]
        hard.append(torch.from_numpy(encoder.encode_texts([phrase, *false])))
    candidates = torch.stack(hard)
    expected = losses.hard_phrases(torch.stack(regions), candidates, columns["there"], 20.0)
    assert found["hard"].item() == pytest.approx(expected.item(), abs=2e-3)
    total = 0.1 * found["region"] + 0.5 * found["hard"]
    assert found["loss"].item() == pytest.approx(total.item(), abs=1e-5)
    found["loss"].backward()
    assert objective.hard_scale.grad.abs() > 0
    assert setup.learner.clip.model.image.patch.weight.grad.abs().sum() > 0


def test_a_batch_without_boxes_gives_nothing(data, tmp_path):
    setup = setup_of(data, tmp_path)
    objective = Regions(setup, SMALL)
    found = objective(step_of(setup, objective.batch(drawn([0]))))
    assert found["loss"].item() == 0
    found["loss"].backward()
    assert setup.learner.clip.model.image.patch.weight.grad.abs().sum() == 0


def test_the_controls(data, tmp_path):
    setup = setup_of(data, tmp_path)
    plain, random = Regions(setup, SMALL), Regions(setup, dataclasses.replace(SMALL, which="random"))
    sides = [b[:, 2:] - b[:, :2] for b in (plain._boxes, random._boxes)]
    np.testing.assert_allclose(sides[0], sides[1], atol=1e-6)
    assert abs(plain._boxes - random._boxes).max() > 0.05
    shuffled = Regions(setup, dataclasses.replace(SMALL, phrases="shuffled"))
    said = {shuffled.texts.captions[i] for i in shuffled._phrase}
    assert said == {"the picture"} or "grey" in said  # the captions' other phrases
    photo = Regions(setup, dataclasses.replace(SMALL, on="photo"))
    columns = photo.batch(drawn([1, 2, 5]))
    found = photo(step_of(setup, columns))
    images = setup.learner.encode_images(setup.photos.batch(np.array([1, 2, 5]), np.zeros(3, dtype=np.int64)))
    texts = step_of(setup, columns).texts(
        {k.removeprefix("texts_"): v for k, v in columns.items() if "texts_" in k}
    )
    expected = losses.hard_phrases(images, texts[columns["candidates"]], columns["there"], 20.0)
    assert found["hard"].item() == pytest.approx(expected.item(), abs=1e-4)
    fair = Regions(setup, dataclasses.replace(SMALL, balanced=True))
    assert 0 < fair._there.sum() < plain._there.sum()
    negatives = Regions(setup, dataclasses.replace(SMALL, equal="negatives"))
    columns = negatives.batch(drawn([1, 17]))
    assert len(set(columns["same"].tolist())) == 2
    assert len(set(plain.batch(drawn([1, 17]))["same"].tolist())) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_the_whole_photos_box_has_the_pooled_embedding(data, tmp_path, torchvision, kept):
    train = ("image.body.blocks.6.*", "image.head.*") if kept else ("image.*",)
    setup = setup_of(data, tmp_path, LITE, train)
    assert (setup.photos.kept is not None) == kept
    rows = np.arange(3)
    columns = setup.photos.batch(rows, np.zeros_like(rows))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    setup.learner.clip.model.eval()
    for quick in (False, True):
        found = setup.learner.encode_regions(columns, torch.arange(3), whole, quick)
        expected = setup.learner.encode_images(columns, quick=quick)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3 if quick else 1e-4)
    part = setup.learner.encode_regions(columns, torch.arange(3), 0.5 * whole)
    assert not torch.allclose(part, expected, atol=1e-2)
    found = embed_boxes(setup.learner, setup.photos, rows, whole.numpy(), step=2)
    np.testing.assert_allclose(found, setup.photos.embed(0, 3), atol=1e-3)


def test_mirrored_photos_have_mirrored_boxes(data, tmp_path):
    setup = setup_of(data, tmp_path, views=2)
    objective = Regions(setup, SMALL)
    given = np.array([[0.1, 0.2, 0.4, 0.6]] * 4)
    columns, boxes = objective._photos(np.arange(4), np.arange(4), given, np.random.default_rng(1))
    straight = setup.photos.batch(np.arange(4), np.zeros(4, dtype=np.int64))["pixels"]
    turned = [not torch.equal(columns["pixels"][i], straight[i]) for i in range(4)]
    assert any(turned)
    assert not all(turned)
    for i in range(4):
        expected = [0.6, 0.2, 0.9, 0.6] if turned[i] else [0.1, 0.2, 0.4, 0.6]
        assert boxes[i].tolist() == pytest.approx(expected)
        if turned[i]:
            assert torch.equal(columns["pixels"][i].flip(2), straight[i])


def test_boxes_on_a_centre_crop():
    boxes = np.array([[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 0.2, 1.0], [0.0, 0.5, 1.0, 1.0]], dtype=np.float32)
    sizes = np.array([[200, 100]] * 3)
    found, seen = on_input(boxes, sizes, ImageSpec(32, "shortest"))
    assert found[0].tolist() == pytest.approx([0, 0, 1, 1])  # the middle half is what the tower sees
    assert seen.tolist() == [True, False, True]  # the left fifth is cut away; of the lower half, half
    assert found[2].tolist() == pytest.approx([0, 0.5, 1, 1])
    same, seen = on_input(boxes, sizes, ImageSpec(32, "squash"))
    assert same is boxes
    assert seen.all()


def test_placed_reads_sizes_where_they_matter(data):
    pairs = pairs_of(data)
    named = [(3, NamedBox((0.0, 0.0, 0.5, 0.5), "square", "a square", 0))]
    found, _ = placed(named, pairs.photos, ImageSpec(32, "shortest"))
    assert found.tolist() == [[0.0, 0.0, 0.5, 0.5]]  # drawings are square


# ---------------------------------------------------------------- long texts
def test_long_texts(data, tmp_path, capsys):
    pairs = pairs_of(data)
    long = joined(pairs, 5, 2)
    assert len(long) == 24
    one, other = "a green square on grey.", "the picture of a green square."
    assert set(long[1]) <= {f"{one} {other}", f"{other} {one}"}
    setup = setup_of(data, tmp_path)
    objective = LongTexts(setup, LongTextsConfig(least=5))
    columns = objective.batch(drawn([1, 2, 17]))
    image = torch.randn(3, 16)
    step = step_of(setup, columns, image)
    texts = torch.from_numpy(
        setup.learner.clip.encoder.encode_texts([joined(pairs, 5, 1)[i][0] for i in (1, 2, 17)])
    )
    same = torch.tensor([0, 1, 0]) if joined(pairs, 5, 1)[1] == joined(pairs, 5, 1)[17] else torch.arange(3)
    expected = losses.region_phrases(image, texts, same, 20.0)
    assert objective(step).item() == pytest.approx(expected.item(), abs=1e-2)
    with pytest.raises(InputError, match="24 training photos have more than one caption and 50"):
        LongTexts(setup, LongTextsConfig())
    single = PairSet(pairs.names, pairs.photos, pairs.captions[::2], pairs.photo_of[::2])
    with pytest.raises(InputError, match="0 training photos"):
        LongTexts(dataclasses.replace(setup, train=single), LongTextsConfig(least=1))
    (row,) = LongTexts.offers(LongTextsConfig(), pairs, PairSet(), RegionSettings())
    assert row[1].startswith("24 photos")


def test_cut_long_texts_are_told(data, tmp_path, capsys):
    setup = setup_of(data, tmp_path)
    setup.learner.clip.encoder.tokenizer.enable_truncation(8)
    LongTexts(setup, LongTextsConfig(least=5))
    assert "student.context_length gives it more" in capsys.readouterr().err


# ---------------------------------------------------------------- a whole run
def test_a_run_with_both_and_longer_texts_gives_the_same_twice(data, tmp_path):
    make.model_folder(tmp_path / "base")
    (tmp_path / "recipe.toml").write_text(f"""
kind = "dclip"
base = "{tmp_path}/base"
cpu = true
exclude_alike = false
[train]
captions = ["{data}/captions.jsonl"]
photos = ["{data}/photos"]
[regions]
proposer = "{data}/boxes.jsonl"
[augment]
views = 2
[student]
train = ["image.*", "text.*"]
context_length = 40
[student.weights]
image = 0.0
text = 0.0
[objectives.regions]
weight = 1.0
least = 5
[objectives.long_texts]
weight = 1.0
least = 5
[student_stage]
epochs = 2
batch_size = 8
lr = 1e-3
""")
    runs = [load_dclip(tmp_path / "recipe.toml", [f"out={tmp_path}/run{n}"]) for n in range(2)]
    for run in runs:
        dclip(run)
    folders = [tmp_path / f"run{n}" / "dclip-seed0" for n in range(2)]
    assert (folders[0] / "best.safetensors").read_bytes() == (folders[1] / "best.safetensors").read_bytes()
    lines = [json.loads(line) for line in (folders[0] / "log.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "regions" in line)
    assert {"regions.region", "regions.hard", "regions.right", "long_texts"} <= set(logged)
    model = load(str(folders[0] / "model"))
    assert model.card.text.context_length == 40


def test_the_region_test(data, tmp_path):
    setup = setup_of(data, tmp_path)
    spec = setup.learner.clip.encoder.card.image
    test = RegionTest(setup.train, setup.regions, tmp_path, spec, words="all", balanced=False)
    assert "23 questions about 23 of these phrases" in test.told
    results = test.phrases(setup.learner, setup.photos, 50)
    assert results[0].name == "all"
    assert results[0].interval.n == 23
    assert "this model, whole photo" in results[0].blind
    named = test.naming(setup.learner, setup.photos, make.SHAPES, 50)
    assert (named.boxes.n, named.chance) == (23, 0.25)
    plain = dataclasses.replace(setup.train, captions=["the thing"] * len(setup.train.captions))
    with pytest.raises(InputError, match="25 boxes with a class; 0 boxes"):
        RegionTest(plain, setup.regions, tmp_path, spec)
