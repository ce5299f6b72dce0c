"""Intervals and the test: bounds known by hand, exact small cases, coverage, and bounded memory."""

import itertools

import numpy as np
import pytest

from e5ft.retrieval import significance
from e5ft.retrieval.significance import bootstrap_intervals, sign_flip_p


def column(values):
    return np.array(values, dtype=np.float64)[:, None]


def interval(values, **given):
    return tuple(bootstrap_intervals(column(values), **given)[0])


@pytest.mark.parametrize("values", [[0.5] * 8, [0.5]])
def test_equal_values_have_no_width_and_one_query_neither(values):
    assert interval(values) == (0.5, 0.5)


def test_of_zeros_and_ones_it_is_the_binomial_interval():
    """Resampled means of 50 zeros and 50 ones are Binomial(100, .5) / 100, whose 2.5 % and 97.5 % points are .40 and .60."""
    assert interval([0.0, 1.0] * 50, samples=20_000) == pytest.approx((0.40, 0.60), abs=0.011)


def test_it_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = interval(generator.beta(2, 3, size=60), level=0.8, samples=300, seed=trial)
        hits += low <= 0.4 <= high
    assert 0.73 < hits / 300 < 0.87


def test_metrics_are_resampled_together_by_the_seed_and_in_batches(monkeypatch):
    """The resamples are those of `integers(0, Q, (samples, Q))` of numpy's default generator, whatever the batches."""
    values = np.random.default_rng(2).random((30, 2))
    drawn = np.random.default_rng(5).integers(0, 30, (2000, 30))
    expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975], axis=0).T
    for size in (significance.BATCH_VALUES, 700):
        monkeypatch.setattr(significance, "BATCH_VALUES", size)
        np.testing.assert_allclose(bootstrap_intervals(values, seed=5), expected, rtol=0, atol=1e-12)
    assert not np.allclose(expected, bootstrap_intervals(values, seed=6), atol=1e-12)


def test_memory_is_bounded(monkeypatch):
    sizes, mean = [], np.mean
    monkeypatch.setattr(significance, "BATCH_VALUES", 3000)
    monkeypatch.setattr(significance.np, "mean", lambda sample, axis: sizes.append(sample.size) or mean(sample, axis=axis))
    bootstrap_intervals(np.random.default_rng(2).random((100, 3)), samples=101)
    assert max(sizes) == 3000


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
