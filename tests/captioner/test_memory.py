"""A decoder that looks at retrieved captions."""

import numpy as np
import pytest
import torch

from cliplet.captioner import Captioner
from cliplet.captioner.store import CaptionStore
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.models.captioner_config import GridConfig
from cliplet.training.captioner.export import export_captioner
from cliplet.training.captioner.features import kept_grids
from cliplet.training.captioner.memory import NEIGHBOURS
from cliplet.training.captioner.towers import GridTower
from cliplet.training.captioner.vocabulary import train_vocabulary
from tests.captioner import make

pytestmark = pytest.mark.usefixtures("torchvision")
WORDS = ("dog", "cat", "horse", "bird", "child", "bus", "boat", "tree")
PLACES = ("on the grass", "in the snow", "by the sea", "near a house", "in a field")
CAPTIONS = [f"A {word} {place}." for word in WORDS for place in PLACES]


@pytest.fixture(scope="module")
def encoder():
    return load()


@pytest.fixture
def store(encoder, tmp_path):
    made = CaptionStore.build(encoder, [[caption] for caption in CAPTIONS])
    made.save(tmp_path / "store.npz")
    return made


@pytest.fixture
def tower(store, tmp_path):
    return GridTower(GridConfig(towers=(f"recap:{store.model}+{tmp_path / 'store.npz'}",)))


@pytest.fixture
def photos():
    squares = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 3), dtype=np.uint8)
    return squares.repeat(32, axis=1).repeat(32, axis=2)  # [3, 224, 224, 3]


def test_the_memory_is_the_photo_and_its_nearest_captions(encoder, store, tower, photos):
    grid = tower(torch.from_numpy(photos)).numpy()
    vectors = encoder.encode_images(list(photos))
    np.testing.assert_allclose(grid[:, 0], vectors, atol=1e-5)
    nearest = store.nearest(vectors, NEIGHBOURS)
    np.testing.assert_allclose(grid[:, 1:], store.embeddings[nearest], atol=1e-6)
    assert tower.shape() == (1 + NEIGHBOURS, vectors.shape[1])


def test_in_training_no_photo_finds_its_own_captions(store, tower, photos, tmp_path):
    """The nearest captions, as the tokeniser's plain text says them, are given as the photo's own."""
    everywhere = kept_grids(tower, list(photos), tmp_path / "a")[0]
    first = [int(np.argmax(store.embeddings @ row[1].astype(np.float32))) for row in everywhere]
    own = [[CAPTIONS[i].lower().rstrip(".")] for i in first]
    apart = kept_grids(tower, list(photos), tmp_path / "a", own=own)[0]
    for row, free, i in zip(apart, everywhere, first, strict=True):
        assert not np.isclose(row[1:].astype(np.float32) @ store.embeddings[i], 1, atol=1e-2).any()
        np.testing.assert_allclose(row[1:-1], free[2:], atol=1e-3)  # the others, in their order
        np.testing.assert_allclose(row[0], free[0], atol=1e-3)


def test_an_exported_captioner_holds_the_store(tower, tmp_path):
    decoder = make.decoder(0, *tower.shape())
    vocabulary = train_vocabulary([c.lower() for c in CAPTIONS], 100)
    # compares the folder with PyTorch and raises where they differ
    export_captioner(tower, decoder, vocabulary, tmp_path / "model", "recap", "fp16")
    (tmp_path / "store.npz").unlink()
    assert (
        Captioner(tmp_path / "model", threads=1).caption([np.zeros((50, 60, 3), dtype=np.uint8)])[0].captions
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recap:lclip-everyday", "recap:MODEL.STORE.npz"),
        ("recap:+store.npz", "recap:MODEL.STORE.npz"),
        ("recap:lclip-everyday+{folder}/none.npz", "none.npz"),
    ],
)
def test_a_wrong_name_is_said(name, said, tmp_path):
    with pytest.raises(InputError, match=said):
        GridTower(GridConfig(towers=(name.format(folder=tmp_path),)))


def test_a_store_with_too_few_captions_is_refused(encoder, tmp_path):
    CaptionStore.build(encoder, [CAPTIONS[:NEIGHBOURS]]).save(tmp_path / "few.npz")
    with pytest.raises(InputError, match=f"has {NEIGHBOURS} captions"):
        GridTower(GridConfig(towers=(f"recap:{encoder.card.name}+{tmp_path / 'few.npz'}",)))
