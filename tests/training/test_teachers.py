"""One teacher or several, and their embeddings in a folder that runs share."""

import numpy as np
import pytest

from cliplet.encoders.base import unit_norm
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.training.config import AugmentConfig, DataConfig, TeacherConfig
from cliplet.training.distill.targets import TargetFiles
from cliplet.training.distill.teacher import Teacher
from cliplet.training.pairs import PairSet, read_pairs
from tests.training import make

PHOTOS = [make.drawing(c, "bar", 1) for c in make.COLOURS]
TEXTS = ["a red bar", "the blue square", "a corner"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return tuple(load(make.model_folder(folder / str(seed), seed=seed)) for seed in (1, 2))


def test_a_single_teacher_keeps_its_lengths_unless_told(encoders):
    raw, _ = Teacher(encoders[:1], TeacherConfig()).images(PHOTOS)
    assert np.linalg.norm(raw, axis=1).std() > 1e-3
    np.testing.assert_allclose(unit_norm(raw), encoders[0].encode_images(PHOTOS), atol=1e-6)
    unit = Teacher(encoders[:1], TeacherConfig(normalise=True)).texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_several_end_to_end_have_the_mean_cosine(encoders):
    teacher = Teacher(encoders, TeacherConfig(weights=(3.0, 1.0)))
    images, texts = teacher.images(PHOTOS)[0], teacher.texts(TEXTS)
    assert teacher.dim == images.shape[1] == 32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    cosines = [e.encode_images(PHOTOS) @ e.encode_texts(TEXTS).T for e in encoders]
    np.testing.assert_allclose(images @ texts.T, 0.75 * cosines[0] + 0.25 * cosines[1], atol=1e-6)


def test_several_averaged(encoders):
    teacher = Teacher(encoders, TeacherConfig(combine="average"))
    expected = unit_norm(sum(e.encode_texts(TEXTS) for e in encoders))
    np.testing.assert_allclose(teacher.texts(TEXTS), expected, atol=1e-6)
    assert teacher.dim == 16


def test_prefix_and_bad_photos(encoders):
    prefixed = Teacher(encoders[:1], TeacherConfig(prompt_prefix="the picture of "))
    plain = Teacher(encoders[:1], TeacherConfig())
    np.testing.assert_array_equal(prefixed.texts(["a bar"]), plain.texts(["the picture of a bar"]))
    for config in (TeacherConfig(), TeacherConfig(normalise=True)):
        rows, reasons = Teacher(encoders[:1], config).images([PHOTOS[0], b"junk", PHOTOS[1]])
        assert np.isnan(rows[1]).all()
        assert not np.isnan(rows[[0, 2]]).any()
        assert list(reasons) == [1]


def test_wrong_combinations_are_named(encoders):
    with pytest.raises(InputError, match="no teacher"):
        Teacher([], TeacherConfig())
    with pytest.raises(InputError, match="1 teacher weights for 2"):
        Teacher(encoders, TeacherConfig(weights=(1.0,)))


# ---------------------------------------------------------------- a folder of embeddings
def files(folder, encoder, augment=AugmentConfig(views=2), seed=0, **config) -> TargetFiles:  # noqa: B008
    return TargetFiles(folder, Teacher([encoder], TeacherConfig(**config)), augment, seed, silent=True)


def test_a_shared_folder_gives_nobody_what_another_asked_for(encoders, tmp_path):
    """Teacher, normalisation, prefix, views and seed all change the numbers, and none gets another's."""
    data = make.dataset(tmp_path / "data", count=4)
    pairs = read_pairs(DataConfig(captions=(f"{data}/captions.jsonl",), photos=(f"{data}/photos",)))
    small, large = AugmentConfig(views=2, smallest_crop=0.3), AugmentConfig(views=2)
    runs = [
        {"encoder": encoders[0], "augment": large},
        {"encoder": encoders[1], "augment": large},
        {"encoder": encoders[0], "augment": large, "normalise": True},
        {"encoder": encoders[0], "augment": large, "prompt_prefix": "the "},
        {"encoder": encoders[0], "augment": small},
        {"encoder": encoders[0], "augment": large, "seed": 1},
    ]
    shared = [files(tmp_path / "shared", **run).of(pairs, 2, True) for run in runs]
    alone = [files(tmp_path / f"alone{i}", **run).of(pairs, 2, True) for i, run in enumerate(runs)]
    for ours, theirs in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(ours.texts, theirs.texts)
        for a, b in zip(ours.images, theirs.images, strict=True):
            np.testing.assert_array_equal(a, b)
    crops = {found.images[1].tobytes() for found in shared}
    assert len(crops) == len(runs) - 1  # a prefix changes captions alone
    assert len({found.texts.tobytes() for found in shared}) == 4
    again = files(tmp_path / "shared", **runs[2])
    again.teacher.images = lambda sources: pytest.fail("asked again")
    np.testing.assert_array_equal(again.of(pairs, 2, True).images[1], alone[2].images[1])
    other = pairs.keep(np.array([True, False, True, True]))
    assert len(files(tmp_path / "shared", **runs[0]).of(other, 1, True).images[0]) == 3


def test_a_teacher_that_gives_unit_embeddings_alone_is_said(encoders):
    class Stranger:
        card = encoders[0].card
        encode_images, encode_texts = encoders[0].encode_images, encoders[0].encode_texts

    raw, unit = Teacher(encoders[:1], TeacherConfig()), Teacher([Stranger()], TeacherConfig())
    assert (raw.raw, raw.unit_only, unit.raw, unit.unit_only) == (True, False, False, True)
    assert raw.fingerprint != unit.fingerprint  # the same weights, another target
    np.testing.assert_allclose(np.linalg.norm(unit.texts(TEXTS), axis=1), 1, atol=1e-6)


def test_a_bad_photo_has_its_reason_in_every_run(encoders, tmp_path):
    pairs = PairSet(["good", "bad"], [PHOTOS[0], b"junk"])
    first, second = (files(tmp_path, encoders[0]).of(pairs, 1, True) for _ in range(2))
    assert list(first.bad) == [1]
    assert second.bad == first.bad
    assert second.texts is None
    next(tmp_path.glob("*.bad.jsonl")).unlink()  # a folder of before
    assert files(tmp_path, encoders[0]).of(pairs, 1, True).bad == {1: "the teacher could not read it"}
