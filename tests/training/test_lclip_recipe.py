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
from cliplet.training.recipes import open_recipe
from lclip_flickr8k.data import SIZE, detector_features, detector_graph, outputs
from lclip_flickr8k.heads import anchor_classes, split_text_head
from lclip_flickr8k.recipe import Settings
from lclip_flickr8k.run import Run
from tests.shared_data import ROOT
from tests.training import make
from tests.training.parts import write_detector

PHOTOS = [make.drawing(colour, shape, 1) for colour in list(make.COLOURS)[:3] for shape in make.SHAPES]


def test_shipped_recipe_reads() -> None:
    _, kind, recipe = open_recipe(ROOT / "recipes" / "lclip_flickr8k.toml")
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
    late = nn.Module()
    late.head = nn.Linear(40, 12)
    late.deviation = torch.ones(40)
    directions = torch.randn(8, 40)
    photos = torch.randn(400, 8) @ directions
    late.forward = lambda maps: late.head(maps)  # type: ignore[assignment]
    link, names = nn.Linear(10, 6), nn.functional.normalize(torch.randn(5, 10), dim=1)
    basis = torch.linalg.svd(directions, full_matrices=True)[2][8:]  # what no photo has
    classifier = torch.randn(5, 32) @ basis
    classes = nn.functional.normalize(classifier, dim=1) * 40**0.5
    with torch.no_grad():
        before = late.head(photos)
        anchor_classes(late, link, classifier, names, photos.numpy(), 400.0)  # type: ignore[arg-type]
        moved = late.head(photos) - before
        meaning, matching = late.head(classes).chunk(2, dim=1)
    assert moved.norm() < 0.05 * before.norm()
    for half, wanted in ((meaning, names[:, :6]), (matching, link(names))):
        assert nn.functional.cosine_similarity(half, wanted).min() > 0.95
