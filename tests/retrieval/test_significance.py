"""Intervals and the test: bounds known by hand, exact small cases, coverage, and bounded memory."""

import itertools

import numpy as np
import pytest

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import significance
from e5ft.retrieval.significance import bootstrap_interval, bootstrap_intervals, sign_flip_p


def test_equal_values_have_no_width_and_one_query_neither():
    assert bootstrap_interval([0.5] * 8) == (0.5, 0.5)
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


def test_of_zeros_and_ones_it_is_the_binomial_interval():
    """Resampled means of 50 zeros and 50 ones are Binomial(100, .5) / 100, whose 2.5 % and 97.5 % points are .40 and .60."""
    assert bootstrap_interval([0.0, 1.0] * 50, samples=20_000) == pytest.approx((0.40, 0.60), abs=0.011)


def test_it_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(generator.beta(2, 3, size=60), level=0.8, samples=300, seed=trial)
        hits += low <= 0.4 <= high
    assert 0.73 < hits / 300 < 0.87


def test_a_higher_level_is_wider():
    values = np.random.default_rng(1).random(40)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_metrics_are_resampled_together_and_by_the_seed():
    values = np.random.default_rng(2).random((30, 2))
    together = bootstrap_intervals(values, seed=5)
    for column in range(2):
        assert tuple(together[column]) == pytest.approx(bootstrap_interval(values[:, column], seed=5))
    assert not np.allclose(together, bootstrap_intervals(values, seed=6), atol=1e-12)


def test_memory_is_bounded(monkeypatch):
    """Small blocks draw the same numbers, never more than a block at a time."""
    monkeypatch.setattr(significance, "BLOCK_VALUES", 700)
    blocks = list(significance._blocks(101, 100, 0))
    assert [rows for _, rows in blocks] == [7] * 14 + [3]
    assert [rows for _, rows in significance._blocks(3, 100_000, 0)] == [1, 1, 1]


def test_p_is_the_exact_one_of_all_sign_patterns():
    differences = [0.3, -0.1, 0.2, 0.05, 0.0, 0.4]
    patterns = np.array(list(itertools.product([-1, 1], repeat=6)))
    exact = (np.abs(patterns @ differences) >= abs(sum(differences)) - 1e-9).mean()
    assert sign_flip_p(differences, permutations=20_000) == pytest.approx(exact, abs=0.01)


def test_equal_sums_in_another_order_count():
    """All sign patterns of ten times 0.1 that reach |1.0| are two of 1,024: about 40 of 20,000, though the sums round."""
    assert sign_flip_p([0.1] * 10, permutations=20_000) == pytest.approx(2 / 1024, abs=1e-3)
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_p_is_never_zero_and_is_uniform_without_a_difference():
    assert sign_flip_p([1.0] * 60, permutations=99) == 1 / 100
    generator = np.random.default_rng(3)
    values = [sign_flip_p(generator.standard_normal(30), permutations=200, seed=i) for i in range(300)]
    assert 0.15 < np.mean(np.array(values) < 0.2) < 0.26


def test_two_sided():
    differences = np.random.default_rng(4).random(20) - 0.3
    assert sign_flip_p(differences) == sign_flip_p(-differences)


@pytest.mark.parametrize("arguments", [{"level": 0}, {"level": 1}, {"level": float("nan")}, {"samples": 0}, {"samples": 1.5}])
def test_settings_out_of_range(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        bootstrap_interval([0.5], **arguments)


def test_no_query():
    with pytest.raises(DataError):
        bootstrap_interval([])
    with pytest.raises(DataError):
        sign_flip_p([])
    with pytest.raises(ConfigurationError, match="permutations"):
        sign_flip_p([0.1], permutations=0)
