"""Settings that cannot be meant are refused by name."""

import pytest

from e5ft.errors import ConfigurationError
from e5ft.retrieval.settings import EvaluationSettings, Limits, Selection


def test_a_hybrid_without_bm25_is_refused_where_a_weight_was_given():
    given = {"cutoffs": (10,), "batch_tokens": 1, "intervals": 1, "dimensions": None}
    for weight in ("auto", None):
        EvaluationSettings(bm25=None, hybrid_weight=weight, **given)
    with pytest.raises(ConfigurationError, match="^evaluation.hybrid_weight=0.5: must be auto or null with evaluation.bm25=null"):
        EvaluationSettings(bm25=None, hybrid_weight=0.5, **given)


def test_a_precision_is_named_once():
    given = {"cutoffs": (10,), "bm25": None, "hybrid_weight": None, "batch_tokens": 1, "intervals": 1, "dimensions": None}
    assert EvaluationSettings(**given).precisions == ()
    with pytest.raises(ConfigurationError, match="^evaluation.precisions=.*: must be each once, as"):
        EvaluationSettings(**given, precisions=("int8", "int8"))


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
