"""Views of training photos."""

import dataclasses
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cliplet.data.photos import open_photos
from cliplet.errors import InputError
from cliplet.training.config import AugmentConfig
from cliplet.training.views import photo_view, view_images, view_sources
from tests.training import make


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make.dataset(tmp_path_factory.mktemp("data") / "d", count=4)


def test_views_depend_on_seed_photo_and_view_alone(data):
    photo, config = data / "photos" / "001.png", AugmentConfig(views=4, smallest_crop=0.3)
    original = np.asarray(photo_view(photo, config, 0, 1, 0))
    assert original.shape == (32, 32, 3)
    views = [photo_view(photo, config, 0, 1, v) for v in range(1, 4)]
    again = [photo_view(photo, config, 0, 1, v) for v in range(1, 4)]
    assert [v.tobytes() for v in views] == [v.tobytes() for v in again]
    assert len({v.tobytes() for v in views}) == 3
    coloured = dataclasses.replace(config, colour=0.5)
    assert photo_view(photo, coloured, 0, 1, 0).tobytes() == photo_view(photo, config, 0, 1, 0).tobytes()
    other = photo_view(photo, coloured, 0, 1, 1)
    assert other.size == views[0].size  # the same crop
    assert np.abs(np.asarray(other, float) - np.asarray(views[0], float)).mean() > 2
    assert photo_view(photo, config, 1, 1, 1).tobytes() != views[0].tobytes()
    sizes = [photo_view(photo, config, 0, i, 1).size for i in range(100)]
    shares = [w * h / 32**2 for w, h in sizes]
    assert min(shares) > 0.2
    assert max(shares) <= 1


def test_views_of_several_photos(data):
    photos = sorted((data / "photos").iterdir())
    config = AugmentConfig(views=2)
    found = view_images(photos, config, 7, np.array([2, 0]), 1)
    for number, image in zip((2, 0), found, strict=True):
        assert image.tobytes() == photo_view(photos[number], config, 7, number, 1).tobytes()
    broken = [photos[0], b"junk", photos[2]]
    with pytest.raises(InputError):
        view_images(broken, config, 7, range(3), 1)
    sources = view_sources(broken, config, 7, range(3), 1)
    assert sources[1] == b"junk"
    assert sources[2].tobytes() == found[0].tobytes()
    assert view_sources(broken, config, 7, range(3), 0) == broken


def test_a_photo_in_a_tar_is_read(data, tmp_path):
    photo = data / "photos" / "000.png"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(photo, "000.png")
    inside = open_photos(tmp_path / "a.tar").get("000.png")
    for view in range(2):
        ours, theirs = (photo_view(p, AugmentConfig(), 0, 0, view) for p in (inside, photo))
        assert ours.tobytes() == theirs.tobytes()
