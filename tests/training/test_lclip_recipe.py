"""The packaged model's recipe: what it computes once, its settings, and how its towers' heads fit together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cliplet.errors import InputError
from cliplet.models.config import TextConfig
from cliplet.models.text import TextTower
from cliplet.regions.base import Regions
from cliplet.training.pairs import PairSet
from cliplet.training.recipes import open_recipe
from cliplet.training.text_distillation import Captions
from lclip_everyday.bare import BarePhotos, class_captions, pseudo_captions
from lclip_everyday.data import SIZE, detector_features, detector_graph, outputs
from lclip_everyday.detections import Thing, captions, counted, things
from lclip_everyday.heads import anchor_classes, class_inputs, split_text_head
from lclip_everyday.recipe import Settings
from lclip_everyday.run import Run
from lclip_everyday.student import TwinTower
from lclip_everyday.words import everyday_names, kept_out, short_texts
from tests.shared_data import ROOT
from tests.training import make
from tests.training.parts import write_detector

PHOTOS = [make.drawing(colour, shape, 1) for colour in list(make.COLOURS)[:3] for shape in make.SHAPES]


def test_shipped_recipe_reads() -> None:
    _, kind, recipe = open_recipe(ROOT / "recipes" / "lclip_everyday.toml")
    assert kind.settings is Settings
    assert recipe.text_stage.epochs > 0
    assert recipe.image_stage.epochs > 0
    assert recipe.detector_layers


def test_outputs_are_those_of_the_module_and_are_kept(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=32), nn.ReLU()).eval()
    file = tmp_path / "kept.npy"
    found = outputs(module, PHOTOS, file)
    pixels = np.stack([np.asarray(photo.convert("RGB").resize((SIZE, SIZE), 3)) for photo in PHOTOS])
    with torch.inference_mode():
        wanted = module(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    stamp = file.stat().st_mtime_ns
    np.testing.assert_array_equal(outputs(module, PHOTOS, file), found)
    assert file.stat().st_mtime_ns == stamp
    assert not np.array_equal(outputs(module, PHOTOS, tmp_path / "view.npy", view=1), found)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "detector.onnx")


def test_detector_features_by_hand(detector: Path, tmp_path: Path) -> None:
    photo = make.drawing(next(iter(make.COLOURS)), next(iter(make.SHAPES)), 1)
    (found,) = detector_features(detector, ["inner"], [photo], tmp_path / "features.npy").astype(np.float64)
    highest = [0.5**0.5, 0.1**0.5]
    boxes = [np.log1p(2 / 10), 0.0]  # above 0.3
    sums = [0.9**0.5, (0.08 + 0.1) ** 0.5]
    np.testing.assert_allclose(found[:6], [*highest, *boxes, *sums], atol=1e-3)
    bgr = np.asarray(photo.convert("RGB").resize((32, 32), 2), dtype=np.float64)[:, :, ::-1]
    np.testing.assert_allclose(found[6:9], bgr.mean(axis=(0, 1)), rtol=2e-3)
    np.testing.assert_allclose(found[9:12], bgr.max(axis=(0, 1)), rtol=2e-3)


def test_wrong_detectors_are_named_before_anything_is_computed(detector: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no tensor 'neck'"):
        detector_graph(detector, ["neck"])
    with pytest.raises(InputError, match="cannot be read"):
        detector_graph(tmp_path / "none.onnx", [])
    recipe = Settings(out=str(tmp_path / "run"), detector=str(tmp_path / "none.onnx"))
    with pytest.raises(InputError, match="cannot be read"):
        Run(recipe)
    with pytest.raises(InputError, match="without a detector"):
        Run(dataclasses.replace(recipe, detector="", detector_layers=("neck",)))
    with pytest.raises(InputError, match=r"without a detector.*near_names=0 to do without"):
        Run(dataclasses.replace(recipe, detector="", near_names=0.1))
    with pytest.raises(InputError, match="first_stage=0"):
        Run(dataclasses.replace(recipe, first_stage=0))
    assert not (tmp_path / "run").exists()


def test_split_head_gives_the_first_directions_and_the_links(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = TextConfig(width=16, heads=4, blocks=1, vocab_size=30, context_length=9, embedding_rank=4,
                        mask="padding", pooling="mean", embedding_dim=10)  # fmt: skip
    tower, link = TextTower(config).eval(), nn.Linear(10, 6)
    ids = torch.randint(1, 30, (3, 7))
    with torch.no_grad():
        before = tower(ids, torch.ones_like(ids))
        split_text_head(tower, link, 6)
        after = tower(ids, torch.ones_like(ids))
        torch.testing.assert_close(after, torch.cat([before[:, :6], link(before)], dim=1))
    assert tower.config.embedding_dim == 12


def test_anchoring_moves_classes_and_hardly_photos() -> None:
    """Photos vary in some directions of the features; a class in others is brought to its name, photos stay."""
    torch.manual_seed(0)
    head = nn.Linear(40, 12)
    directions = torch.randn(8, 40)
    photos = torch.randn(400, 8) @ directions
    link, names = nn.Linear(10, 6), nn.functional.normalize(torch.randn(5, 10), dim=1)
    basis = torch.linalg.svd(directions, full_matrices=True)[2][8:]  # what no photo has
    classes = nn.functional.normalize(torch.randn(5, 32) @ basis, dim=1) * 40**0.5
    with torch.no_grad():
        before = head(photos)
        anchor_classes(head, link, photos, classes, names, 400.0)
        moved = head(photos) - before
        meaning, matching = head(classes).chunk(2, dim=1)
    assert moved.norm() < 0.05 * before.norm()
    for half, wanted in ((meaning, names[:, :6]), (matching, link(names))):
        assert nn.functional.cosine_similarity(half, wanted).min() > 0.95


def test_class_inputs_are_a_typical_photo() -> None:
    """Known features along the classifier's weights, learnt ones as the known ones let expect, one likely class."""
    torch.manual_seed(0)
    late = nn.Module()
    tower = TwinTower(late, 8, 5, 4)  # type: ignore[arg-type]
    tower.deviation[16:] = 1 / 30
    seen = torch.randn(500, 8)
    photos = torch.cat([2 * seen, seen, torch.rand(500, 5)], dim=1)  # learnt: twice what is known
    classifier = torch.randn(5, 8)
    learnt, known, likely = class_inputs(tower, classifier, photos, 0.8).split([8, 8, 5], dim=1)
    torch.testing.assert_close(known, nn.functional.normalize(classifier, dim=1) * 8**0.5)
    torch.testing.assert_close(learnt, 2 * known, rtol=0.2, atol=0.1)
    torch.testing.assert_close(likely, torch.eye(5) * 24)


def _thing(name: str, *box: float) -> Thing:
    return Thing(name, 0.9, box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], []),
        ([_thing("cat", 0.2, 0.2, 0.5, 0.5)], ["a photo of a cat", "a cat", "cat"]),
        ([_thing("elephant", 0, 0, 0.9, 0.9)], ["a close up of an elephant", "a photo of an elephant", "an elephant",
                                                "elephant"]),
        ([_thing("couch", 0, 0.4, 1, 1), _thing("cat", 0.1, 0.5, 0.3, 0.7), _thing("cat", 0.5, 0.5, 0.7, 0.7)],
         ["two cats sitting on a couch", "a close up of a couch", "a couch and two cats", "a couch with two cats",
          "a photo of a couch", "a couch", "couch, cat"]),
        ([_thing("surfboard", 0.2, 0.6, 0.8, 0.8), _thing("person", 0.4, 0.2, 0.6, 0.7)],
         ["a person riding a surfboard", "a surfboard and a person", "a surfboard with a person",
          "a photo of a surfboard", "a surfboard", "surfboard, person"]),
    ],
)  # fmt: skip
def test_captions_of_detections(found: list[Thing], wanted: list[str]) -> None:
    assert captions(found) == wanted


def test_counts_in_words() -> None:
    assert [counted("sheep", n) for n in (1, 2)] == ["a sheep", "two sheep"]
    assert [counted("person", n) for n in (1, 5, 6, 12)] == ["a person", "five people", "a group of people",
                                                             "many people"]  # fmt: skip
    assert counted("skis", 1) == "skis"


def test_things_are_sure_large_enough_and_sorted() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 50, 50], [0, 0, 1, 1], [0, 0, 90, 90]], dtype=np.float32)
    regions = Regions(
        boxes, np.array([0.9, 0.8, 0.9, 0.3], np.float32), np.array([0, 1, 0, 0]), ("tv", "cat")
    )
    assert [thing.name for thing in things(regions, 100, 100)] == ["cat", "television"]


def test_pseudo_captions_are_near_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    store = rng.normal(size=(40, 8)).astype(np.float32)
    store /= np.linalg.norm(store, axis=1, keepdims=True)
    bare = BarePhotos(PairSet(photos=["a", "b"]), [["a cat"], []], [[], []])
    kept = Captions([f"caption {i}" for i in range(40)], np.zeros(0, np.int64), [], store)
    guess = np.stack([store[3, :6], store[7, :6]])
    guess /= np.linalg.norm(guess, axis=1, keepdims=True)
    found, means = pseudo_captions(bare, guess, kept, {"a cat": store[3]}, 6, 2)
    assert found.texts[:2] == ["a cat", "caption 3"]
    assert found.texts[3] == "caption 7"
    assert found.photo.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(found.target[0], store[3])
    assert means.shape == (2, 6)
    assert (means * guess).sum(axis=1).min() > 0.5


def test_classes_have_everyday_names_and_some_are_left_out() -> None:
    names = everyday_names()
    assert names[151] == names[268] == "a dog"
    assert names[340] == "a zebra"
    assert len(kept_out(100, 0)) == 100 == len(kept_out(100, 0) & set(range(1000)))
    probabilities = np.zeros((3, 1000), dtype=np.float32)
    probabilities[0, 207], probabilities[1, 281], probabilities[1, 282] = 0.9, 0.3, 0.3
    found = class_captions(probabilities, frozenset())
    assert found == [["a photo of a golden retriever.", "a photo of a dog"], ["a photo of a cat"], []]
    assert class_captions(probabilities, frozenset({207}))[0] == []


def test_short_texts() -> None:
    found = short_texts(["two dogs run on the beach"] * 3 + ["a kite"], ["tv"], least=3)
    assert {
        "two dogs",
        "dogs",
        "the beach",
        "beach",
        "tvs",
        "three tvs",
        "a photo of a tv",
        "a photo of a zebra",
    } <= {*found}
    assert "a kite" not in found[:4]
    assert len(found) == len(set(found))
