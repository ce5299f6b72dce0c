"""The limit below a positive by hand; each filter at work: test_mining.py."""

import numpy as np
import pytest

from e5ft.retrieval.filters import percent_limit


@pytest.mark.parametrize(
    ("positive", "percent", "limit"), [(0.8, 0.95, 0.76), (-0.8, 0.95, -0.84), (0.0, 0.95, 0.0), (5.0, 1.0, 5.0)]
)
def test_the_percent_limit_lies_below_the_positive_on_both_sides_of_zero(positive, percent, limit):
    assert percent_limit(np.array([positive]), percent) == pytest.approx(limit)
    assert limit <= positive  # positive * percent would be -0.76 for -0.8: above the positive itself
