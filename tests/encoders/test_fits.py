"""Closed-form maps by hand-made values."""

import numpy as np
import pytest

from cliplet.statistics.alignment import AffineMap, CanonicalCorrelation, procrustes, ridge, robust_procrustes


def test_procrustes_finds_a_rotation():
    x = np.array([[1.0, 0], [0, 1], [1, 1]])
    turn = np.array([[0.0, 1], [-1, 0]])
    np.testing.assert_allclose(procrustes(x, x @ turn), turn, atol=1e-12)


def test_procrustes_of_two_widths_has_orthonormal_columns_or_rows():
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(50, 6)), rng.normal(size=(50, 3))
    down, up = procrustes(wide, narrow), procrustes(narrow, wide)
    np.testing.assert_allclose(down.T @ down, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(up @ up.T, np.eye(3), atol=1e-12)
    best = np.linalg.norm(wide @ down - narrow)
    for seed in range(20):
        other, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 3)))
        assert np.sum((wide @ down) * narrow) >= np.sum((wide @ other) * narrow) - 1e-9
    assert best > 0


def test_procrustes_of_few_rows_maps_unseen_directions_to_nothing_between_two_widths():
    x, y = np.eye(5)[:2], np.eye(3)[:2]
    matrix = procrustes(x, y)
    np.testing.assert_allclose(matrix[:2, :2], np.eye(2), atol=1e-12)
    np.testing.assert_allclose(matrix[2:], 0, atol=1e-12)


def test_robust_procrustes_shrugs_off_wrong_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    y = x @ turn
    y[:15] = 6 * rng.normal(size=(15, 3))
    plain = np.abs(procrustes(x, y) - turn).max()
    robust, weights = robust_procrustes(x, y, rounds=20)
    assert np.abs(robust - turn).max() < 0.5 * plain
    assert weights[:15].mean() < 0.3 * weights[15:].mean()


@pytest.mark.parametrize("rows", [2, 30])
def test_ridge_is_the_textbook_formula_with_few_rows_and_many(rows):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 5)), rng.normal(size=(rows, 2))
    expected = np.linalg.inv(x.T @ x + 0.7 * np.eye(5)) @ x.T @ y
    np.testing.assert_allclose(ridge(x, y, 0.7), expected, atol=1e-10)


def test_ridge_by_hand():
    np.testing.assert_allclose(ridge(np.array([[1.0], [1.0]]), np.array([[2.0], [4.0]]), 1.0), [[2.0]])


@pytest.mark.parametrize("width", [4, 90])
def test_canonical_correlations_find_what_two_views_share(width):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 1))
    x = np.hstack([shared, rng.normal(size=(60, width - 1))]) @ rng.normal(size=(width, width))
    y = np.hstack([rng.normal(size=(60, 2)), shared])
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    first, second = CanonicalCorrelation(x, y, y, 1e-6).maps(0.01, 1.0, 1)
    assert first.shape == (width, 1)
    a, b = x @ first[:, 0], y @ second[:, 0]
    assert abs(np.corrcoef(a, b)[0, 1]) > 0.9
    if width == 4:
        assert abs(np.corrcoef(b, shared[:, 0])[0, 1]) > 0.9


def test_a_map_is_affine():
    rows = np.array([[1, 2]], np.float32)
    np.testing.assert_allclose(
        AffineMap(np.array([1.0, 1]), np.array([[1.0, 0], [2, 1]]))(rows), [[2.0, 1.0]]
    )
    assert AffineMap(np.zeros(3)).width == 3
