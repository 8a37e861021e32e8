"""Retrieval metrics against brute force, CLIP_benchmark's definition and trec_eval."""

import math

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.evaluation.ranking import Positives, positive_ranks, ranking_metrics, unit_rows
from cliplet.evaluation.retrieval import (
    RetrievalProtocol,
    equal_caption_pairs,
    evaluate_retrieval,
    load_embeddings,
    recall_at_k,
)
from cliplet.statistics.resampling import bootstrap_mean


def embeddings(n_images, captions, dim=8, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n_images, dim))
    counts = rng.integers(1, captions + 1, n_images) if captions > 1 else np.ones(n_images, dtype=int)
    owner = rng.permutation(np.repeat(np.arange(n_images), counts))
    texts = images[owner] + noise * rng.normal(size=(len(owner), dim))
    return unit_rows(images, "images"), unit_rows(texts, "texts"), owner


def brute(scores, relevant, ks=(1, 5, 10)):
    """Metrics of each query from the full score matrix [queries, items] and the table of positives."""
    rows = []
    for line, good in zip(scores, relevant, strict=True):
        if not good.any():
            continue
        order = sorted(range(len(line)), key=lambda i: (-line[i], good[i]))  # wrong items first among equals
        hits = [good[i] for i in order]
        ranks = [r for r, hit in enumerate(hits, 1) if hit]
        precisions = [sum(hits[:r]) / r for r in ranks]
        r_first = len(ranks)
        row = {f"R@{k}": float(any(hits[:k])) for k in ks}
        row |= {f"recall_all@{k}": sum(hits[:k]) / r_first for k in ks}
        row |= {f"precision@{k}": sum(hits[:k]) / k for k in ks}
        for k in ks:
            best = sorted(hits, reverse=True)
            gain, ideal = (sum(hit / math.log2(i + 2) for i, hit in enumerate(h[:k])) for h in (hits, best))
            row[f"NDCG@{k}"] = gain / ideal
        row |= {"MRR": 1 / ranks[0], "mAP": sum(precisions) / r_first, "rank": ranks[0]}
        row["mAP@R"] = sum(p for p, r in zip(precisions, ranks, strict=True) if r <= r_first) / r_first
        rows.append(row)
    out = {name: np.mean([r[name] for r in rows]) for name in rows[0] if name != "rank"}
    return out | {"median rank": np.median([r["rank"] for r in rows])}


def clip_benchmark_recall(scores, positive_pairs, k):
    """CLIP_benchmark's image/text_retrieval_recall@k: share of rows with a positive among the top k."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((np.take_along_axis(positive_pairs, top, axis=1).sum(axis=1) > 0).mean())


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_brute_force(seed):
    x, y, owner = embeddings(60, 5, dim=16, noise=1.5, seed=seed)
    relevant = owner[None, :] == np.arange(60)[:, None]
    if seed % 2:  # embeddings on a coarse grid whose products are exact on any processor: many exact ties
        x, y = (np.sign(e) / np.sqrt(e.shape[1]) for e in (x, y))
        x, y = x.astype(np.float32), y.astype(np.float32)
    scores = x @ y.T
    results = evaluate_retrieval(x, y, owner, RetrievalProtocol(resamples=10, block_bytes=4 * 7 * len(y)))
    for result, s, r in zip(results, (scores, scores.T), (relevant, relevant.T), strict=True):
        expected = brute(s, r)
        assert set(expected) == set(result.values)
        for name, value in expected.items():
            assert result.values[name].value == pytest.approx(value, abs=1e-12), (result.name, name)


def test_recall_equals_clip_benchmark():
    x, y, owner = embeddings(300, 5, dim=16, noise=1.0, seed=3)
    found = recall_at_k(x, y, owner)
    scores, positive = y @ x.T, owner[:, None] == np.arange(300)[None, :]
    for k in (1, 5, 10):
        assert found[f"text-to-image R@{k}"] == pytest.approx(
            clip_benchmark_recall(scores, positive, k), abs=1e-12
        )
        assert found[f"image-to-text R@{k}"] == pytest.approx(
            clip_benchmark_recall(scores.T, positive.T, k), abs=1e-12
        )


def test_agrees_with_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    x, y, owner = embeddings(80, 5, noise=1.2, seed=4)
    scores = x @ y.T
    judged = {f"i{i}": {f"t{j}": 1 for j in np.flatnonzero(owner == i)} for i in range(80)}
    run = {f"i{i}": {f"t{j}": float(scores[i, j]) for j in range(len(y))} for i in range(80)}
    measures = {"map", "recip_rank", "recall.1,5,10", "success.1,5,10", "P.1,5,10", "ndcg_cut.1,5,10"}
    rows = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run).values()
    values = evaluate_retrieval(x, y, owner, RetrievalProtocol(resamples=0))[0].values
    names = {"map": "mAP", "recip_rank": "MRR"}
    names |= {f"recall_{k}": f"recall_all@{k}" for k in (1, 5, 10)} | {
        f"success_{k}": f"R@{k}" for k in (1, 5, 10)
    }
    names |= {f"P_{k}": f"precision@{k}" for k in (1, 5, 10)}
    names |= {f"ndcg_cut_{k}": f"NDCG@{k}" for k in (1, 5, 10)}
    for theirs, ours in names.items():
        assert values[ours].value == pytest.approx(np.mean([r[theirs] for r in rows]), abs=1e-9), ours


def test_ndcg_and_precision_by_hand():
    positives = Positives.from_pairs([0, 0, 0, 1], [0, 1, 2, 3], 2)
    columns = ranking_metrics(np.array([1, 3, 9, 2]), positives, (1, 2, 5)).columns()
    assert columns["precision@1"].tolist() == [1, 0]
    assert columns["precision@5"].tolist() == [2 / 5, 1 / 5]  # of 5, whatever the number of positives
    np.testing.assert_allclose(columns["NDCG@1"], [1, 0])
    second, third = 1 / math.log2(3), 1 / 2
    np.testing.assert_allclose(columns["NDCG@2"], [1 / (1 + second), second])  # two of the three fit
    np.testing.assert_allclose(columns["NDCG@5"], [(1 + third) / (1 + second + third), second])


def test_ties_do_not_flatter():
    same = np.ones((20, 4), dtype=np.float32) / 2  # a collapsed model: every score is equal
    owner = np.arange(20)
    assert recall_at_k(same, same, owner)["image-to-text R@10"] == 0.0
    optimistic = evaluate_retrieval(same, same, owner, RetrievalProtocol(ties="optimistic", resamples=0))
    assert optimistic[0].values["R@1"].value == 1.0
    with pytest.raises(InputError, match="ties"):
        evaluate_retrieval(same, same, owner, RetrievalProtocol(ties="random", resamples=0))  # type: ignore[arg-type]


def test_captions_with_several_images_and_images_without_caption():
    x, y, _ = embeddings(6, 1, seed=1)
    pairs = np.array(
        [[0, 0], [1, 0], [1, 1], [2, 2], [3, 3], [3, 3]]
    )  # images 4 and 5 have none; (3, 3) twice
    relevant = np.zeros((6, len(y)), dtype=bool)
    relevant[pairs[:, 0], pairs[:, 1]] = True
    first, second = evaluate_retrieval(x, y, pairs, RetrievalProtocol(resamples=0))
    for result, s, r in ((first, x @ y.T, relevant), (second, y @ x.T, relevant.T)):
        for name, value in brute(s, r).items():
            assert result.values[name].value == pytest.approx(value, abs=1e-12)
    assert (first.values["R@1"].n, second.values["R@1"].n) == (4, 4)


def test_folds_are_the_mean_of_separate_runs():
    x, y, owner = embeddings(50, 4, noise=1.5, seed=6)
    whole = evaluate_retrieval(x, y, owner, RetrievalProtocol(folds=5, resamples=0))
    parts = []
    for f in range(5):
        keep = owner // 10 == f
        parts.append(
            evaluate_retrieval(
                x[f * 10 : f * 10 + 10], y[keep], owner[keep] - f * 10, RetrievalProtocol(resamples=0)
            )
        )
    for d in (0, 1):
        for name, interval in whole[d].values.items():
            assert interval.value == pytest.approx(
                np.mean([p[d].values[name].value for p in parts]), abs=1e-12
            )


def test_interval_resamples_images():
    x, y, owner = embeddings(100, 5, noise=1.5, seed=7)
    direction = evaluate_retrieval(x, y, owner, RetrievalProtocol(resamples=200, seed=5))[1]
    hits = (direction.folds[0].best_rank <= 1).astype(float)
    expected, got = bootstrap_mean(hits, owner, resamples=200, seed=5), direction.values["R@1"]
    assert (got.value, got.low, got.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_ranks_of_float16_and_unnormalised_input():
    x, y, owner = embeddings(30, 2, seed=8)
    scaled = (3 * x, 0.5 * y)
    assert recall_at_k(*scaled, owner) == recall_at_k(x, y, owner)
    assert unit_rows(x.astype(np.float16), "x").dtype == np.float32
    positives = Positives.from_pairs(owner, np.arange(len(y)), 30)
    ranks = positive_ranks(x, y, positives)
    assert ranks.min() >= 1
    assert ranks.max() <= len(y)


def test_bad_input_is_named(tmp_path):
    x, y, owner = embeddings(5, 1)
    with pytest.raises(InputError, match="dimensions"):
        recall_at_k(x[:, :4], y, owner)
    with pytest.raises(InputError, match="names image 7"):
        recall_at_k(x, y, owner + 3)
    with pytest.raises(InputError, match="row 2 is zero"):
        recall_at_k(np.where(np.arange(5)[:, None] == 2, np.nan, x), y, owner)
    with pytest.raises(InputError, match="folds"):
        evaluate_retrieval(x, y, owner, RetrievalProtocol(folds=9))
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    with pytest.raises(InputError, match=r"a\.npy"):
        load_embeddings(str(tmp_path / "a.npy"))
    np.savez(tmp_path / "e.npz", images=x, texts=y)
    np.testing.assert_array_equal(load_embeddings(str(tmp_path / "e.npz"), "texts"), y)
    with pytest.raises(InputError, match="say which array"):
        load_embeddings(str(tmp_path / "e.npz"))


def test_equal_captions_fit_every_photo_that_has_them():
    captions = ["A field.", "a  field", "a river", "a river"]
    found = equal_caption_pairs(captions, [0, 1, 1, 1])
    assert found.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [1, 2], [1, 3]]
    images = np.eye(2)
    texts = images[[1, 0, 1, 1]]  # the first two find each other's photo, which says the same
    plain, equal = (evaluate_retrieval(images, texts, right)[1] for right in ([0, 1, 1, 1], found))
    assert plain.values["R@1"].value == 0.5
    assert equal.values["R@1"].value == 1
    assert equal_caption_pairs([], []).shape == (0, 2)
