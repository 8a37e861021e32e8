"""Adapters by hand, against scikit-learn, and on few or too many photos."""

import numpy as np
import pytest

from cliplet.classification.background import Background
from cliplet.classification.bank import encode_texts
from cliplet.classification.coder import Rule, make_head
from cliplet.classification.fewshot import ADAPTERS, Adapter, Shots, chosen_settings, fit_shots
from cliplet.classification.logistic import logistic_regression
from cliplet.classification.texts import ClassTexts
from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.evaluation.fewshot import FewShotData, drawn, evaluate_fewshot, settings_inside
from tests.classification.test_coder import Words


def clouds(n, classes=3, dim=8, seed=0, spread=0.6):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(classes, dim))
    labels = np.arange(n) % classes
    return unit_norm(centres[labels] + spread * rng.normal(size=(n, dim))), labels


def test_logistic_regression_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = clouds(60)
    for strength in (0.1, 10.0, 1000.0):
        weights, bias = logistic_regression(x, y, 3, strength)
        known = linear.LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(x, y)
        shares = np.exp(x @ weights.T + bias)
        np.testing.assert_allclose(
            shares / shares.sum(axis=1, keepdims=True), known.predict_proba(x), atol=5e-3
        )


def test_class_means_by_hand():
    x = unit_norm(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=np.float32))
    head = fit_shots(Shots(x, np.array([0, 0, 1, 1]), 2), "mean")
    q = unit_norm(x - x.mean(axis=0))
    means = unit_norm(np.stack([q[:2].mean(axis=0), q[2:].mean(axis=0)]))
    np.testing.assert_allclose(head.scores(x), q @ means.T, atol=1e-6)


def test_tip_adapter_by_hand():
    encoder = Words({"a": [1, 0, 0], "b": [0, 1, 0]})
    bank = encode_texts(encoder, [ClassTexts("a"), ClassTexts("b")], ("{}",))
    text = make_head(bank, Rule(gate=0))
    x, y = clouds(6, 2, 3)
    photos, _ = clouds(5, 2, 3, seed=7)
    others, _ = clouds(20, 2, 3, seed=8)
    head = fit_shots(Shots(x, y, 2, Background(others), text, bank), "tip", {"alpha": 2.0, "beta": 3.0})

    def neighbours(v):
        return unit_norm((v - others.mean(axis=0)) @ bank.names.T)

    near = neighbours(photos) @ neighbours(x).T
    known = text.scores(others)
    wanted = 2 * np.exp(-3 * (1 - near)) @ np.eye(2)[y] + (text.scores(photos) - known.mean()) / known.std()
    np.testing.assert_allclose(head.scores(photos), wanted, atol=1e-4)


def test_soft_kmeans_by_hand_in_one_space():
    x, y = clouds(6, 2, 4)
    others, _ = clouds(30, 2, 4, seed=3)
    settings = {"shrink": 0.5, "temperature": 0.1, "text": 0.0, "pull": 2.0}
    head = fit_shots(Shots(x, y, 2, Background(others)), "soft-kmeans", settings)
    covariance = np.cov(others, rowvar=False, bias=True)
    values, axes = np.linalg.eigh(covariance)
    white = axes / np.sqrt(values + 0.5 * values.mean())
    q, free = (unit_norm((v - others.mean(axis=0)) @ white) for v in (x, others))
    known = np.stack([q[y == c].mean(axis=0) for c in (0, 1)])
    prototypes = unit_norm(known)
    for _ in range(5):
        soft = np.exp(free @ prototypes.T / 0.1)
        soft /= soft.sum(axis=1, keepdims=True)
        prototypes = unit_norm(known + 2 * (2 / 30) * soft.T @ free)
    np.testing.assert_allclose(head.scores(x), q @ prototypes.T / 0.1, atol=1e-3)


def test_unlabelled_photos_help_where_one_photo_lies_badly():
    others, labels = clouds(300, spread=0.4)
    edge = np.array(
        [int(np.argmin(others[labels == c] @ others[labels == c].mean(axis=0))) for c in range(3)]
    )
    rows = np.array([np.flatnonzero(labels == c)[edge[c]] for c in range(3)])
    shots = Shots(others[rows], labels[rows], 3, Background(others))
    accuracy = {
        name: (fit_shots(shots, name).scores(others).argmax(axis=1) == labels).mean()
        for name in ("mean", "soft-kmeans")
    }
    assert accuracy["soft-kmeans"] >= accuracy["mean"] + 0.05


@pytest.mark.parametrize("name", ADAPTERS)
def test_one_class_and_single_photos(name):
    x, _ = clouds(4)
    head = fit_shots(Shots(x, np.zeros(4, dtype=np.int64), 1), name)
    assert head.scores(x).shape == (4, 1)
    assert np.isfinite(head.scores(x)).all()
    assert np.isfinite(fit_shots(Shots(x[:1], np.zeros(1, dtype=np.int64), 1), name).scores(x)).all()
    three = Shots(x[:3], np.arange(3), 3)
    assert fit_shots(three, name).scores(x[:3]).argmax(axis=1).tolist() == [0, 1, 2]
    assert chosen_settings(three, ADAPTERS[name]) == ADAPTERS[name].choices()[0]


def test_what_cannot_be_learned():
    x, y = clouds(4)
    with pytest.raises(InputError, match="class 'dog' has no labelled photo"):
        fit_shots(Shots(x[:2], np.array([0, 2]), 3), "mean", names=["cat", "dog", "cow"])
    with pytest.raises(InputError, match="unknown adapter 'svm'"):
        fit_shots(Shots(x, y, 3), "svm")
    with pytest.raises(InputError, match="no setting 'k'"):
        fit_shots(Shots(x, y, 3), "probe", {"k": 1})


def test_settings_are_chosen_without_test_photos_and_draws_hold_smaller_ones():
    x, y = clouds(90)
    test, labels = clouds(30, seed=5)
    data = FewShotData(x, y, test, labels, ["a", "b", "c"])
    found = evaluate_fewshot(data, (1, 4), draws=3, adapters=["mean", "probe"], resamples=50)
    assert [(r.adapter, r.shots) for r in found] == [("probe", 1), ("mean", 1), ("probe", 4), ("mean", 4)]
    shuffled = FewShotData(x, y, test, labels[::-1].copy(), data.classes)
    again = evaluate_fewshot(shuffled, (1, 4), draws=3, adapters=["mean", "probe"], resamples=50)
    assert [r.settings for r in again] == [r.settings for r in found]
    assert found[1].difference is not None
    assert found[2].accuracy.value > found[0].accuracy.value
    small, large = (set(drawn(y, 3, k, 0, 0, 1).tolist()) for k in (1, 4))
    assert small < large
    assert np.bincount(y[sorted(large)]).tolist() == [4, 4, 4]
    assert (
        settings_inside(Shots(x, y, 3), ADAPTERS["probe"], 2)["strength"]
        in ADAPTERS["probe"].grid["strength"]
    )


def test_more_shots_than_photos():
    x, y = clouds(9)
    with pytest.raises(InputError, match="has 3 train photos: 4 shots"):
        evaluate_fewshot(FewShotData(x, y, x, y, ["a", "b", "c"]), (4,))


def test_settings_that_are_given_stay_while_the_others_are_chosen():
    x, y = clouds(24)
    seen = []

    def fit(shots, settings):
        seen.append(dict(settings))
        return ADAPTERS["mean"].fit(shots, {})

    adapter = Adapter("mine", fit, {"a": (1.0, 2.0), "b": (3.0, 4.0)})
    found = chosen_settings(Shots(x, y, 3), adapter, given={"a": 7.0})
    assert found == {"a": 7.0, "b": 3.0}
    assert {s["a"] for s in seen} == {7.0}
    assert len(seen) == 4 * 2


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [("probe", {"strength": 0}), ("probe", {"strength": -1.0}), ("probe", {"strength": "x"}),
     ("soft-kmeans", {"temperature": 0.0}), ("soft-kmeans", {"shrink": 0}), ("tip", {"beta": float("nan")}),
     ("tip", {"alpha": True})],
)  # fmt: skip
def test_settings_that_give_no_numbers_are_refused(adapter, settings):
    x, y = clouds(6)
    with pytest.raises(InputError, match=f"setting {next(iter(settings))} must be a number"):
        fit_shots(Shots(x, y, 3), adapter, settings)


def test_the_labelled_photos_are_whitened_once_a_fold_not_once_a_setting(monkeypatch):
    x, y = clouds(24)
    spectra, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: spectra.append(1) or eigh(matrix))
    fit_shots(Shots(x, y, 3), "soft-kmeans")
    assert len(spectra) == 4 + 1
