"""Settings that cannot be meant are refused by name."""

import pytest

from e5ft.errors import ConfigurationError
from e5ft.retrieval.settings import Limits, Selection


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sources": ()}, "sources="), ({"sources": ("bm25", "bm25")}, "sources="),
        ({"window": (5, 2)}, "window="), ({"window": (0, 2)}, "window="), ({"window": (1,)}, "window="), ({"window": (1, 2.5)}, "window="),
        ({"per_query": 0}, "per_query=0"), ({"per_query": True}, "per_query=True"), ({"choose": "best"}, "choose='best'"),
        ({"max_uses": 0}, "max_uses=0"),
    ],
)  # fmt: skip
def test_selections_that_are_none(given, words):
    with pytest.raises(ConfigurationError, match=words):
        Selection(**given)


@pytest.mark.parametrize(
    "given", [{"percent": 0.0}, {"percent": 1.5}, {"margin": -0.1}, {"max_score": "high"}, {"max_score": float("nan")}]
)
def test_limits_that_are_none(given):
    with pytest.raises(ConfigurationError, match=f"filters.{next(iter(given))}="):
        Limits(**given)
