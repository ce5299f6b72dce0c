"""Metrics: worked by hand, and against trec_eval itself."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.evaluation import Judgements
from e5ft.retrieval.metrics import check_cutoffs, means, metric_names, metric_values
from tests.retrieval.conftest import make_run, make_set

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


def test_every_metric_by_hand():
    """Ranking x a y b; relevant a (gain 2), b (1), c (1).

    At 4: 2 of 3 found; first at rank 2; DCG = 2/log2(3) + 1/log2(5); ideal = 2 + 1/log2(3) + 1/2;
    AP = (1/2 + 2/4) / 3. At 2: ideal = 2 + 1/log2(3), AP = (1/2) / 3. A ranking that ends changes nothing at 9.
    """
    values = metric_values(np.array([[0, 2, 0, 1]]), [[1, 2, 1]], [1, 2, 4, 9])
    third, fifth = 1 / math.log2(3), 1 / math.log2(5)
    at_4 = [2 / 3, 1, 1 / 2, (2 * third + fifth) / (2 + third + 0.5), 1 / 3]
    expected = [[0] * 5, [1 / 3, 1, 1 / 2, 2 * third / (2 + third), 1 / 6], at_4, at_4]
    assert values == pytest.approx(np.array([sum(expected, [])]))
    assert metric_names([1, 2])[4:7] == ["map@1", "recall@2", "hit@2"]


@settings(deadline=None, derandomize=True)
@given(scores=runs, qrels=qrels_of_sets)
def test_equal_to_trec_eval(scores, qrels):
    """trec_eval gets distinct scores that follow our order, since it breaks ties by descending id."""
    retrieval_set = make_set(dict(sorted(qrels.items())), PASSAGES)
    judged = [query for query, relevance in retrieval_set.qrels.items() if any(value > 0 for value in relevance.values())]
    if not judged:
        with pytest.raises(DataError, match="nothing to score"):
            Judgements(retrieval_set, CUTOFFS)
        return
    judgements, run = Judgements(retrieval_set, CUTOFFS), make_run(retrieval_set, scores)
    values = judgements.values(run)
    assert [retrieval_set.query_ids[query] for query in judgements.queries] == judged and len(values) == len(judged)
    ranked = {q: [PASSAGES[i] for i in row if i >= 0] for q, row in zip(retrieval_set.query_ids, run[1], strict=True)}
    distinct = {query: {p: -float(rank) for rank, p in enumerate(names)} for query, names in ranked.items() if names}
    names = {"recall": "recall", "hit": "success", "ndcg": "ndcg_cut", "map": "map_cut"}
    cutoffs = ",".join(map(str, CUTOFFS))
    measures = {f"{name}.{cutoffs}" for name in names.values()} | {"recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(distinct)
    for query, row in zip(judged, values.tolist(), strict=True):
        ours = dict(zip(metric_names(CUTOFFS), row, strict=True))
        reference = theirs.get(query)  # absent from the run: absent from their mean, zero in ours
        for cutoff in CUTOFFS:
            for metric, name in names.items():
                expected = reference[f"{name}_{cutoff}"] if reference else 0.0
                assert ours[f"{metric}@{cutoff}"] == pytest.approx(expected, abs=1e-9), (metric, cutoff)
            reciprocal = reference["recip_rank"] if reference else 0.0
            assert ours[f"mrr@{cutoff}"] == pytest.approx(reciprocal if reciprocal >= 1 / cutoff - 1e-9 else 0.0, abs=1e-9)
    assert list(means(values, CUTOFFS).values()) == pytest.approx(values.mean(axis=0))


@pytest.mark.parametrize("cutoffs", [[], [0], [-1], [1.0], [True], ["10"]])
def test_a_cutoff_is_a_rank(cutoffs):
    with pytest.raises(ConfigurationError, match="cutoffs"):
        check_cutoffs(cutoffs)


def test_cutoffs_are_put_in_order():
    assert check_cutoffs([10, 1, 10]) == (1, 10)


def test_more_answers_than_ranks():
    """Three answers, of which the two best are ideal at 2; and a cutoff far behind the last rank, for which no array is as long."""
    gains, relevant = np.array([[0, 2, 0, 1]]), [[1, 2, 1]]
    whole = metric_values(gains, relevant, [1, 2, 10])
    np.testing.assert_array_equal(metric_values(gains[:, :2], relevant, [1, 2]), whole[:, :10])
    np.testing.assert_array_equal(metric_values(gains, relevant, [10**13]), whole[:, 10:])
