"""Kept views of training photos."""

from pathlib import Path

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.training.captioner.features import kept_grids, pixels_of
from cliplet.training.captioner.train import CaptionRun
from tests.captioner import make
from tests.training import make as toys


def photos(folder: Path) -> list[Path]:
    return sorted((toys.dataset(folder / "toys", count=4) / "photos").iterdir())


def test_views_are_the_photo_its_mirror_image_and_crops(tmp_path):
    some = photos(tmp_path)
    whole, mirrored, crop, other = (pixels_of(some, make.GRID, view) for view in range(4))
    assert (mirrored == whole[:, :, ::-1]).all()
    assert crop.shape == whole.shape
    for seen in (whole, mirrored, other):
        assert all((a != b).any() for a, b in zip(crop, seen, strict=True))


def test_a_crop_depends_on_its_photos_number_alone(tmp_path):
    some = photos(tmp_path)
    whole = pixels_of(some, make.GRID, view=2)
    parts = [pixels_of(some[:3], make.GRID, view=2), pixels_of(some[3:], make.GRID, view=2, first=3)]
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.usefixtures("torchvision")
def test_a_run_reads_as_many_views_as_asked_for(tmp_path):
    run = CaptionRun(make.recipe(tmp_path, (make.cross_entropy(epochs=1),), views=4))
    assert run._reader(run.train_split, False, True).views == 4
    assert run._reader(run.dev_split, False, False).views == 1
    kept = kept_grids(run.tower, run.train_split.photos, run.cache, 4)
    assert {grid.shape for grid in kept} == {kept[0].shape}
    assert len({grid.tobytes() for grid in kept}) == 4


def test_no_views_are_refused(tmp_path):
    with pytest.raises(InputError, match="views=0"):
        make.recipe(tmp_path, (make.cross_entropy(),), views=0)
