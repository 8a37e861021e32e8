"""One teacher or several."""

import numpy as np
import pytest

from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.training.config import TeacherConfig
from cliplet.training.distill.teacher import Teacher
from tests.training import make

PHOTOS = [make.drawing(c, "bar", 1) for c in make.COLOURS]
TEXTS = ["a red bar", "the blue square", "a corner"]


@pytest.fixture(scope="module")
def encoders():
    return make.encoder(seed=1), make.encoder(seed=2)


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
