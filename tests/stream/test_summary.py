"""Sketches over parts: exact where they say so, close where they sample, and bounded."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from cliplet.statistics.corpus import CorpusStatistic, corpus_interval
from cliplet.stream import summary as summaries
from cliplet.stream.summary import Summary


def part(path, image, score, reason=None):
    """A part's file of these rows."""
    n = len(score)
    values = pa.array(np.asarray(score, np.float32), mask=np.isnan(score))
    held = {"image": image, "caption": ["a dog"] * n, "score": values, "match": pa.nulls(n, pa.float32()),
            "cosine": values, "truncated": [False] * n, "reason": pa.array(reason or [None] * n, pa.string()),
            "where": [f"line {i}" for i in range(n)]}  # fmt: skip
    parquet.write_table(pa.table(held), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three parts of 20,000 rows over 3,000 images whose scores differ."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("summary")
    images = rng.integers(0, 3000, 60_000)
    score = (rng.normal(size=3000)[images] + 0.1 * rng.normal(size=60_000)).astype(np.float32).astype(float)
    files = []
    for i in range(3):
        rows = slice(20_000 * i, 20_000 * (i + 1))
        files.append((i, part(folder / f"{i}.parquet", [f"{k}.jpg" for k in images[rows]], score[rows])))
    return files, images, score


def test_means_extremes_and_intervals_are_exact_while_everything_fits(data):
    files, images, score = data
    found = Summary().add_all(files)
    interval = found.intervals()["score"]
    other = corpus_interval(CorpusStatistic.mean(score), images)
    assert interval.value == pytest.approx(score.mean())
    assert (interval.low, interval.high) == pytest.approx((other.low, other.high), abs=0.01)
    assert found.images() == (3000, True)
    assert max(row["score"] for _, _, row in found.shown()) == pytest.approx(score.max(), abs=1e-6)
    assert min(row["score"] for _, _, row in found.shown()) == pytest.approx(score.min(), abs=1e-6)


def test_sampled_images_and_rows_come_close_and_are_said(data, monkeypatch):
    files, images, score = data
    monkeypatch.setattr(summaries, "IMAGES", 500)
    monkeypatch.setattr(summaries, "SAMPLE", 5_000)
    monkeypatch.setattr(summaries, "SHOWN", 100)
    found = Summary().add_all(files)
    count, exact = found.images()
    assert not exact
    assert count == pytest.approx(3000, rel=0.15)
    interval, other = found.intervals()["score"], corpus_interval(CorpusStatistic.mean(score), images)
    assert interval.value == pytest.approx(score.mean())
    assert interval.high - interval.low == pytest.approx(other.high - other.low, rel=0.3)
    assert found.quantiles()["score"]["0.5"] == pytest.approx(np.median(score), abs=0.05)
    assert any("sample of 5000 of 60000 rows" in note for note in found.notes())
    assert any("500 of about" in note for note in found.notes())
    assert 100 <= len(found.shown()) <= 100 + 2 * summaries.EXTREMES
    lowest = sorted(score)[:12]
    assert [
        row["score"] for _, _, row in sorted(found.shown(), key=lambda one: one[2]["score"])[:12]
    ] == pytest.approx(lowest, abs=1e-6)


def test_the_same_parts_give_the_same_summary(data):
    files, _, _ = data
    one, two = Summary().add_all(files), Summary().add_all(files)
    assert one.shown() == two.shown()
    assert one.intervals() == two.intervals()


def test_failures_of_one_kind_are_counted_together_with_examples(tmp_path):
    reasons = [f"there is no photo {i}.jpg in /photos" for i in range(40)] + ["the caption is empty"] * 3
    images = [f"{i}.jpg" for i in range(40)] + ["x.jpg"] * 3
    found = Summary()
    found.add(0, part(tmp_path / "0.parquet", images, np.full(43, np.nan), reasons))
    kinds = found.failures()
    assert [about["rows"] for about in kinds.values()] == [40, 3]
    assert next(iter(kinds.values()))["such as"][0] == "line 0: there is no photo 0.jpg in /photos"
    assert found.failed == 43
