"""Protocols: which rows, which references, which data points; values recomputed with scipy."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from cliplet.errors import InputError
from cliplet.evaluation.benchmarks import BENCHMARKS, load_judgements
from cliplet.evaluation.human import (
    HumanProtocol,
    evaluate_preferences,
    evaluate_ratings,
    preference_request,
    select_rows,
)
from cliplet.evaluation.judgements import Preferences, Preferred, Rated, Ratings
from cliplet.evaluation.scores import file_scores, reference_columns
from tests.shared_data import shared_data

ROWS = Ratings(
    [
        Rated("a.jpg", "one", ("one", "two", "three"), (4.0, 4.0, 3.0), own=True),
        Rated("a.jpg", "zwei", ("one", "two", "three"), (1.0, 2.0, 2.0)),
        Rated("b.jpg", "drei", ("four", "five"), (3.0, 3.0, 4.0)),
        Rated("b.jpg", "vier", (), (1.0, 1.0, 1.0)),
    ]
)


def test_each_choice_of_rows_and_references():
    rows, notes = select_rows(ROWS, HumanProtocol(drop_own=True, drop_without_references=True))
    assert [r.caption for r in rows] == ["zwei", "drei"]
    assert sum(notes.values()) == 2
    rows, _ = select_rows(ROWS, HumanProtocol())
    assert rows[0].references == ("two", "three")  # never the candidate itself
    assert rows[1].references == ("one", "two", "three")
    rows, _ = select_rows(ROWS, HumanProtocol(hide="judged"))
    assert rows[1].references == ("two", "three")  # "one" was judged for this image
    rows, _ = select_rows(ROWS, HumanProtocol(hide="none", references=1))
    assert [r.references for r in rows] == [("one",), ("one",), ("four",), ()]


@pytest.mark.parametrize("raters", ["each", "mean", "median"])
def test_flattening(raters):
    scores = np.array([0.9, 0.1, 0.5, 0.4])
    ratings = np.array([r.ratings for r in ROWS.rows])
    result = evaluate_ratings(
        "x", ROWS, {"m": scores}, HumanProtocol(statistic="tau-c", raters=raters, resamples=0)
    )
    if raters == "each":
        x, y = np.repeat(scores, 3), ratings.ravel()
    else:
        x, y = scores, getattr(np, raters)(ratings, axis=1)
    assert result.metrics[0].interval.n == len(y)
    assert result.metrics[0].interval.value == pytest.approx(
        scipy.stats.kendalltau(x, y, variant="c").statistic
    )


def test_all_metrics_are_compared_on_the_same_rows():
    scores = {
        "full": np.array([1.0, 2, 3, 4]),
        "holes": np.array([1.0, np.nan, 3, 2]),
        "empty": np.full(4, np.nan),
    }
    result = evaluate_ratings("x", ROWS, scores, HumanProtocol(resamples=20))
    assert {m.metric: m.interval.n for m in result.metrics} == {"full": 9, "holes": 9}
    assert result.notes["rows left out: a metric has no score there"] == 1
    assert any("empty left out" in note for note in result.notes)
    assert [
        m.baseline for m in evaluate_ratings("x", ROWS, scores, HumanProtocol(resamples=20), "holes").metrics
    ] == ["holes", ""]
    with pytest.raises(InputError, match="no metric 'other' to compare with; measured: full, holes"):
        evaluate_ratings("x", ROWS, scores, HumanProtocol(resamples=20), "other")
    with pytest.raises(InputError, match="no metric has a score"):
        evaluate_ratings("x", ROWS, {"empty": np.full(4, np.nan)}, HumanProtocol())
    with pytest.raises(InputError, match="3 scores for 4 captions"):
        evaluate_ratings("x", ROWS, {"short": np.zeros(3)}, HumanProtocol())
    with pytest.raises(InputError, match="accuracy"):
        evaluate_ratings("x", ROWS, scores, HumanProtocol(statistic="accuracy"))


def test_flickr8k_expert_with_ngrams_equals_scipy_and_comes_near_the_published_values():
    data, _ = load_judgements("flickr8k-expert", shared_data("flickr8k/ExpertAnnotations.txt").parent)
    protocol = replace(BENCHMARKS["flickr8k-expert"].protocol, resamples=50)
    result = evaluate_ratings(
        "flickr8k-expert", data, lambda r: reference_columns(r, ["bleu", "rouge", "cider"])[0], protocol
    )
    rows, _ = select_rows(data, protocol)
    assert not any(r.own for r in rows)
    flat = np.array([x for r in rows for x in r.ratings])
    published = {"BLEU-4": 30.8, "ROUGE-L": 32.3, "CIDEr-D": 43.9}
    for m in result.metrics:
        expected = scipy.stats.kendalltau(np.repeat(result.scores[m.metric], 3), flat, variant="c").statistic
        assert m.interval.value == pytest.approx(expected, abs=1e-12)
        assert m.interval.low < m.interval.value < m.interval.high
        if m.metric in published:  # half of the images: near, not equal
            assert 100 * m.interval.value == pytest.approx(published[m.metric], abs=3)
    assert max(result.metrics, key=lambda m: m.interval.value).metric == "CIDEr-D"


PAIRS = Preferences(
    [
        Preferred("a.jpg", "right", "wrong", (40, 8), tuple("abcdefgh"), "HI"),
        Preferred("a.jpg", "wrong", "right", (10, 38), tuple("abcdefgh"), "HI"),
        Preferred("b.jpg", "right", "wrong", (24, 24), tuple("abcdefgh"), "HC"),
        Preferred("c.jpg", "same", "same", (30, 18), tuple("abcdefgh"), "HC"),
    ]
)


def test_preferences_by_class_with_ties_split():
    def scorer(request):
        return {"m": np.array([1.0 if c == "right" else 0.0 for c in request.captions])}

    protocol = HumanProtocol(statistic="accuracy", drawn_references=5, reference_draws=3, resamples=20)
    result = evaluate_preferences("pascal50s", PAIRS, scorer, protocol)
    values = {m.statistic: m.interval.value for m in result.metrics}
    assert values == {"accuracy HI": 1.0, "accuracy HC": 0.5, "accuracy": 0.75}
    loss = evaluate_preferences("foil", PAIRS, scorer, replace(protocol, ties="loss"))
    assert {m.statistic: m.interval.value for m in loss.metrics}["accuracy HC"] == 0.25


def test_drawn_references_are_seeded_and_differ_between_draws():
    protocol = HumanProtocol(statistic="accuracy", drawn_references=5, reference_draws=2)
    request = preference_request(PAIRS, protocol)
    assert len(request) == 2 * 2 * 4
    assert request.references == preference_request(PAIRS, protocol).references
    assert all(len(set(r)) == 5 for r in request.references)
    assert request.references[:4] == request.references[4:8]  # both captions see the same references
    assert request.references[:4] != request.references[8:12]
    assert request.references != preference_request(PAIRS, replace(protocol, seed=1)).references


def test_scores_from_a_file_join_by_image_and_caption(tmp_path):
    rows, _ = select_rows(ROWS, HumanProtocol())
    path = tmp_path / "mine.csv"
    path.write_text(
        "image,caption,mine,note\nx/B.jpg,drei,3,ok\na.jpg,one,9,ok\na.jpg,zwei,2,ok\n", encoding="utf-8"
    )
    captured = {}
    result = evaluate_ratings(
        "x", ROWS, lambda r: captured.setdefault("s", file_scores(path, r)), HumanProtocol(resamples=0)
    )
    np.testing.assert_array_equal(captured["s"]["mine"], [9, 2, 3, np.nan])
    assert result.metrics[0].interval.n == 9
    assert [r.caption for r in rows][:3] == ["one", "zwei", "drei"]
    path.write_text("image,caption,mine\nnone.jpg,drei,3\n", encoding="utf-8")
    with pytest.raises(InputError, match="no row matches"):
        evaluate_ratings("x", ROWS, lambda r: file_scores(path, r), HumanProtocol(resamples=0))
