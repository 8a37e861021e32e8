"""Photos without captions in a recipe: S-CLIP, pseudo-captions, and nCLIP beside the pairs."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from cliplet.data.images import load_rgb
from cliplet.encoders.registry import load
from cliplet.errors import InputError, ModelError
from cliplet.models.dual import load_weights
from cliplet.regions.store import RegionSettings
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.inputs import Captions, Learner, Photos
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.trainable import open_trainable
from cliplet.training.objectives import OBJECTIVES, Drawn, Setup, Step, chosen_objectives
from cliplet.training.objectives.bare import PseudoSettings, SclipSettings
from cliplet.training.objectives.clusters import NclipSettings
from cliplet.training.objectives.keywords import find_keywords, keywords_of, named
from cliplet.training.objectives.pseudo import base_features
from cliplet.training.pairs import PairSet, fingerprint, read_pairs
from tests.training.test_dclip import recipe, write_data

PLAIN = (
    'only=["infonce"]',
    'variants.2.set=["student.weights={contrastive = 1.0, image = 0.0, text = 0.0}"]',
)
"""The pairs' own contrastive loss, and nothing else."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("bare"))


def lines(folder):
    return [json.loads(x) for x in (folder / "infonce-seed0" / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- keywords
def test_a_keyword_is_named_by_whole_words_in_any_number():
    captions = [
        "Two dogs at a hot-dog stand.", "A hotdog", "Children near tennis courts", "the bus and the BUSES",
        "a T-shirt", "doggy", "A man's dog", "",
    ]  # fmt: skip
    keywords = ["dog", "hot dog", "child", "tennis court", "buses", "t shirt"]
    found = named(captions, keywords)
    assert [[k for k, yes in zip(keywords, row, strict=True) if yes] for row in found] == [
        ["dog", "hot dog"], [], ["child", "tennis court"], ["buses"], ["t shirt"], [], ["dog"], [],
    ]  # fmt: skip


def test_the_best_keywords_tell_photos_apart():
    captions = [
        "a tennis court with white lines", "two tennis courts beside a road", "a river in a forest",
        "a road through a forest", "a river", "the picture of a harbor",
    ]  # fmt: skip
    found = find_keywords(captions, np.arange(6))
    assert "tennis court" in found
    assert {"river", "forest", "road"} <= set(found)
    assert not {"harbor", "two", "white lines", "a"} & set(found)  # of one photo, or no thing
    assert find_keywords(captions, np.arange(6), 2) == found[:2]
    assert find_keywords(captions[:1], np.arange(1)) == []


def test_keywords_come_from_a_file_or_a_list(tmp_path):
    (tmp_path / "k.txt").write_text("river\ntennis court\nrivers\n")
    read = partial(keywords_of, captions=["a river"], photo_of=np.zeros(1, dtype=np.int64), most=9)
    assert read(str(tmp_path / "k.txt")) == ["river", "tennis court"]  # one of two that are alike
    assert read(("beach", "beaches", "sea")) == ["beach", "sea"]
    with pytest.raises(InputError, match="no_such"):
        read(str(tmp_path / "no_such.txt"))
    with pytest.raises(InputError, match="no keyword is found"):
        read("found")


# ---------------------------------------------------------------- one batch
def make_setup(data, folder, train=("released",), captioned=12, views=1):
    folder.mkdir(exist_ok=True)
    learner = Learner(open_trainable(str(data / "base")), train)
    own = recipe(data, folder).train
    pairs = read_pairs(own)
    mask = np.arange(len(pairs.photos)) < captioned
    train_set, bare = pairs.keep(mask), pairs.keep(~mask)
    augment = AugmentConfig(views=views)
    photos = Photos.compute(learner, train_set.photos, folder, augment)
    captions = Captions(learner, train_set.captions, folder)
    bare_set = PairSet(bare.names, bare.photos)
    made = Setup(
        learner, train_set, photos, captions, bare_set, folder, augment, RegionSettings(), 8, 0, None
    )
    return made, bare


def one_step(setup, objective, rows=(0, 1, 5, 6)):
    """The loss of a batch, its columns, and the batch's embeddings."""
    photos = np.array(rows)
    captions = 2 * photos
    drawn = Drawn(
        photos, captions, np.zeros(len(photos), dtype=np.int64), np.zeros(len(photos), dtype=bool),
        np.random.default_rng(3),
    )  # fmt: skip
    columns = objective.batch(drawn)
    learner = setup.learner

    def images(batch):
        return torch.nn.functional.normalize(learner.encode_images(dict(batch)), dim=1)

    def texts(batch):
        return torch.nn.functional.normalize(learner.encode_texts(dict(batch)), dim=1)

    image = images(setup.photos.batch(photos, np.zeros(len(photos), dtype=np.int64)))
    text = texts(setup.captions.columns(captions))
    found = objective(Step(image, text, 20.0, columns, images, texts))
    return found, columns, image, text


@pytest.mark.parametrize("train", [("image.*",), ("image.*", "text.head.*"), ("image.*", "text.*")])
def test_sclip_in_all_text_modes(data, tmp_path, train):
    setup, _ = make_setup(data, tmp_path, train)
    objective = OBJECTIVES["sclip"](setup, SclipSettings(keywords=("red", "blue square", "yellow")))
    found, columns, _, _ = one_step(setup, objective)
    assert columns["candidates"].int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    parts = found["pairs"] + found["captions"] + found["keywords"]
    assert found["loss"].item() == pytest.approx(parts.item())
    assert len(columns["bare_pixels"]) == 4  # as many as pairs
    found["loss"].backward()
    assert any(p.grad is not None for n, p in setup.learner.clip.model.named_parameters() if "image" in n)


def test_the_controls_of_sclip(data, tmp_path):
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    loss = {}
    for name, changes in {
        "pairs": {"caption_labels": 0.0, "keyword_labels": 0.0, "negatives": False},
        "negatives": {"caption_labels": 0.0, "keyword_labels": 0.0},
        "labels": {"keyword_labels": 0.0},
        "shuffled": {"keyword_labels": 0.0, "method": "shuffled"},
    }.items():
        objective = OBJECTIVES["sclip"](setup, SclipSettings(photos=6, **changes))
        found, columns, image, text = one_step(setup, objective)
        loss[name] = found["loss"].item()
        assert len(columns["bare_pixels"]) == 6
    from cliplet.training.losses import contrastive

    assert loss["pairs"] == pytest.approx(contrastive(image, text, 20.0).item(), rel=1e-5)
    assert loss["negatives"] > loss["pairs"]
    assert loss["labels"] > loss["negatives"]
    assert loss["shuffled"] != loss["labels"]


def test_a_batch_depends_on_its_random_numbers_alone(data, tmp_path):
    setup, _ = make_setup(data, tmp_path, ("image.*",), views=2)
    objective = OBJECTIVES["sclip"](setup, SclipSettings())
    first, second = (one_step(setup, objective)[1] for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_pseudo_captions_name_what_the_photo_shows(data, tmp_path):
    setup, bare = make_setup(data, tmp_path, ("image.*",), captioned=24)
    own = Captions(setup.learner, bare.captions, tmp_path).base  # what nobody has told the objective
    for source in ("ridge", "neighbours"):
        objective = OBJECTIVES["pseudo"](setup, PseudoSettings(sources=(source,), nearest=2))
        assert np.allclose(np.linalg.norm(objective.target, axis=1), 1, atol=1e-5)
        right = (objective.target[bare.photo_of] * own).sum(axis=1).mean()
        other = (np.roll(objective.target, 1, axis=0)[bare.photo_of] * own).sum(axis=1).mean()
        assert right > other
        shuffled = OBJECTIVES["pseudo"](setup, PseudoSettings(sources=(source,), nearest=2, shuffled=True))
        assert sorted(map(tuple, shuffled.target)) == sorted(map(tuple, objective.target))
        assert not np.array_equal(shuffled.target, objective.target)
        for loss in ("cosine", "contrastive", "soft"):
            one = OBJECTIVES["pseudo"](setup, PseudoSettings(sources=(source,), loss=loss))
            found, columns, _, _ = one_step(setup, one)
            if loss == "cosine":
                assert found["loss"].item() == pytest.approx(1 - found["cosine"].item(), abs=1e-5)
            assert columns["target"].shape == (4, 16)
            found["loss"].backward()


def test_features_are_those_before_the_projection(data, tmp_path):
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    head = setup.learner.clip.model.image.head
    assert base_features(setup, setup.photos).shape == (12, 32)
    assert setup.learner.clip.model.image.head is head
    assert setup.photos.embeddings().shape == (12, 16)


def test_further_encoders_see_for_the_pseudo_captions(data, tmp_path):
    """The packaged model tells the drawings better than a tower that has learnt nothing."""
    setup, bare = make_setup(data, tmp_path, ("image.*",), captioned=24)
    own = Captions(setup.learner, bare.captions, tmp_path).base
    right = {}
    for features in ((), ("lclip-everyday",)):
        settings = PseudoSettings(sources=("neighbours",), nearest=1, features=features)
        target = OBJECTIVES["pseudo"](setup, settings).target
        right[features] = (target[bare.photo_of] * own).sum(axis=1).mean()
    assert right["lclip-everyday",] > right[()]
    encoder = load("lclip-everyday")
    kept = tmp_path / f"features-{fingerprint([encoder.card.fingerprint])}-{setup.photos.key}.npy"
    wanted = encoder.encode_images([load_rgb(p) for p in setup.photos.photos])
    assert np.allclose(np.load(kept), wanted, atol=1e-3)
    with pytest.raises(ModelError, match="no model"):
        OBJECTIVES["pseudo"](setup, PseudoSettings(features=("nothing",)))


def test_photos_without_captions_must_be_there(data, tmp_path):
    with pytest.raises(InputError, match=r"\[bare\], or lower captioned="):
        dclip(recipe(data, tmp_path / "none", "objectives.sclip=1.0"))
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    with pytest.raises(InputError, match=r"no training caption names a keyword of sclip \(zebra"):
        OBJECTIVES["sclip"](setup, SclipSettings(keywords=("zebra",)))
    with pytest.raises(InputError, match=r"holds no best\.safetensors; train that variant first"):
        OBJECTIVES["pseudo"](setup, PseudoSettings(sources=("students",), students=(str(tmp_path),)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sclip": {"method": "ot"}}, r"method='ot' is not one of transport"),
        ({"sclip": {"template": "a photo"}}, "must have {}"),
        ({"sclip": {"keywords": 3}}, "keywords=3 of sclip must be 'found'"),
        ({"sclip": {"most": 0}}, "most=0"),
        ({"pseudo": {"sources": ["students"]}}, "together with students="),
        ({"pseudo": {"nearest": 0}}, "must be above 0"),
        ({"nclip": {"clusters": 1}}, "clusters=1 of nclip must be at least 2"),
        ({"nclip": {"keep": 1.0}}, r"keep=1\.0 in 0"),
    ],
)
def test_wrong_settings_are_named(table, message):
    with pytest.raises(InputError, match=message):
        chosen_objectives(table)


def test_what_the_data_offers(data, tmp_path):
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    kind = OBJECTIVES["sclip"]
    rows = dict(kind.offers(SclipSettings(), setup.train, setup.bare, RegionSettings()))
    assert rows["photos without captions"] == "20"
    assert rows["captions that name one"] == "100%"
    rows = dict(kind.offers(SclipSettings(keywords=["red"]), setup.train, setup.bare, RegionSettings()))
    assert (rows["keywords"], rows["captions that name one"]) == ("1: red", "25%")
    rows = dict(OBJECTIVES["pseudo"].offers(PseudoSettings(), setup.train, setup.bare, RegionSettings()))
    assert rows["pseudo-captions"] == "ridge and neighbours, from 12 captioned photos"
    settings = PseudoSettings(features=("timm:lite2",))
    rows = dict(OBJECTIVES["pseudo"].offers(settings, setup.train, setup.bare, RegionSettings()))
    assert rows["pseudo-captions"].endswith("12 captioned photos, seen by timm:lite2 too")


# ---------------------------------------------------------------- clusters
def test_nclip_warns_once_where_all_falls_into_one_cluster(data, tmp_path, capsys):
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    objective = OBJECTIVES["nclip"](setup, NclipSettings(clusters=8, width=8, lambda2=0.0))
    with torch.no_grad():
        for head in (objective.image, objective.text):
            head[-1].bias[0] = 50.0
    for _ in range(25):
        found, *_ = one_step(setup, objective)
    assert found["clusters"].item() == pytest.approx(1, abs=0.3)
    told = capsys.readouterr().err
    assert told.count("nclip: photos and captions use") == 1
    assert "raise objectives.nclip.lambda2 (now 0)" in told


def test_nclip_by_hand(data, tmp_path):
    setup, _ = make_setup(data, tmp_path, ("image.*",))
    torch.manual_seed(0)
    settings = NclipSettings(
        clusters=6, width=8, layers=3, lambda1=0.7, lambda2=2.0, temperature=0.1, keep=0.5
    )
    objective = OBJECTIVES["nclip"](setup, settings)
    assert [m.out_features for m in objective.image if hasattr(m, "out_features")] == [8, 8, 6]
    found, _, image, text = one_step(setup, objective)
    p, q = ((h(x * 4) / 0.1).softmax(dim=1) for h, x in ((objective.image, image), (objective.text, text)))
    agree = -((p * q.log()).sum(1) + (q * p.log()).sum(1)).mean() / 2
    sure = torch.special.entr(torch.cat([p, q])).sum(1).mean()
    spread = (
        torch.special.entr(torch.stack([p.mean(0), q.mean(0)])).sum(1).mean()
    )  # the first batch: no earlier one
    assert found["loss"].item() == pytest.approx((agree + 0.7 * sure - 2 * spread).item(), rel=1e-4)
    assert torch.allclose(objective.mean, torch.stack([p.mean(0), q.mean(0)]), atol=1e-6)
    again, *_ = one_step(setup, objective)
    assert again["spread"].item() == pytest.approx(found["spread"].item(), rel=1e-4)  # the same batch again


# ---------------------------------------------------------------- whole runs
@pytest.mark.parametrize(
    ("changes", "logged"),
    [
        (["captioned=16", "objectives.sclip=1.0"], {"sclip", "sclip.captions", "sclip.keywords"}),
        (
            ["captioned=16", 'objectives.pseudo={weight = 0.5, loss = "soft"}', "augment.views=2"],
            {"pseudo", "pseudo.cosine", "contrastive"},
        ),
        (
            ["objectives.nclip={weight = 0.1, clusters = 8, width = 16}"],
            {"nclip", "nclip.clusters", "contrastive"},
        ),
    ],
    ids=["sclip", "pseudo", "nclip"],
)
def test_a_whole_run(data, tmp_path, changes, logged):
    text = dclip(recipe(data, tmp_path / "run", *PLAIN, *changes))
    assert "| infonce" in text
    train = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert logged <= set(train[-1])
    assert ("contrastive" in train[-1]) == ("contrastive" in logged)  # S-CLIP has it inside
    assert all(np.isfinite(line["loss"]) for line in train)
    before, after = load_weights(data / "base"), load_weights(tmp_path / "run" / "infonce-seed0" / "model")
    assert set(dict(before.named_parameters())) == set(dict(after.named_parameters()))  # no head is left


def test_an_earlier_student_labels_the_photos(data, tmp_path):
    few = (*PLAIN, "captioned=16")
    dclip(recipe(data, tmp_path / "run", *few))
    student = tmp_path / "run" / "infonce-seed0"
    again = f'objectives.pseudo={{sources = ["students"], students = ["{student}"], nearest = 2}}'
    dclip(recipe(data, tmp_path / "again", *few, again))
    setup, _ = make_setup(data, tmp_path / "kept", captioned=16)
    before = {k: v.clone() for k, v in setup.learner.clip.model.state_dict().items()}
    settings = PseudoSettings(
        sources=("students",), students=(str(student), str(tmp_path / "again" / "infonce-seed0"))
    )
    objective = OBJECTIVES["pseudo"](setup, settings)
    assert objective.target.shape == (16, 16)
    after = setup.learner.clip.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)  # the base model's weights are back
    other, _ = make_setup(data, tmp_path / "kept", ("text.head.*",), captioned=16)
    with pytest.raises(InputError, match="which this recipe does not"):
        OBJECTIVES["pseudo"](other, settings)
