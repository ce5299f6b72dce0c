"""Metrics: worked by hand, and against trec_eval itself."""

import math

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.metrics import ordered, query_metrics, run_metrics

CUTOFFS = (1, 3, 5, 10)
PASSAGES = [f"d{i:02}" for i in range(15)]

qrels_of_sets = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q4"]),
    st.dictionaries(st.sampled_from(PASSAGES), st.integers(-1, 3), min_size=1, max_size=8),
    min_size=1,
)
# few distinct scores: most passages tie with another
runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q5"]),
    st.dictionaries(st.sampled_from(PASSAGES), st.sampled_from([-1.5, 0.0, 0.25, 2.0]), max_size=12),
)


def test_ordered_is_score_descending_then_id_ascending():
    assert ordered({"b": 1.0, "c": 2.0, "a": 1.0, "d": -math.inf}) == ["c", "a", "b", "d"]


def test_ordered_refuses_nan():
    with pytest.raises(DataError, match="'b' is NaN"):
        ordered({"a": 1.0, "b": math.nan})


def test_every_metric_by_hand():
    """Ranking x a x b; relevant a (gain 2), b (1), c (1).

    At 4: 2 of 3 found; first at rank 2; DCG = 2/log2(3) + 1/log2(5); ideal = 2 + 1/log2(3) + 1/2;
    AP = (1/2 + 2/4) / 3. At 2: ideal = 2 + 1/log2(3), AP = (1/2) / 3.
    """
    values = query_metrics(["x", "a", "y", "b"], {"a": 2, "b": 1, "c": 1, "y": 0}, [1, 2, 4])
    third, fifth = 1 / math.log2(3), 1 / math.log2(5)
    expected = {
        "recall@1": 0, "hit@1": 0, "mrr@1": 0, "ndcg@1": 0, "map@1": 0,
        "recall@2": 1 / 3, "hit@2": 1, "mrr@2": 1 / 2, "ndcg@2": 2 * third / (2 + third), "map@2": 1 / 6,
        "recall@4": 2 / 3, "hit@4": 1, "mrr@4": 1 / 2, "ndcg@4": (2 * third + fifth) / (2 + third + 0.5), "map@4": 1 / 3,
    }  # fmt: skip
    assert values == pytest.approx(expected)


@settings(deadline=None, derandomize=True)
@given(run=runs, qrels=qrels_of_sets)
def test_equal_to_trec_eval(run, qrels):
    """trec_eval gets distinct scores that follow our order, since it breaks ties by descending id."""
    judged = {query for query, relevance in qrels.items() if any(value > 0 for value in relevance.values())}
    if not judged:
        with pytest.raises(DataError):
            run_metrics(run, qrels, CUTOFFS)
        return
    means, per_query = run_metrics(run, qrels, CUTOFFS)
    assert set(per_query) == judged
    distinct = {query: {p: float(-rank) for rank, p in enumerate(ordered(scores))} for query, scores in run.items()}
    names = {"recall": "recall", "hit": "success", "ndcg": "ndcg_cut", "map": "map_cut"}
    cutoffs = ",".join(map(str, CUTOFFS))
    measures = {f"{name}.{cutoffs}" for name in names.values()} | {"recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(distinct)
    for query, values in per_query.items():
        for cutoff in CUTOFFS:
            reference = theirs.get(query)  # absent from the run: absent from their mean, zero in ours
            for ours, name in names.items():
                expected = reference[f"{name}_{cutoff}"] if reference else 0.0
                assert values[f"{ours}@{cutoff}"] == pytest.approx(expected, abs=1e-9), (ours, cutoff)
            reciprocal = reference["recip_rank"] if reference else 0.0
            expected = reciprocal if reciprocal >= 1 / cutoff - 1e-9 else 0.0
            assert values[f"mrr@{cutoff}"] == pytest.approx(expected, abs=1e-9)
    for name, mean in means.items():
        assert mean == pytest.approx(sum(values[name] for values in per_query.values()) / len(judged))


def test_a_missing_query_counts_as_zero_and_an_unjudged_one_does_not_count():
    qrels = {"found": {"a": 1}, "missing": {"a": 1}, "irrelevant": {"a": 0}}
    means, per_query = run_metrics({"found": {"a": 1.0}, "stranger": {"a": 1.0}}, qrels, [1])
    assert means["recall@1"] == 0.5
    assert set(per_query) == {"found", "missing"}


@pytest.mark.parametrize("cutoffs", [[], [0], [-1], [1.0], [True], ["10"]])
def test_a_cutoff_is_a_rank(cutoffs):
    with pytest.raises(ConfigurationError, match="cutoffs"):
        query_metrics(["a"], {"a": 1}, cutoffs)


def test_faulty_input_is_named():
    with pytest.raises(DataError, match="twice: 'b'"):
        query_metrics(["a", "b", "c", "b"], {"a": 1}, [1])
    with pytest.raises(DataError, match="without a relevant passage"):
        query_metrics(["a"], {"a": 0}, [1])
