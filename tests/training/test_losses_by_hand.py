"""The losses of the objectives against the papers' formulas, written once more as plain loops over numbers in NumPy."""

import math

import numpy as np
import pytest
import torch

from cliplet.training import losses
from cliplet.training.losses.semi import sinkhorn

B, D = 6, 5
SCALE = 4.0


def rows(seed, *shape):
    """Rows of any length: losses make them unit."""
    return np.random.default_rng(seed).normal(size=shape)


def cos(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def cross_entropy(wanted, logits):
    """``-log`` of the wanted one's share."""
    top = max(logits)
    return top + math.log(sum(math.exp(z - top) for z in logits)) - logits[wanted]


def t(x):
    return torch.from_numpy(np.asarray(x))


def same(found, expected):
    assert float(found) == pytest.approx(expected, rel=1e-9)


X, Y, FX, FY, U, K = (
    rows(1, B, D),
    rows(2, B, D),
    rows(3, B, D),
    rows(4, B, D),
    rows(5, B + 2, D),
    rows(6, 3, D),
)


# ---------------------------------------------------------------- NegCLIP and TripletCLIP
def negclip_by_hand(x, y, other):
    total = 0.0
    for i in range(len(x)):
        total += cross_entropy(i, [SCALE * cos(x[i], c) for c in (*y, *other)])
        total += cross_entropy(i, [SCALE * cos(y[i], c) for c in x])
    return total / len(x) / 2


def test_negclip():
    same(losses.negclip(t(X), t(Y), t(FY), SCALE), negclip_by_hand(X, Y, FY))


def test_negclip_leaves_out_what_is_missing_and_what_is_equal():
    has, ids, false_ids = [True, False, True, True, False, True], [0, 1, 2, 3, 1, 5], [8, 7, 0, 9, 7, 8]
    total = 0.0
    for i in range(B):
        texts = [(Y[j], ids[j], j) for j in range(B)] + [
            (FY[j], false_ids[j], -1) for j in range(B) if has[j]
        ]
        logits = [SCALE * cos(X[i], y) for y, number, j in texts if j == i or number != ids[i]]
        own = [j for _, number, j in texts if j == i or number != ids[i]].index(i)
        total += cross_entropy(own, logits)
        photos = [j for j in range(B) if j == i or ids[j] != ids[i]]
        total += cross_entropy(photos.index(i), [SCALE * cos(Y[i], X[j]) for j in photos])
    found = losses.negclip(t(X), t(Y), t(FY), SCALE, t(has), t(ids), t(false_ids))
    same(found, total / B / 2)


def test_triplet_is_two_negclips():
    expected = negclip_by_hand(X, Y, FY) + negclip_by_hand(FX, FY, Y)
    same(losses.triplet(t(X), t(Y), t(FX), t(FY), SCALE), expected)


def test_triplet_symmetric():
    total = 0.0
    for i in range(B):
        for image, own, other in ((X[i], Y, FY), (FX[i], FY, Y), (Y[i], X, FX), (FY[i], FX, X)):
            total += cross_entropy(i, [SCALE * cos(image, c) for c in (*own, *other)])
    same(losses.triplet(t(X), t(Y), t(FX), t(FY), SCALE, symmetric=True), total / B / 2)


def test_union_is_the_contrastive_loss_of_both():
    x, y = np.concatenate([X, FX]), np.concatenate([Y, FY])
    total = sum(
        cross_entropy(i, [SCALE * cos(x[i], c) for c in y])
        + cross_entropy(i, [SCALE * cos(y[i], c) for c in x])
        for i in range(2 * B)
    )
    same(losses.union(t(X), t(Y), t(FX), t(FY), SCALE), total / (2 * B) / 2)


# ---------------------------------------------------------------- S-CLIP
def plan_by_hand(iterations):
    """Sinkhorn's plan between equal weights, as shares of each row, without logarithms."""
    kernel = np.array([[math.exp(-SCALE * (1 - cos(u, x))) for x in X] for u in U])
    n, m = kernel.shape
    rows_, columns = np.ones(n), np.ones(m)
    for _ in range(iterations):
        rows_ = (1 / n) / (kernel @ columns)
        columns = (1 / m) / (kernel.T @ rows_)
    plan = rows_[:, None] * kernel * columns[None]
    return plan / plan.sum(axis=1, keepdims=True)


def test_sinkhorn():
    cost = np.array([[1 - cos(u, x) for x in X] for u in U])
    np.testing.assert_allclose(sinkhorn(t(cost), 1 / SCALE).numpy(), plan_by_hand(10), rtol=1e-9)


def test_bare_contrastive():
    total = 0.0
    for i in range(B):
        total += cross_entropy(i, [SCALE * cos(X[i], y) for y in Y])
        total += cross_entropy(i, [SCALE * cos(Y[i], x) for x in (*X, *U)])
    same(losses.bare_contrastive(t(X), t(Y), t(U), SCALE), total / B / 2)


def test_caption_labels():
    plan, total = plan_by_hand(10), 0.0
    for i, u in enumerate(U):
        logits = [SCALE * cos(u, y) for y in Y]
        total += sum(plan[i, j] * cross_entropy(j, logits) for j in range(B))
    same(losses.caption_labels(t(U), t(X), t(Y), SCALE), total / len(U) / 2)


@pytest.mark.parametrize("weights", ["softmax", "uniform", "released"])
def test_keyword_labels(weights):
    named = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1]])
    plan, total = plan_by_hand(10), 0.0
    for i, u in enumerate(U):
        candidates = [k for k in range(len(K)) if named[plan[i].argmax(), k]]
        value = {
            "softmax": lambda k, u=u: math.exp(SCALE * cos(u, K[k])),
            "uniform": lambda k: 1.0,
            "released": lambda k, u=u: SCALE * cos(u, K[k]),
        }[weights]
        whole, logits = sum(map(value, candidates)), [SCALE * cos(u, k) for k in K]
        total += sum(value(k) / whole * cross_entropy(k, logits) for k in candidates)
    found = losses.keyword_labels(t(U), t(X), t(K), t(named), SCALE, weights)
    same(found, total / len(U) / 2)


# ---------------------------------------------------------------- nCLIP
def shares(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def entropy(p):
    return -float((p * np.log(p)).sum())


def test_clusters():
    a, b = rows(7, B, 9), rows(8, B, 9)
    p, q = shares(a), shares(b)
    agreement = -np.mean([(p[i] * np.log(q[i]) + q[i] * np.log(p[i])).sum() for i in range(B)]) / 2
    same(losses.cluster_agreement(t(a), t(b)), agreement)
    confidence = np.mean([entropy(p[i]) + entropy(q[i]) for i in range(B)]) / 2
    same(losses.cluster_confidence(t(a), t(b)), confidence)
    same(losses.cluster_spread(t(a), t(b)), (entropy(p.mean(axis=0)) + entropy(q.mean(axis=0))) / 2)
    earlier = shares(rows(9, 2, 9))
    means = [0.7 * before + 0.3 * now.mean(axis=0) for before, now in zip(earlier, (p, q), strict=True)]
    found = losses.cluster_spread(t(a), t(b), t(earlier), 0.7)
    same(found, (entropy(means[0]) + entropy(means[1])) / 2)


def test_uniform_and_one_hot_clusters():
    one_hot, uniform, one = 1e4 * torch.eye(8), torch.zeros(8, 8), 1e4 * torch.eye(8)[[0] * 8]
    terms = (losses.cluster_agreement, losses.cluster_confidence, losses.cluster_spread)
    for logits, expected in ((one_hot, (0, 0, 2.0794)), (uniform, (2.0794,) * 3), (one, (0, 0, 0))):
        assert [float(term(logits, logits)) for term in terms] == pytest.approx(expected, abs=1e-4)


# ---------------------------------------------------------------- LaCLIP
TEXTS = rows(10, B, 3, D)


def test_multi_text():
    total = 0.0
    for m in range(3):
        for i in range(B):
            total += cross_entropy(i, [SCALE * cos(X[i], TEXTS[j, m]) for j in range(B)])
            total += cross_entropy(i, [SCALE * cos(TEXTS[i, m], x) for x in X])
    same(losses.multi_text(t(X), t(TEXTS), SCALE), total / 3 / B / 2)


def test_multi_positive():
    forth = back = 0.0
    for i in range(B):
        logits = [SCALE * cos(X[i], text) for text in TEXTS.reshape(-1, D)]
        for m in range(3):
            forth += cross_entropy(3 * i + m, logits) / 3
            back += cross_entropy(i, [SCALE * cos(TEXTS[i, m], x) for x in X]) / 3
    same(losses.multi_positive(t(X), t(TEXTS), SCALE), (forth + back) / B / 2)


# ---------------------------------------------------------------- FG-CLIP
def test_region_phrases():
    number = [0, 1, 0, 2, 3, 1]
    total = 0.0
    for i in range(B):
        equal = [j for j in range(B) if number[j] == number[i]]
        total += np.mean([cross_entropy(j, [SCALE * cos(X[i], y) for y in Y]) for j in equal])
        total += np.mean([cross_entropy(j, [SCALE * cos(Y[i], x) for x in X]) for j in equal])
    same(losses.region_phrases(t(X), t(Y), t(number), SCALE), total / B / 2)


def test_hard_phrases():
    there = np.array(
        [[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=bool
    )  # the third and the fourth are left out
    used = [i for i in range(B) if there[i, 0] and there[i, 1:].any()]
    total = sum(
        cross_entropy(0, [SCALE * cos(X[i], TEXTS[i, k]) for k in range(3) if there[i, k]]) for i in used
    )
    same(losses.hard_phrases(t(X), t(TEXTS), t(there), SCALE), total / 4)


# ---------------------------------------------------------------- the decoder, SigLIP
def test_denoising_and_flow():
    a, clean, noise = rows(11, 4, 3, 2), rows(12, 4, 3, 2), rows(13, 4, 3, 2)
    pairs = [(x, n) for x, n in zip(a.ravel(), noise.ravel(), strict=True)]
    assert float(losses.denoising(t(a), t(noise))) == pytest.approx(
        sum((x - n) ** 2 for x, n in pairs) / 24, rel=1e-5
    )
    expected = sum(
        (x - (n - c)) ** 2 for x, c, n in zip(a.ravel(), clean.ravel(), noise.ravel(), strict=True)
    )
    assert float(losses.flow(t(a), t(clean), t(noise))) == pytest.approx(expected / 24, rel=1e-5)


def test_sigmoid():
    bias, number = -1.5, [0, 1, 2, 1, 4, 5]
    for texts in (None, number):
        total = 0.0
        for i in range(B):
            for j in range(B):
                z = 1 if i == j or (texts is not None and texts[i] == texts[j]) else -1
                total += math.log(1 + math.exp(-z * (SCALE * cos(X[i], Y[j]) + bias)))
        found = losses.sigmoid(t(X), t(Y), SCALE, bias, None if texts is None else t(texts))
        same(found, total / B)
