"""Runs from vectors and from BM25, and as TREC files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.metrics import ordered
from e5ft.retrieval.runs import bm25_run, dense_run, read_trec, write_trec
from e5ft.retrieval.sets import RetrievalSet


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


def test_dense_run_names_ids_and_scores(small):
    queries = np.array([[1, 0], [0, 1]], np.float32)
    passages = np.array([[0.5, 0.25], [1, 0], [0.5, 1]], np.float32)
    assert dense_run(queries, passages, small, 2) == {"q1": {"d2": 1.0, "d1": 0.5}, "q2": {"d3": 1.0, "d1": 0.25}}
    assert {len(scores) for scores in dense_run(queries, passages, small, 99).values()} == {3}


def test_vectors_of_another_set_are_refused(small):
    with pytest.raises(
        ConfigurationError, match="2 query and 2 passage vectors do not go with the set 'small' of 2 queries and 3"
    ):
        dense_run(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), small, 1)


def test_bm25_run(small):
    run = bm25_run(small, 5)
    assert list(run) == ["q1", "q2"]
    assert ordered(run["q1"]) == ["d3", "d2"] and run["q2"] == {}
    assert bm25_run(small, 5, "words") == {"q1": {}, "q2": {}}


ids = st.text(alphabet="ab가나-_/", min_size=1, max_size=5)
scores = st.floats(allow_nan=False, width=64)


@settings(deadline=None, derandomize=True)
@given(run=st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1), max_size=4), tag=st.text(max_size=6))
def test_a_run_file_gives_the_run_back(tmp_path_factory, run, tag):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_trec(path, run, tag)
    assert read_trec(path) == run
    for line in path.read_text(encoding="utf-8").splitlines():
        assert len(line.split()) == 6


def test_the_lines_are_trecs(tmp_path):
    write_trec(tmp_path / "r", {"q": {"b": 1.0, "a": 1.0, "c": 2.5}}, "my model")
    assert (tmp_path / "r").read_text().splitlines() == [
        "q Q0 c 1 2.5 my_model", "q Q0 a 2 1.0 my_model", "q Q0 b 3 1.0 my_model",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["q Q0 d 2 0.5", "q Q0 d 2 high t", "q Q0 d 2 nan t", ""])
def test_a_faulty_line_is_named(tmp_path, line):
    (tmp_path / "r").write_text(f"q Q0 a 1 1.0 t\n{line}\n")
    with pytest.raises(DataError, match="r:2: `query Q0 passage rank score tag`"):
        read_trec(tmp_path / "r")


def test_a_passage_twice_and_a_missing_file(tmp_path):
    (tmp_path / "r").write_text("q Q0 a 1 1.0 t\nq Q0 a 2 0.5 t\n")
    with pytest.raises(DataError, match="r:2: passage 'a' stands twice"):
        read_trec(tmp_path / "r")
    with pytest.raises(DataError, match="no such run file"):
        read_trec(tmp_path / "nothing")
