"""The effect of a setting: jobs that differ in it alone are paired, whatever else was varied beside it."""

import numpy as np
import pytest

from e5ft.reporting.effects import effects, varied

JOBS = [{"a": a, "b": b, "same": "x"} for a in ("0.1", "0.02") for b in ("1", "2")]


def test_only_what_differs_is_varied_and_a_setting_that_some_lack_is():
    assert varied(JOBS) == ["a", "b"]
    assert varied([{"a": "1"}, {"a": "1", "c": "2"}]) == ["c"]
    assert varied([]) == varied([{"a": "1"}]) == []


def test_an_effect_is_free_of_what_was_varied_beside_it():
    """Scores are the sum of what a and b give, so the effect of a is its own part, exactly; b's is not in it."""
    part = {"0.1": np.array([0.2, 0.3, 0.1]), "0.02": np.array([0.5, 0.3, 0.4]), "1": np.zeros(3), "2": np.array([0.3, 0.1, 0.2])}
    values = {place: part[job["a"]] + part[job["b"]] for place, job in enumerate(JOBS)}
    found = effects(JOBS, values, best=3)  # a=0.02 b=2
    assert list(found) == ["a", "b"] and [level.value for level in found["a"]] == ["0.02", "0.1"]  # ascending
    reference, other = found["a"]
    assert reference.difference is None and reference.jobs == 2
    assert other.difference.mean == pytest.approx((part["0.1"] - part["0.02"]).mean()) and (other.pairs, other.agreeing) == (2, 2)
    assert found["b"][0].difference.mean == pytest.approx(-part["2"].mean())
    assert other.score == pytest.approx(np.mean([values[0], values[1]]))


def test_without_one_job_its_partner_is_left_out_of_the_pairs():
    """Were all jobs of a level averaged instead, b's part would come into a's effect."""
    values = {0: np.full(4, 0.1), 1: np.full(4, 0.5), 3: np.full(4, 0.6)}  # a=0.02 b=1 failed
    (reference, other), _ = effects(JOBS, values, best=3).values()
    assert other.difference.mean == pytest.approx(-0.1) and other.pairs == 1 and other.jobs == 2
    assert (reference.value, reference.jobs) == ("0.02", 1)


def test_a_value_whose_jobs_all_failed_and_settings_that_no_pair_has():
    values = {0: np.ones(3), 3: np.ones(3)}
    levels = effects(JOBS, values, best=0)["a"]
    assert all(level.difference is None and level.pairs == 0 for level in levels)
    levels = effects(JOBS, {2: np.ones(3), 3: np.ones(3)}, best=3)["a"]
    assert [(level.value, level.jobs, level.score) for level in levels] == [("0.02", 2, 1.0), ("0.1", 0, None)]


def test_pairs_that_disagree_are_counted():
    values = {0: np.full(3, 0.9), 1: np.full(3, 0.1), 2: np.full(3, 0.8), 3: np.full(3, 0.7)}
    other = effects(JOBS, values, best=3)["a"][1]  # +.1 with b=1, -.6 with b=2
    assert other.difference.mean == pytest.approx(-0.25) and (other.pairs, other.agreeing) == (2, 1)
