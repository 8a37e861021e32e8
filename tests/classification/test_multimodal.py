"""Figures, parts, draws, class vectors and inputs of the few-shot multimodal classifier; no PyTorch."""

import numpy as np
import pytest

from cliplet.classification.inputs import fit_inputs
from cliplet.classification.multimodal import (
    agreement,
    class_sentences,
    class_vectors,
    derangement,
    draw_shots,
    over_draws,
    split_parts,
)
from cliplet.errors import InputError


# ---------------------------------------------------------------- figures
def test_agreement_by_hand():
    # true 0 0 0 1; predicted 0 0 1 1: 3 of 4; classes 2/3 and 1; by chance (3*2 + 1*2) / 16 = 1/2
    found = agreement([0, 0, 1, 1], [0, 0, 0, 1])
    assert (found.overall, found.average, found.kappa) == pytest.approx((0.75, 5 / 6, 0.5))


def test_agreement_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 300)
    found = np.where(rng.random(300) < 0.6, true, rng.integers(0, 5, 300))
    ours = agreement(found, true)
    assert ours.overall == pytest.approx(metrics.accuracy_score(true, found))
    assert ours.average == pytest.approx(metrics.balanced_accuracy_score(true, found))
    assert ours.kappa == pytest.approx(metrics.cohen_kappa_score(true, found))


def test_agreement_without_variety_and_with_wrong_lengths():
    assert np.isnan(agreement([1, 1], [1, 1]).kappa)
    with pytest.raises(InputError, match="2 predictions for 1 labels"):
        agreement([1, 1], [1])


def test_over_draws():
    found = over_draws([0.7, 0.8, 0.9])
    assert (found.mean, found.spread, found.draws) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    assert 0.69 < found.low < 0.8 < found.high < 0.91


# ---------------------------------------------------------------- parts and draws
def scene(classes: int = 3, each: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(classes * each, 4))
    values[5] = values[3]  # twins within a class
    values[each + 1] = values[0]  # and across classes
    return values, np.repeat(np.arange(classes), each)


@pytest.mark.parametrize("blocks", [0, 10])
@pytest.mark.parametrize("seed", range(20))
def test_parts_never_mix(seed, blocks):
    values, labels = scene()
    parts = split_parts(values, labels, (0.45, 0.15), seed, blocks)
    rows = [set(r.tolist()) for r in (parts.train, parts.dev, parts.test)]
    assert sorted(set().union(*rows)) == list(range(len(labels)))
    assert sum(map(len, rows)) == len(labels)
    texts = [{values[i].tobytes() for i in r} for r in rows]
    for first, second in ((0, 1), (0, 2), (1, 2)):  # twins stay together
        assert not texts[first] & texts[second]


def test_parts_have_their_shares_and_their_seed():
    values, labels = scene()
    parts = split_parts(values, labels, (0.45, 0.15), 3)
    assert [len(p) for p in (parts.train, parts.dev, parts.test)] == pytest.approx([54, 18, 48], abs=2)
    assert all(abs((labels[parts.train] == c).sum() - 18) <= 1 for c in range(3))
    assert (split_parts(values, labels, (0.45, 0.15), 3).test == parts.test).all()
    assert not np.array_equal(split_parts(values, labels, (0.45, 0.15), 4).test, parts.test)


def test_blocks_keep_neighbours_together():
    values, labels = scene()
    alone, together = (split_parts(values, labels, (0.45, 0.15), 0, blocks) for blocks in (0, 10))

    def parted(parts):
        part = np.empty(len(labels), dtype=int)
        for number, rows in enumerate((parts.train, parts.dev, parts.test)):
            part[rows] = number
        return int((np.diff(part) != 0).sum())

    assert parted(together) < parted(alone) / 2


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.0, 0.5), (0.01, 0.15)])
def test_parts_that_would_be_empty_are_refused(shares):
    with pytest.raises(InputError, match=r"shares|too few"):
        split_parts(*scene(), shares=shares)


def test_draws_are_nested_balanced_and_inside_train():
    values, labels = scene()
    train = split_parts(values, labels).train
    five, two = (draw_shots(labels, train, k, 7) for k in (5, 2))
    assert np.bincount(labels[five]).tolist() == [5, 5, 5]
    assert set(two) < set(five) <= set(train)
    assert set(draw_shots(labels, train, 5, 8)) != set(five)
    with pytest.raises(InputError, match=r"class 0 has \d+ samples to draw 30"):
        draw_shots(labels, train, 30, 0)


# ---------------------------------------------------------------- class vectors
def sentences() -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.normal(size=(6, 2, 8)) + 3.0  # what all share is large


def test_class_vectors_are_centred_before_they_are_compared():
    found = class_vectors("words", sentences())
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(6))
    cosines = found @ found.T
    assert cosines[~np.eye(6, dtype=bool)].mean() < 0  # the raw ones are near 1


def test_shuffled_words_leave_no_class_its_own():
    own, shuffled = (class_vectors(kind, sentences(), 5) for kind in ("words", "shuffled"))
    order = derangement(6, 5)
    assert not (order == np.arange(6)).any()
    assert (shuffled == own[order]).all()
    with pytest.raises(InputError, match="at least two"):
        derangement(1, 0)


def test_other_class_vectors():
    assert (class_vectors("one-hot", sentences()) == np.eye(6)).all()
    first, second = (class_vectors("random", sentences(), seed) for seed in (0, 1))
    assert first.shape == (6, 8)
    assert not np.allclose(first, second)


def test_class_sentences():
    assert class_sentences(["tree", "water"], ["a {}.", "{}"]) == [["a tree.", "tree"], ["a water.", "water"]]


# ---------------------------------------------------------------- inputs
def test_inputs_standardise_and_whiten():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) * np.array([1, 100, 1, 1, 0.01, 1]) + 7
    plain = fit_inputs(x)(x)
    assert plain.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-3)
    assert plain.std(axis=0) == pytest.approx(np.ones(6), abs=1e-2)
    white = fit_inputs(x, components=3, whitening=1.0, scale=2.0)(x)
    variances = np.linalg.eigvalsh(np.cov(white.T))
    assert variances[:3] == pytest.approx(np.zeros(3), abs=1e-3)
    assert variances[3:] == pytest.approx(np.full(3, 8.0), rel=0.02)  # 6 bands of variance 4


def test_inputs_of_windows_are_those_of_their_pixels():
    x = np.random.default_rng(4).normal(size=(20, 3, 3, 5))
    found = fit_inputs(x, components=4, whitening=0.5)
    assert found(x).reshape(-1, 5) == pytest.approx(found(x.reshape(-1, 5)), abs=1e-5)


def test_wrong_inputs_are_named():
    x = np.ones((4, 3))
    assert np.isfinite(fit_inputs(x)(x)).all()  # a constant band
    with pytest.raises(InputError, match="2 bands where the inputs were fitted on 3"):
        fit_inputs(x)(np.ones((4, 2)))
    with pytest.raises(InputError, match="components=4 of 3"):
        fit_inputs(x, components=4)
    x[0, 0] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        fit_inputs(x)
