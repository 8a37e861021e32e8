"""NegCLIP and TripletCLIP: losses by hand and over two processes, false captions, and both objectives in a run."""

import dataclasses
import json
import math
import sys
import types
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import in_words
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.config import load_dclip
from cliplet.training.dclip.inputs import Captions, Learner, Photos
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.trainable import open_trainable
from cliplet.training.objectives import Drawn, Setup, Step, chosen_objectives
from cliplet.training.objectives.false_captions import (
    FalseCaption,
    FalseCaptionSettings,
    false_captions,
    kept_false_captions,
    random_captions,
)
from cliplet.training.objectives.negatives import Negclip, NegclipSettings, Triplet, TripletSettings
from cliplet.training.pairs import PairSet, read_pairs
from tests.training import make
from tests.training.two import joined, spawn_two


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def cross_entropy(logits: list[float], own: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[own]


# ---------------------------------------------------------------- losses
def test_negclip_by_hand():
    x, y, false = unit(3, 5, 0), unit(3, 5, 1), unit(3, 5, 2)
    s = 2.0
    forth = [cross_entropy([float(s * x[i] @ t) for t in (*y, *false)], i) for i in range(3)]
    back = [cross_entropy([float(s * y[i] @ p) for p in x], i) for i in range(3)]
    assert losses.negclip(x, y, false, s).item() == pytest.approx(sum(forth + back) / 6)
    has = torch.tensor([False, True, False])
    forth = [cross_entropy([float(s * x[i] @ t) for t in (*y, false[1])], i) for i in range(3)]
    assert losses.negclip(x, y, false, s, has).item() == pytest.approx(sum(forth + back) / 6)
    none = torch.zeros(3, dtype=torch.bool)
    assert losses.negclip(x, y, false, s, none).item() == pytest.approx(losses.contrastive(x, y, s).item())


def test_triplet_by_hand_as_released_and_symmetric():
    x, y, fx, fy = (unit(2, 5, i) for i in range(4))
    s = 3.0

    def ask(queries: Any, candidates: Any) -> float:
        return (
            sum(cross_entropy([float(s * q @ c) for c in candidates], i) for i, q in enumerate(queries)) / 2
        )

    released = (ask(x, [*y, *fy]) + ask(y, x) + ask(fx, [*fy, *y]) + ask(fy, fx)) / 2
    assert losses.triplet(x, y, fx, fy, s).item() == pytest.approx(released)
    symmetric = (ask(x, [*y, *fy]) + ask(y, [*x, *fx]) + ask(fx, [*fy, *y]) + ask(fy, [*fx, *x])) / 2
    assert losses.triplet(x, y, fx, fy, s, symmetric=True).item() == pytest.approx(symmetric)
    nothing = torch.zeros(2, dtype=torch.bool)
    alone = losses.triplet(x, y, fx, fy, s, has_image=nothing, has_text=torch.tensor([True, False]))
    assert alone.item() == pytest.approx(losses.negclip(x, y, fy, s, torch.tensor([True, False])).item())
    one = losses.triplet(x, y, fx, fy, s, has_image=torch.tensor([False, True]))
    more = (cross_entropy([float(s * fx[1] @ c) for c in (*fy, *y)], 1) + 0.0) / 4  # B = 2, halved
    assert one.item() == pytest.approx(losses.negclip(x, y, fy, s).item() + more)


def test_the_union_is_contrastive_over_all_pairs():
    x, y, mx, my = (unit(2, 5, i) for i in range(4))
    whole = losses.contrastive(torch.cat([x, mx]), torch.cat([y, my]), 4.0)
    assert losses.union(x, y, mx, my, 4.0).item() == pytest.approx(whole.item())
    one = losses.contrastive(torch.cat([x, mx[:1]]), torch.cat([y, my[:1]]), 4.0)
    assert losses.union(x, y, mx, my, 4.0, torch.tensor([True, False])).item() == pytest.approx(one.item())


def test_equal_texts_are_no_negatives():
    x, y, false = unit(3, 5, 0), unit(3, 5, 1), unit(3, 5, 2)
    ids, false_ids = (
        torch.tensor([7, 7, 8]),
        torch.tensor([9, 8, 7]),
    )  # a false caption is another photo's own
    s = 2.0
    forth = [
        cross_entropy([float(s * x[0] @ t) for t in (y[0], y[2], false[0], false[1])], 0),
        cross_entropy([float(s * x[1] @ t) for t in (y[1], y[2], false[0], false[1])], 0),
        cross_entropy([float(s * x[2] @ t) for t in (y[2], y[0], y[1], false[0], false[2])], 0),
    ]
    back = [
        cross_entropy([float(s * y[0] @ p) for p in (x[0], x[2])], 0),
        cross_entropy([float(s * y[1] @ p) for p in (x[1], x[2])], 0),
        cross_entropy([float(s * y[2] @ p) for p in (x[2], x[0], x[1])], 0),
    ]
    found = losses.negclip(x, y, false, s, text_ids=ids, false_ids=false_ids)
    assert found.item() == pytest.approx(sum(forth + back) / 6)


MASKS = torch.tensor([1, 0, 1, 1, 0, 0, 0, 0]).bool(), torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]).bool()
IDS = torch.tensor([0, 1, 2, 3, 2, 5, 6, 0]), torch.tensor([10, 11, 12, 3, 14, 15, 16, 17])


def total_loss(weight, part=slice(None)):
    rows = [unit(8, 5, i)[part] @ weight for i in range(4)]
    (images, texts), (ids, false_ids) = [m[part] for m in MASKS], [i[part] for i in IDS]
    return (
        losses.negclip(*rows[:2], rows[3], 5.0, texts, ids, false_ids)
        + losses.triplet(*rows, 5.0, False, images, texts, ids, false_ids)
        + losses.triplet(*rows, 5.0, True, images, texts, ids, false_ids)
        + losses.union(*rows, 5.0, images, ids, false_ids)
    )


def weight():
    return (torch.eye(5, dtype=torch.float64) + 0.3 * unit(5, 5, 9)).requires_grad_()


def worker(rank, port, folder):
    with joined(rank, port):
        w = weight()
        loss = total_loss(w, slice(rank * 4, rank * 4 + 4))
        loss.backward()
        dist.all_reduce(w.grad)
        if rank == 0:
            torch.save({"loss": loss.detach(), "grad": w.grad / 2}, f"{folder}/found.pt")


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_two_processes_give_the_value_and_gradient_of_one(tmp_path):
    spawn_two(worker, str(tmp_path))
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    w = weight()
    loss = total_loss(w)
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=0)
    assert w.grad.abs().max() > 1e-3
    torch.testing.assert_close(found["grad"], w.grad, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- false captions
def pair_set(*captions: tuple[str, ...]) -> PairSet:
    photo_of = np.array([i for i, own in enumerate(captions) for _ in own], dtype=np.int64)
    names = [f"{i}.jpg" for i in range(len(captions))]
    return PairSet(names, list(names), [c for own in captions for c in own], photo_of)


PAIRS = pair_set(
    ("a red dog runs", "a dog", "a red dog runs"),
    ("nothing here", "a blue cat sits"),
    ("two men on a green bench",),
)


def test_false_captions_know_their_rows():
    found = false_captions(PAIRS, words="all", fluent=False)
    assert {one.caption for one in found} == {0, 1, 2, 4, 5}  # not "nothing here"
    assert [one.caption for one in found] == sorted(one.caption for one in found)
    for one in found:
        true, false = PAIRS.captions[one.caption].split(), one.text.split()
        changed = [(a, b) for a, b in zip(true, false, strict=True) if a != b and a not in ("a", "an")]
        assert changed == [(one.before, one.after)]
    same = [[(o.text, o.kind) for o in found if o.caption == row] for row in (0, 2)]
    assert same[0] == same[1]  # equal captions of a photo
    more = false_captions(PAIRS, words="all", fluent=False, per_caption=3)
    texts = [o.text for o in more if o.caption == 1]
    assert len(texts) == len(set(texts)) == 3


def test_training_and_test_words_share_no_pair():
    books = pair_set(*((f"{n} {c} {o} {a}",) for n, c, o, a in zip(
        ["two", "three", "four", "five", "six"] * 8, ["red", "blue", "green", "black", "white"] * 8,
        ["dogs", "cats", "horses", "cows", "birds"] * 8, ["running", "walking", "jumping", "sitting", "standing"] * 8,
        strict=True)))  # fmt: skip
    pairs_of = {
        part: {(o.kind, frozenset((o.before, o.after))) for s in range(5) for o in false_captions(
            books, words=part, seed=s, fluent=False, words_seed=1)}
        for part in ("train", "test")
    }  # fmt: skip
    assert pairs_of["train"]
    assert not pairs_of["train"] & pairs_of["test"]
    assert {kind for kind, _ in pairs_of["test"]} == {"object", "colour", "number", "action"}
    assert in_words("object", "dogs", "cat", "test") == in_words("object", "kitten", "puppy", "test")
    other = {
        frozenset((o.before, o.after))
        for o in false_captions(books, words="test", fluent=False, words_seed=2)
    }
    assert other != {pair for _, pair in pairs_of["test"]}


def test_random_captions_are_as_many_and_of_other_photos():
    false = false_captions(PAIRS, words="all", fluent=False)
    found = random_captions(PAIRS, false, 0)
    assert [one.caption for one in found] == [one.caption for one in false]
    for one in found:
        own = {PAIRS.captions[r] for r in PAIRS.captions_of()[PAIRS.photo_of[one.caption]]}
        assert one.text in {*PAIRS.captions} - own
        assert one.kind == "random"
    assert found == random_captions(PAIRS, false, 0) != random_captions(PAIRS, false, 1)


def test_false_captions_are_kept(tmp_path):
    settings = FalseCaptionSettings(words="all", fluent=False)
    first = kept_false_captions(PAIRS, settings, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps([[0, "changed", "object", "a", "b"]]))
    assert kept_false_captions(PAIRS, settings, 0, tmp_path) == [
        FalseCaption(0, "changed", "object", "a", "b")
    ]
    assert kept_false_captions(PAIRS, settings, 1, tmp_path) != first
    file.write_text("{")
    assert kept_false_captions(PAIRS, settings, 0, tmp_path) == first


# ---------------------------------------------------------------- objectives
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("negatives")
    make.dataset(folder / "train", 24)
    make.model_folder(folder / "base")
    return folder


@dataclass(frozen=True)
class FalsePhoto:
    row: int
    kind: str
    photo: Any
    source: int = -1


@pytest.fixture
def fake_photos(monkeypatch, data):
    """False photos by their captions' colours; every third is a training photo."""

    def find(pairs, false, boxes, folder, seed, kinds, reasons):
        folder.mkdir(exist_ok=True)
        found = []
        for row, one in enumerate(false):
            if one.caption % 4 == 3:
                reasons["recolour: no box"] += 1
                continue
            if row % 3 == 0:
                source = (int(pairs.photo_of[one.caption]) + 1) % len(pairs.photos)
                found.append(FalsePhoto(row, "retrieve", pairs.photos[source], source))
            else:
                file = folder / f"false-{row}.png"
                make.drawing(one.after if one.after in make.COLOURS else "red", "bar", row).save(file)
                found.append(FalsePhoto(row, "recolour", file))
        return found

    module = types.ModuleType("cliplet.training.objectives.false_photos")
    module.find_false_photos = find
    module.photo_boxes = lambda pairs, settings, folder: None
    module.side_captions = lambda pairs: []
    monkeypatch.setitem(sys.modules, module.__name__, module)


def setup_of(data, folder, patterns) -> Setup:
    from cliplet.training.config import DataConfig

    train = read_pairs(
        DataConfig(
            captions=(str(data / "train" / "captions.jsonl"),), photos=(str(data / "train" / "photos"),)
        )
    )
    learner = Learner(open_trainable(str(data / "base")), patterns)
    photos = Photos.compute(learner, train.photos, folder)
    return Setup(
        learner, train, photos, Captions(learner, train.captions, folder), PairSet(), folder, AugmentConfig(),
        RegionSettings(), 6, 0, None,
    )  # fmt: skip


def step_of(setup: Setup, columns, photos, captions) -> Step:
    learner = setup.learner

    def images(c):
        return F.normalize(learner.encode_images(dict(c)), dim=1)

    def texts(c):
        return F.normalize(learner.encode_texts(dict(c)), dim=1)

    views = np.zeros(len(photos), dtype=np.int64)
    image, text = images(setup.photos.batch(photos, views)), texts(setup.captions.columns(captions))
    return Step(image, text, 5.0, columns, images, texts)


def drawn_of(setup: Setup, photos, seed=0) -> Drawn:
    captions = np.array([setup.train.captions_of()[p][0] for p in photos])
    rows = np.array(photos)
    zeros = np.zeros(len(photos), dtype=np.int64)
    return Drawn(rows, captions, zeros, zeros.astype(bool), np.random.default_rng(seed))


@pytest.mark.parametrize("patterns", [("image.head.*",), ("image.head.*", "text.head.*"), ("*",)])
def test_negclip_reads_false_captions_in_every_text_mode(data, tmp_path, patterns):
    setup = setup_of(data, tmp_path, patterns)
    objective = Negclip(setup, NegclipSettings(fluent=False, words="all"))
    drawn = drawn_of(setup, [0, 1, 2, 3, 4, 5])
    columns = objective.batch(drawn)
    step = step_of(setup, columns, drawn.photos, drawn.captions)
    found = objective(step)
    again = objective.batch(drawn_of(setup, [0, 1, 2, 3, 4, 5]))
    assert all(torch.equal(columns[k], again[k]) for k in columns)
    assert found["share"] == 1.0
    # by hand: the false captions of the batch through the model itself
    texts = {int(objective.false.false_ids[n]): one.text for n, one in enumerate(
        kept_false_captions(setup.train, objective.settings, 0, tmp_path))}  # fmt: skip
    false = [texts[int(i)] for i in columns["false_ids"]]
    vectors = torch.from_numpy(setup.learner.clip.encoder.encode_texts(false))
    ids, false_ids = columns["text_ids"], columns["false_ids"]
    expected = losses.negclip(step.image, step.text, vectors, 5.0, None, ids, false_ids)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=2e-3)
    found["loss"].backward()
    for image, caption in zip(drawn.photos, false, strict=True):
        own = [setup.train.captions[r] for r in setup.train.captions_of()[image]]
        assert caption not in own


def test_captions_without_a_false_one_stay(data, tmp_path):
    setup = setup_of(data, tmp_path, ("image.head.*",))
    plain = dataclasses.replace(
        setup.train, captions=["a picture" if i % 4 else c for i, c in enumerate(setup.train.captions)]
    )
    setup = dataclasses.replace(setup, train=plain)
    objective = Negclip(setup, NegclipSettings(fluent=False, words="all"))
    drawn = drawn_of(setup, [0, 1, 2, 3])
    columns = objective.batch(drawn)
    assert columns["has_text"].tolist() == [True, False, True, False]
    assert columns["text_ids"][1] == columns["text_ids"][3]  # both "a picture"
    nothing = objective.batch(drawn_of(setup, [1, 3]))
    assert (
        objective(step_of(setup, nothing, np.array([1, 3]), drawn_of(setup, [1, 3]).captions))["share"] == 0.0
    )
    none = dataclasses.replace(
        setup, train=dataclasses.replace(plain, captions=["a picture"] * len(plain.captions))
    )
    with pytest.raises(InputError, match="none of the 48 training captions has a word to swap"):
        Negclip(none, NegclipSettings())


@pytest.mark.parametrize("change", [{}, {"symmetric": True}, {"only_photos": True}, {"positives": True}])
def test_triplets_bring_their_photos(data, tmp_path, fake_photos, change):
    setup = setup_of(data, tmp_path, ("image.head.*", "text.head.*"))
    objective = Triplet(setup, TripletSettings(fluent=False, words="all", **change))
    drawn = drawn_of(setup, [0, 1, 2, 3, 4, 5])
    columns = objective.batch(drawn)
    assert min(objective.made_by[kind] for kind in ("retrieve", "recolour")) > 0
    step = step_of(setup, columns, drawn.photos, drawn.captions)
    found = objective(step)
    has = columns["has_image"]
    assert 0 < has.sum() < 6 or change.get("positives")
    found["loss"].backward()
    assert all(
        torch.isfinite(p.grad).all() for p in setup.learner.clip.model.parameters() if p.grad is not None
    )
    # each false photo is the one of its false caption
    false = kept_false_captions(setup.train, objective.settings, 0, tmp_path)
    encode = objective._images(step)(
        {k.removeprefix("photos."): v for k, v in columns.items() if k.startswith("photos.")}
    )
    sources = [p.photo for p in objective.found]
    known = torch.from_numpy(setup.learner.clip.encoder.encode_images(sources))
    nearest = (encode.detach() @ known.T).max(dim=1)
    assert (nearest.values > 0.999).all()
    ids = columns["false_ids"][has].tolist()
    for row, number in zip(ids, nearest.indices.tolist(), strict=True):
        same = [p for p in objective.found if objective.false.false_ids[p.row] == row]
        assert any(p.photo == objective.found[number].photo for p in same)
    if change.get("positives"):
        rows = [objective.caption_of[i] for i in nearest.indices.tolist()]
        assert not {int(setup.train.photo_of[false[r].caption]) for r in rows} & set(drawn.photos.tolist())
        assert columns["has_text"].equal(has)
    else:
        taken = {objective.found[i].source for i in nearest.indices.tolist()}
        assert not taken & set(drawn.photos.tolist())  # a photo of the batch is no false photo


def test_settings_are_checked():
    assert chosen_objectives({"triplet": 1.0, "negclip": {"weight": 0.5, "source": "random"}})
    for wanted, message in (
        ({"negclip": {"kinds": ["shape"]}}, "use some of object, colour"),
        ({"negclip": {"source": "other"}}, "source"),
        ({"negclip": {"per_caption": 0}}, "at least 1"),
        ({"triplet": {"symmetric": True, "positives": True}}, "exclude each other"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_objectives(wanted)


def test_what_the_data_offers():
    rows = dict(Negclip.offers(NegclipSettings(words="all"), PAIRS, PairSet(), RegionSettings()))
    assert rows["captions with a word to swap"] == "5 of 6"
    counts = Counter(o.kind for o in false_captions(PAIRS, words="all", fluent=False))
    assert f"number {counts['number']}" in rows["false captions by kind (words = all)"]
    settings = TripletSettings(words="all", photos=("recolour", "retrieve", "mirror"))
    rows = dict(Triplet.offers(settings, PAIRS, PairSet(), RegionSettings("grid")))
    assert "name a detector" in rows["false photos, recolour"]
    assert rows["false photos, mirror"] == rows["false photos, retrieve"] == "0"
    rows = dict(Triplet.offers(settings, PAIRS, PairSet(), RegionSettings("found.onnx")))
    assert rows["false photos, recolour"].startswith(f"at most {counts['colour']}")


RECIPE = """
kind = "dclip"
out = "{out}"
base = "{data}/base"
cpu = true
resamples = 20
exclude_alike = false
held_out = 6
[train]
captions = ["{data}/train/captions.jsonl"]
photos = ["{data}/train/photos"]
[augment]
views = 2
[student]
train = ["image.head.*", "text.head.*"]
weights = {{contrastive = 1.0, image = 0.0, text = 0.0}}
[student_stage]
epochs = 2
batch_size = 6
lr = 1e-3
[objectives.{name}]
words = "all"
"""


def test_real_false_photos_without_a_detector_are_training_photos(data, tmp_path):
    setup = setup_of(data, tmp_path, ("image.head.*",))
    objective = Triplet(setup, TripletSettings(fluent=False, words="all"))
    assert set(objective.made_by) == {"retrieve"}
    drawn = drawn_of(setup, [0, 4, 8, 12, 16, 20])  # all red
    columns = objective.batch(drawn)
    assert columns["has_image"].any()
    assert math.isfinite(objective(step_of(setup, columns, drawn.photos, drawn.captions))["loss"].item())
    with pytest.raises(
        InputError, match=r"none of the 48 training captions has a false photo .*regions\.proposer"
    ):
        Triplet(setup, TripletSettings(photos=("paste",), words="all"))


@pytest.mark.parametrize("name", ["negclip", "triplet"])
def test_a_recipe_turns_it_on_by_a_line(data, tmp_path, fake_photos, name):
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.format(out=tmp_path / "run", data=data, name=name))
    dclip(load_dclip(file))
    logs = list((tmp_path / "run").rglob("log.jsonl"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    seen = [line for line in lines if name in line]
    assert seen
    assert all(math.isfinite(line[name]) and line[f"{name}.share"] > 0 for line in seen)
    assert not any("contrastive" in line for line in lines)  # it is inside
