"""Limits by hand, and what is at them; each filter at work: test_mining.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from e5ft.retrieval.filters import FILTERS, LINE, Filtering, need_scores, percent_limit
from e5ft.retrieval.settings import Limits


@pytest.mark.parametrize(
    ("positive", "percent", "limit"), [(0.8, 0.95, 0.76), (-0.8, 0.95, -0.84), (0.0, 0.95, 0.0), (5.0, 1.0, 5.0)]
)
def test_the_percent_limit_lies_below_the_positive_on_both_sides_of_zero(positive, percent, limit):
    assert percent_limit(np.array([positive]), percent) == pytest.approx(limit)
    assert limit <= positive  # positive * percent would be -0.76 for -0.8: above the positive itself


@pytest.mark.parametrize(("name", "setting", "limit"), [("percent", 0.5, 2.0), ("margin", 1.0, 3.0), ("max_score", 3.5, 3.5)])
def test_a_score_at_the_limit_is_kept_and_one_above_it_is_not(name, setting, limit):
    """The row's documents score 5 and 4: the lower one counts."""
    documents, lines = np.zeros(2, LINE), np.zeros(2, LINE)
    documents["score"], lines["score"] = (5.0, 4.0), (limit, np.nextafter(np.float32(limit), np.float32(9)))
    filtering = Filtering(SimpleNamespace(query_of=np.array([0])), documents, None)
    [rule] = [rule for rule in FILTERS if rule.name == name]
    assert rule.rejects(filtering, lines, setting).tolist() == [False, True]


def test_scores_are_needed_by_the_filters_that_compare_them():
    assert all(need_scores(Limits(**{name: 0.5})) for name in ("percent", "margin", "max_score"))
    assert not need_scores(Limits(near_duplicate={"ngram": 3, "threshold": 0.7, "measure": "containment"}))
