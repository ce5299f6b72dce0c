"""Operating points against counting by hand, and pairs against trying every threshold."""

import itertools

import numpy as np
import pytest

from benchmarks.operating_points import cheapest, cheapest_pair, measure, thrown

KINDS = np.array([0, 0, 0, 0, 0, 1, 1, -1, -1, -1, -1])
VALUES = {"a": np.array([9, 8, 7, 6, 0, 5, 3, 4, 8, 1, 0.0])}


def test_cheapest_takes_the_largest_threshold_that_reaches_every_kind():
    point = cheapest(VALUES, KINDS, "a", [0], 0.8)  # four of five: the fourth value is 6
    assert point.thresholds == (6.0,) and point.caught == {0: 0.8, 1: 0.0} and point.cost == 0.25
    point = cheapest(VALUES, KINDS, "a", [0, 1], 0.8)  # of two, both
    assert point.thresholds == (3.0,) and point.caught == {0: 0.8, 1: 1.0} and point.cost == 0.5


def test_measure_counts_what_is_thrown_away():
    values = VALUES | {"b": np.array([1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1.0])}
    either = measure(values, KINDS, ("a", "b"), (8, 1), "or")
    assert either.caught == {0: 0.4, 1: 1.0} and either.cost == 0.75
    both = measure(values, KINDS, ("a", "b"), (4, 1), "and")
    assert both.caught == {0: 0.2, 1: 0.5} and both.cost == 0.25


@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_pair_is_the_one_that_trying_all_finds(seed):
    generator = np.random.default_rng(seed)
    kinds = np.repeat([0, 1, -1], [15, 10, 60])
    values = {name: generator.normal(size=85) + (kinds >= 0) * shift for name, shift in (("a", 1.0), ("b", 0.5), ("c", 0.0))}
    found = cheapest_pair(values, kinds, [0, 1], 0.8)
    costs = []
    for names in itertools.combinations(values, 2):
        for limits in itertools.product(*(values[name][kinds >= 0] for name in names)):
            for how in ("or", "and"):
                away = thrown(values, names, limits, how)
                if all(away[kinds == kind].mean() >= 0.8 - 1e-12 for kind in (0, 1)):
                    costs.append(away[kinds < 0].mean())
    # 25 false negatives, 60 quantiles: every value is on the grid.
    assert min(found.caught.values()) >= 0.8
    assert found.cost == pytest.approx(min(costs))
