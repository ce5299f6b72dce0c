"""Runs from vectors and from BM25, and as TREC files."""

import numpy as np
import pytest

from e5ft.errors import ConfigurationError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.runs import bm25_run, dense_run, write_trec
from e5ft.retrieval.sets import RetrievalSet
from tests.retrieval.conftest import make_run, make_set


@pytest.fixture
def small():
    return RetrievalSet(
        name="small",
        query_ids=StringColumn(["q1", "q2"]),
        queries=StringColumn(["서울은 어디", "없는말"]),
        passage_ids=StringColumn(["d1", "d2", "d3"]),
        passages=StringColumn(["부산에서", "서울에서", "서울"]),
        qrels={"q1": {"d2": 1}, "q2": {"d1": 1}},
    )


def test_dense_run(small):
    queries = np.array([[1, 0], [0, 1]], np.float32)
    passages = np.array([[0.5, 0.25], [1, 0], [0.5, 1]], np.float32)
    scores, indices = dense_run(queries, passages, small, 2)
    assert scores.tolist() == [[1.0, 0.5], [1.0, 0.25]] and indices.tolist() == [[1, 0], [2, 0]]
    with pytest.raises(
        ConfigurationError, match="2 query and 2 passage vectors do not go with the set 'small' of 2 queries and 3"
    ):
        dense_run(queries, passages[:2], small, 1)


def test_candidates_are_scored_again_by_other_queries(small):
    """Four candidates a passage asked for; none beyond them, however high the other queries score it."""
    passages = np.array([[0.5, 0.25], [1, 0], [0.5, 1]], np.float32)
    first, again = np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1], [2, 1]], np.float32)
    scores, indices = dense_run(first, passages, small, 2, rescored_by=again)
    assert scores.tolist() == [[1.0, 0.25], [2.0, 2.0]] and indices.tolist() == [[2, 0], [1, 2]]
    many = np.array([[i, -i] for i in range(6)], np.float32)
    six = make_set({"q": {"d1": 1}}, [f"d{i}" for i in range(6)])
    run = dense_run(np.array([[1, 0]], np.float32), many, six, 1, rescored_by=np.array([[0, 1]], np.float32))
    assert run[1].tolist() == [[2]]


def test_bm25_run(small):
    assert bm25_run(small, 5)[1].tolist() == [[2, 1, -1], [-1, -1, -1]]
    assert (bm25_run(small, 5, "words")[1] == -1).all()


def test_the_lines_are_trecs(tmp_path):
    """A tie in id order, a query without a result, and a tag of one word."""
    retrieval_set = make_set({"p": {}, "q": {}}, ["a", "b", "c"])
    run = make_run(retrieval_set, {"q": {"b": 1.0, "a": 1.0, "c": 0.1}})
    write_trec(tmp_path / "r", retrieval_set, run, " my model\n")
    assert (tmp_path / "r").read_text().splitlines() == [
        "q Q0 a 1 1.0 my_model", "q Q0 b 2 1.0 my_model", "q Q0 c 3 0.10000000149011612 my_model",
    ]  # fmt: skip
    write_trec(tmp_path / "r", retrieval_set, run, " ")
    assert (tmp_path / "r").read_text().split()[5] == "run"
