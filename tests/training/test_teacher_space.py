"""The caption space of the packaged model's teacher: closed forms on made-up captions."""

import numpy as np
import pytest

from cliplet.training.teacher_space import CaptionSpace, group_means, ridge, standardise, unseen_predictions

RNG = np.random.default_rng(0)


def _captions(photos: int = 80, each: int = 5, dim: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Captions = what the photo shows (first half of the axes) + a way of speaking (a loud second half)."""
    groups = np.repeat(np.arange(photos), each)
    seen = RNG.normal(size=(photos, dim)) * (np.arange(dim) < dim // 2)
    spoken = RNG.normal(size=(len(groups), dim)) * np.where(np.arange(dim) < dim // 2, 0.3, 1.5)
    return (seen[groups] + spoken).astype(np.float32), groups


def test_group_means_are_means() -> None:
    rows = np.array([[1.0, 0.0], [5.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    assert group_means(rows, np.array([0, 1, 0])).tolist() == [[2, 2], [5, 2], [2, 2]]


def test_space_brings_captions_of_one_photo_together() -> None:
    captions, groups = _captions()

    def right(vectors: np.ndarray) -> float:
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -2)
        return float((groups[similar.argmax(axis=1)] == groups).mean())

    plain = CaptionSpace.fit(captions, groups, 12, power=0.0)(captions)
    space = CaptionSpace.fit(captions, groups, 12, power=1.0)(captions)
    assert np.allclose(np.linalg.norm(space, axis=1), 1, atol=1e-5)
    assert right(space) > right(plain) + 0.1


def test_ridge_is_least_squares_without_penalty_and_nothing_with_a_huge_one() -> None:
    x = RNG.normal(size=(50, 4)).astype(np.float32)
    true = RNG.normal(size=(4, 3)).astype(np.float32)
    assert np.allclose(ridge(x, x @ true, 0.0), true, atol=1e-4)
    assert np.abs(ridge(x, x @ true, 1e9)).max() < 1e-5


def test_predictions_have_not_seen_their_row() -> None:
    x, _, _ = standardise(RNG.normal(size=(60, 5)).astype(np.float32))
    y = RNG.normal(size=(60, 3)).astype(np.float32)
    before = unseen_predictions(x, y, 1.0)
    changed = y.copy()
    changed[7] += 100.0
    after = unseen_predictions(x, changed, 1.0)
    assert np.allclose(before[7], after[7])
    assert not np.allclose(before, after)
    assert np.linalg.norm(before, axis=1) == pytest.approx(1, abs=1e-5)
