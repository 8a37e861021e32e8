"""Statistics against scipy and against brute force."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplet.errors import InputError
from cliplet.statistics import resampling as stats
from cliplet.statistics.corpus import CorpusStatistic, corpus_interval, corpus_intervals, interval_notes
from cliplet.statistics.kendall import ClusterTau, TauCounts

VARIANTS = ("b", "c")


def brute_tau(x, y, variant):
    """Straight from the definition, all pairs."""
    n = len(x)
    s = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    difference = s[np.triu_indices(n, 1)].sum()
    total = n * (n - 1) / 2
    tx = (np.subtract.outer(x, x) == 0)[np.triu_indices(n, 1)].sum()
    ty = (np.subtract.outer(y, y) == 0)[np.triu_indices(n, 1)].sum()
    if tx == total or ty == total:
        return math.nan
    if variant == "b":
        return difference / math.sqrt((total - tx) * (total - ty))
    m = min(len(set(x)), len(set(y)))
    return 2 * difference / (n**2 * (m - 1) / m)


def heavy_ties(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 7, n).astype(float)
    return x, np.clip(np.round(x / 2 + rng.normal(0, 1.5, n)), 1, 4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [2, 3, 17, 500, 20_000])
def test_tau_equals_scipy_on_heavy_ties(n, variant):
    x, y = heavy_ties(n, n)
    expected = scipy.stats.kendalltau(x, y, variant=variant).statistic
    np.testing.assert_allclose(stats.kendall_tau(x, y, variant), expected, rtol=1e-13, equal_nan=True)
    x = x + np.random.default_rng(0).normal(size=n)
    expected = scipy.stats.kendalltau(x, y, variant=variant).statistic
    np.testing.assert_allclose(stats.kendall_tau(x, y, variant), expected, rtol=1e-13, equal_nan=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=40))
def test_tau_equals_brute_force(rows):
    x, y = np.array(rows, dtype=float).T
    for variant in VARIANTS:
        np.testing.assert_allclose(
            stats.kendall_tau(x, y, variant), brute_tau(x, y, variant), atol=1e-13, equal_nan=True
        )


def test_known_values_and_degenerate_columns():
    assert stats.kendall_tau([1, 2, 3], [1, 2, 3]) == 1.0
    assert stats.kendall_tau([1, 2, 3], [3, 2, 1], "c") == -1.0
    assert stats.kendall_tau([1, 2, 2, 3], [1, 1, 2, 2], "c") == pytest.approx(2 * 3 / (16 * 0.5))
    for function in (stats.kendall_tau, stats.pearson, stats.spearman):
        assert math.isnan(function([], []))
        assert math.isnan(function([1], [2]))
        assert math.isnan(function([0.1, 0.1, 0.1], [1, 2, 3]))
    assert stats.kendall_tau([1, math.inf, 3], [1, 3, 2]) == 1.0


def test_nan_is_propagated_or_omitted():
    x, y = [1.0, 2.0, math.nan, 4.0], [1.0, 3.0, 2.0, 2.0]
    for function in (stats.kendall_tau, stats.pearson, stats.spearman):
        assert math.isnan(function(x, y))
        assert function(x, y, nan="omit") == function([1, 2, 4], [1, 3, 2])
    with pytest.raises(InputError, match="3 and 2 rows"):
        stats.pearson([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="NaN"):
        stats.bootstrap("tau-b", x, y)


def test_pearson_and_spearman_equal_scipy():
    x, y = heavy_ties(3000, 5)
    x = x * 1e-3 + 1e4  # a large offset must not cost precision
    assert stats.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-10)
    assert stats.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("statistic", stats.STATISTICS)
def test_weighted_resample_equals_recomputing_on_the_drawn_rows(statistic):
    rng = np.random.default_rng(1)
    x, y = heavy_ties(300, 2)
    x = x + (rng.random(300) < 0.5) * rng.normal(size=300)
    images = rng.integers(0, 40, 300)
    codes, n_groups = stats.group_codes(images, 300)
    weights = next(stats.resample_weights(n_groups, 20, seed=3))
    got = stats.weighted_statistic(statistic, x, y, codes, n_groups)(weights)
    for w, value in zip(weights, got, strict=True):
        rows = np.repeat(np.arange(300), w[codes])
        assert value == pytest.approx(stats.correlation(statistic, x[rows], y[rows]), abs=1e-10)


def test_both_ways_of_resampling_tau_agree():
    rng = np.random.default_rng(4)
    x, y = heavy_ties(400, 9)
    codes = rng.integers(0, 30, 400)
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=10)
    table, counts = ClusterTau(x, y, codes, 30), TauCounts(x, y)
    for variant in VARIANTS:
        slow = [counts.tau(variant, w[codes].astype(float)) for w in weights]
        np.testing.assert_allclose(table.tau(variant, weights), slow, rtol=1e-12)


def test_resamples_with_few_distinct_scores():
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 3, 40).astype(float), rng.integers(0, 6, 40).astype(float)
    codes = np.arange(40) // 8  # five images: many draws miss some values of x and of y
    weights = rng.multinomial(5, np.full(5, 0.2), size=60)
    fast = ClusterTau(x, y, codes, 5).tau("c", weights)
    for w, value in zip(weights, fast, strict=True):
        rows = np.repeat(np.arange(40), w[codes])
        np.testing.assert_allclose(value, brute_tau(x[rows], y[rows], "c"), atol=1e-12, equal_nan=True)


def test_many_levels_and_groups_take_the_general_path(monkeypatch):
    x, y = heavy_ties(200, 1)
    images = np.arange(200) // 4
    fast = stats.bootstrap_samples("tau-c", x, y, images, resamples=30, seed=2)
    monkeypatch.setattr(ClusterTau, "MAX_CLUSTERS", 3)
    np.testing.assert_allclose(
        stats.bootstrap_samples("tau-c", x, y, images, resamples=30, seed=2), fast, rtol=1e-12
    )
    monkeypatch.setattr(stats, "CHUNK_CELLS", 60)  # in several blocks: the same draws
    np.testing.assert_allclose(
        stats.bootstrap_samples("tau-c", x, y, images, resamples=30, seed=2), fast, rtol=1e-12
    )


def test_interval_covers_and_is_wider_by_image():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(60), 20)
    effect = rng.normal(size=60)[images]  # rows of an image share most of what they are
    x, y = effect + 0.2 * rng.normal(size=1200), effect + rng.normal(size=1200)
    by_image, by_row = (stats.bootstrap("pearson", x, y, g, resamples=500) for g in (images, None))
    assert by_image.low < by_image.value < by_image.high
    assert by_image.high - by_image.low > 1.5 * (by_row.high - by_row.low)
    again = stats.bootstrap("pearson", x, y, images, resamples=500)
    assert again == by_image


def test_one_image_gives_no_interval():
    values, images = [0.2, 0.4, 0.3], ["a"] * 3
    for interval in (
        stats.bootstrap_mean(values, images),
        stats.bootstrap_mean([1.0]),
        stats.bootstrap("pearson", values, [1, 3, 2], images),
        *stats.bootstrap_means([[0.1, 1.0]], ["a"]),
        corpus_interval(CorpusStatistic.mean(np.array(values)), np.zeros(3, int)),
    ):
        assert np.isfinite(interval.value)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
    test = stats.paired_mean_test([1.0, 2.0], [0.5, 1.0], ["a", "a"])
    assert math.isnan(test.low)
    assert interval_notes([interval])
    assert not interval_notes([stats.bootstrap_mean([0.1, 0.2])])


def test_intervals_of_several_values_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    columns = rng.random((3, 40))
    columns[1, :8] = np.nan  # two images without a value
    images = np.repeat(np.arange(10), 4)
    values = {str(i): CorpusStatistic.mean(column) for i, column in enumerate(columns)}
    alone = {name: corpus_interval(value, images) for name, value in values.items()}
    assert corpus_intervals(values, images) == alone
    weights = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=1000)
    means = weights @ columns[2].reshape(10, 4).mean(axis=1) / 10
    assert (alone["2"].low, alone["2"].high) == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert (alone["1"].n, alone["2"].n) == (32, 40)


def test_shares_of_0_and_of_100_percent_get_wilson_s_interval_by_image():
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    images = np.repeat(np.arange(20), 5)
    for table in (np.ones(100), np.zeros(100)):
        for interval in (stats.bootstrap_mean(table, images), *stats.bootstrap_means(table[:, None], images)):
            ends = (20 / (20 + z2), 1) if table[0] else (0, z2 / (20 + z2))
            assert (interval.low, interval.high) == pytest.approx(ends)
    low, high = stats.wilson_interval(0.3, 50)
    known = scipy.stats.binomtest(15, 50).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((known.low, known.high))
    constant = stats.bootstrap_mean(np.full(100, 0.5), images)
    assert constant.low == constant.high == 0.5, "no share: all values are what they are"
    assert math.isnan(stats.bootstrap_means(np.ones((9, 1)), resamples=0)[0].low)


def test_bootstrap_interval_has_its_nominal_coverage():
    rng, hits = np.random.default_rng(7), 0
    for _ in range(200):
        values = rng.normal(1.0, 2.0, 80)
        interval = stats.bootstrap_mean(values, resamples=300, seed=1)
        hits += interval.low <= 1.0 <= interval.high
    assert 178 <= hits <= 199  # 95 % of 200, within what chance and 80 rows allow


def test_pairwise_accuracy_and_its_tie_rules():
    better, worse = [2.0, 1.0, 1.0, 0.0, math.nan], [1.0, 1.0, 0.0, 1.0, 0.0]
    assert stats.pairwise_accuracy(better, worse, "half") == pytest.approx(2.5 / 4)
    assert stats.pairwise_accuracy(better, worse, "loss") == pytest.approx(2 / 4)
    assert stats.pairwise_accuracy(better, worse, "drop") == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="rule for ties"):
        stats.pairwise_wins(better, worse, "random")


def test_paired_test_finds_a_real_difference_and_not_a_false_one():
    rng = np.random.default_rng(3)
    y = rng.integers(1, 5, 900).astype(float)
    images = np.arange(900) // 9
    good, also_good, bad = (y + rng.normal(0, s, 900) for s in (1.0, 1.0, 4.0))
    bad = 1000 * bad  # another unit changes nothing
    for statistic in ("tau-b", "tau-c", "pearson", "spearman"):
        different = stats.paired_correlation_test(statistic, good, bad, y, images, resamples=199)
        assert different.low > 0
        assert different.p_value == pytest.approx(1 / 200)
        same = stats.paired_correlation_test(statistic, good, also_good, y, images, resamples=199)
        assert same.p_value > 0.05
        assert same.low < 0 < same.high


def test_permutation_p_value_equals_enumeration():
    x, y = np.array([3.0, 1.0, 2.0, 5.0, 2.5, 4.0]), np.array([1.0, 2.0, 1.5, 1.0, 2.0, 1.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = np.mean(np.abs(signs @ (x - y)) >= abs((x - y).sum()) - 1e-12)
    assert stats.paired_mean_test(x, y, resamples=20_000).p_value == pytest.approx(exact, abs=0.01)


def test_false_positive_rate_of_the_paired_test():
    rng, rejected = np.random.default_rng(11), 0
    for trial in range(200):
        y = rng.integers(1, 5, 60).astype(float)
        a, b = y + rng.normal(size=60), y + rng.normal(size=60)
        rejected += stats.paired_correlation_test("tau-b", a, b, y, resamples=99, seed=trial).p_value <= 0.05
    assert rejected <= 22


def test_holm_by_hand():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.9, math.nan, 0.6]), [1.0, math.nan, 1.0])
