"""The module that `evaluate.load` takes: the figures of the numeric path."""

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import DataError
from e5ft.retrieval import retrieval_metrics
from e5ft.retrieval.evaluation import evaluate_run
from tests.retrieval.conftest import make_run, make_set

PASSAGES = ["d1", "d2", "d3", "d4"]
judgements = st.dictionaries(st.sampled_from(PASSAGES), st.integers(0, 2), min_size=1)
some_runs = st.dictionaries(
    st.sampled_from(["q1", "q2"]), st.dictionaries(st.sampled_from(PASSAGES), st.sampled_from([0.0, 0.5, 1.0]))
)


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(retrieval_metrics.__file__, module_type="metric", keep_in_memory=True)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(qrels=st.fixed_dictionaries({"q1": judgements, "q2": judgements, "q3": st.just({"d1": 1})}), scores=some_runs)
def test_the_module_gives_what_an_evaluation_gives(metric, qrels, scores):
    retrieval_set = make_set(qrels)
    run = make_run(retrieval_set, scores)
    evaluation = evaluate_run(retrieval_set, run, [1, 3], "x", samples=10)
    result = metric.compute(
        predictions=[[PASSAGES[index] for index in row if index >= 0] for row in run[1]],
        references=[{"passage_ids": list(judged), "relevance": list(judged.values())} for judged in qrels.values()],
        cutoffs=[1, 3],
        per_query=True,
    )
    per_query = [list(values.values()) for values in result.pop("per_query") if values is not None]
    assert result == evaluation.metrics and np.array_equal(per_query, evaluation.values)


def test_faulty_input_is_named(metric):
    with pytest.raises(DataError, match="'b' must not be ranked twice"):
        metric.compute(predictions=[["a", "b", "b"]], references=[{"passage_ids": ["a"], "relevance": [1]}])
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute(predictions=[["a"]], references=[{"passage_ids": ["a"], "relevance": [0]}])
