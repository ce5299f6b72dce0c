"""Intervals and the test: bounds known by hand, exact small cases, coverage, and bounded memory."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from e5ft.retrieval import significance
from e5ft.retrieval.significance import difference_intervals, mean_intervals, sign_flip_p, smallest_seen


def column(values):
    return np.array(values, dtype=np.float64)[:, None]


def interval(values, **given):
    return tuple(mean_intervals(column(values), **given)[0])


@pytest.mark.parametrize("value", [0.5, 0.1, -0.3])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 199, 200])
def test_equal_values_have_no_width_and_one_query_neither(value, count):
    with warnings.catch_warnings(action="error"):
        values = np.stack([np.full(count, value), np.arange(count) / count], axis=1)
        (low, high), (other_low, other_high) = mean_intervals(values, least=-1)
    assert low == high == pytest.approx(value) and (count == 1 or other_low < other_high)


@pytest.mark.parametrize(("count", "abs"), [(100, 0.001), (200, 0.008)])
def test_of_zeros_and_ones_it_is_the_binomial_interval(count, abs):
    """Means of n of them are Binomial(n, .5) / n: 1.96 standard errors of .5 / sqrt(n) to each side, 1.984 by t of 99."""
    half = (1.984 if count < 200 else 1.96) * 0.5 / count**0.5
    assert interval([0.0, 1.0] * (count // 2), samples=20_000) == pytest.approx((0.5 - half, 0.5 + half), abs=abs)


@pytest.mark.parametrize(("count", "level"), [(5, 0.95), (8, 0.95), (20, 0.95), (60, 0.8), (200, 0.8)])
def test_it_covers_as_often_as_it_says(count, level):
    """Of eight such values the percentile bootstrap covers 89 times in 100, and BCa 90 times."""
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        low, high = interval(generator.beta(2, 3, size=count), level=level, samples=300, seed=trial)
        hits += low <= 0.4 <= high
    assert abs(hits / 400 - level) < (0.03 if level > 0.9 else 0.06)


def test_below_two_hundred_queries_it_is_the_one_of_the_t_test():
    values = np.random.default_rng(1).uniform(-0.4, 0.6, (8, 3))
    expected = np.stack(stats.ttest_1samp(values, 0, axis=0).confidence_interval(0.9), axis=1)
    np.testing.assert_allclose(mean_intervals(values, least=-1, level=0.9), expected, rtol=0, atol=1e-12)
    assert interval([1.0] * 7 + [0.0])[1] == 1.0 and interval([0.0] * 7 + [1.0])[0] == 0.0  # no score lies beyond
    assert interval([0.0] * 7 + [-1.0], least=-1)[0] < 0


def test_of_eight_queries_interval_and_p_agree():
    """Four gains and four ties: p is 2 of 16 patterns; bootstrap intervals exclude 0, since no resample has a loss."""
    gains = [0.63, 0.13, 0.37, 0.8, 0, 0, 0, 0]
    assert sign_flip_p(column(gains))[0] == 0.125
    low, high = interval(gains, least=-1)
    assert low < 0 < high


def test_from_two_hundred_queries_on_metrics_are_resampled_together_by_the_seed_and_in_batches(monkeypatch):
    """The resamples are those of `integers(0, Q, (samples, Q))` of numpy's default generator, whatever the batches."""
    values = np.random.default_rng(2).random((200, 2))
    drawn = np.random.default_rng(5).integers(0, 200, (2000, 200))
    expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975], axis=0).T
    for size in (significance.BATCH_VALUES, 700):
        monkeypatch.setattr(significance, "BATCH_VALUES", size)
        np.testing.assert_allclose(mean_intervals(values, seed=5), expected, rtol=0, atol=1e-12)
    assert not np.allclose(expected, mean_intervals(values, seed=6), atol=1e-12)


def test_memory_is_bounded(monkeypatch):
    sizes, mean = [], np.mean
    monkeypatch.setattr(significance, "BATCH_VALUES", 6000)
    monkeypatch.setattr(significance.np, "mean", lambda sample, axis: sizes.append(sample.size) or mean(sample, axis=axis))
    mean_intervals(np.random.default_rng(2).random((200, 3)), samples=101)
    assert max(sizes) == 6000


def test_one_resample_at_a_time_where_one_alone_is_larger(monkeypatch):
    sizes = []
    monkeypatch.setattr(significance, "BATCH_VALUES", 50)
    monkeypatch.setattr(significance.np, "abs", lambda means: sizes.append(means.size) or abs(means))
    sign_flip_p(np.random.default_rng(2).random((100, 3)), permutations=11)
    assert max(sizes) == 3  # the means of one


def test_p_is_the_exact_one_of_all_sign_patterns():
    differences = [0.3, -0.1, 0.2, 0.05, 0.0, 0.4]
    patterns = np.array(list(itertools.product([-1, 1], repeat=6)))
    exact = (np.abs(patterns @ differences) >= abs(sum(differences)) - 1e-9).mean()
    assert sign_flip_p(column(differences))[0] == pytest.approx(exact)
    twice = np.concatenate([column(differences), column(differences)])
    assert sign_flip_p(np.tile(twice, (1, 2)), permutations=4000) == pytest.approx(sign_flip_p(twice)[0], abs=0.02)
    assert sign_flip_p(column([0.3])) == 1.0


def test_equal_sums_in_another_order_count():
    """Of all sign patterns of ten times 0.1 two of 1,024 reach |1.0|, though the sums round."""
    assert sign_flip_p(column([0.1] * 10))[0] == 2 / 1024
    assert sign_flip_p(column([0.0] * 20))[0] == 1.0


def test_p_is_never_zero_and_is_uniform_without_a_difference():
    assert sign_flip_p(column([1.0] * 60), permutations=99)[0] == 1 / 100
    values = sign_flip_p(np.random.default_rng(3).standard_normal((30, 300)), permutations=200)
    assert 0.15 < np.mean(values < 0.2) < 0.26


def test_two_sided():
    differences = np.random.default_rng(4).random((20, 1)) - 0.3
    assert sign_flip_p(differences) == sign_flip_p(-differences)


@pytest.mark.parametrize("queries", [1, 20, 199, 200, 1000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_interval_leaves_zero_out_only_if_the_test_does(queries, sign):
    """Of n differences that are not 0, all one way, the exact p is 2 / 2**n: .125 of four, 1/32 of six."""
    for changed in sorted({min(queries, count) for count in (1, 4, 6)}):
        differences = np.zeros((queries, 1))
        differences[:changed] = 0.5 * sign
        (ends,), (p_value,) = difference_intervals(differences)
        alone = mean_intervals(differences, least=-1)[0]
        assert p_value == pytest.approx(2 / 2**changed, rel=0.15)
        assert (ends[0] > 0 or ends[1] < 0) == (changed > 5)
        assert ends.tolist() == ([min(alone[0], 0), max(alone[1], 0)] if changed < 6 else alone.tolist())


def test_at_another_level_p_must_be_as_small():
    differences = column([0.5] * 6 + [0.0] * 94)
    for level, apart in ((0.95, True), (0.98, False)):
        ends, p_values = difference_intervals(differences, level=level)
        assert (ends[0][0] > 0) == apart and p_values[0] == pytest.approx(1 / 32, rel=0.15)


def test_of_four_that_changed_by_chance_none_are_called_different():
    """All one way is one pattern of eight: too many for 95 %, though every resample with one of them would leave 0 out."""
    for pattern in itertools.product([-0.5, 0.5], repeat=4):
        low, high = difference_intervals(column([*pattern, *[0.0] * 96]))[0][0]
        assert low <= 0 <= high


def test_a_smaller_difference_would_not_have_been_seen():
    """Shifted so that the mean is the smallest that is seen, the interval begins at 0: by the same spread, 28 queries."""
    differences = np.random.default_rng(0).normal(0.3, 0.1, 28)
    low, high = mean_intervals(differences[:, None], least=-1.0)[0]
    least = smallest_seen(28, low, high)
    shifted = differences - differences.mean() + least
    assert mean_intervals(shifted[:, None], least=-1.0)[0][0] == pytest.approx(0, abs=1e-12)
    assert least == pytest.approx(2.0518 * differences.std(ddof=1) / 28**0.5, rel=1e-4)  # t of 27 degrees of freedom


def test_without_any_difference_the_largest_spread_counts():
    assert smallest_seen(28, 0.1, 0.1) == pytest.approx(2.0518 * 0.5 / 28**0.5, rel=1e-4)
    assert smallest_seen(1, 0.0, 0.0) == 1.0
