"""per_query.jsonl: texts, ranks and scores of the answers, and the passages found first."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.per_query import SHOWN
from e5ft.retrieval.sets import RetrievalSet
from tests.retrieval.conftest import make_run

PASSAGES = {f"d{i}": f"답변 {i}번" for i in range(8)}
QUERIES = {"q1": "연차는\u2028며칠?", "q2": '<b>"VPN"</b>', "q3": "판정이 없는 질문"}
QRELS = {"q1": {"d1": 1, "d2": 2, "d3": 0}, "q2": {"d7": 1, "gone": 1}, "q3": {"d0": 0}}
RUN = {"q1": {f"d{i}": 1 - i / 10 for i in range(7)}, "q2": {"d4": 0.5}}


def make_set(qrels) -> RetrievalSet:
    columns = (StringColumn(part) for each in (QUERIES, PASSAGES) for part in (each, each.values()))
    return RetrievalSet("문답", *columns, qrels)


def saved(folder, qrels, scores, cutoffs=(1, 6)) -> list[dict]:
    retrieval_set = make_set(qrels)
    evaluate_run(retrieval_set, make_run(retrieval_set, scores), cutoffs, "model", samples=2).save(folder)
    return [json.loads(line) for line in (folder / "per_query.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_line_holds_the_texts_the_answers_and_what_was_found_first(tmp_path):
    first, second = saved(tmp_path / "run", QRELS, RUN)  # q3 has no answer and is not scored
    metrics = {f"{name}@{k}" for k in (1, 6) for name in ("hit", "recall", "mrr", "ndcg", "map")}
    assert first.keys() == {"query", "text", "answers", "top"} | metrics
    assert (first["query"], first["text"]) == ("q1", QUERIES["q1"]) and second["text"] == QUERIES["q2"]
    assert first["answers"] == [
        {"id": "d2", "grade": 2, "rank": 3, "score": pytest.approx(0.8), "text": "답변 2번"},
        {"id": "d1", "grade": 1, "rank": 2, "score": pytest.approx(0.9), "text": "답변 1번"},
    ]
    assert [(each["id"], each["text"]) for each in first["top"]] == [(f"d{i}", f"답변 {i}번") for i in range(SHOWN)]
    assert second["answers"] == [
        {"id": "d7", "grade": 1, "rank": None, "score": None, "text": "답변 7번"},
        {"id": "gone", "grade": 1, "rank": None, "score": None, "text": None},  # judged, but no passage of the corpus
    ]
    assert second["top"] == [{"id": "d4", "score": 0.5, "text": "답변 4번"}]


@given(st.data())
def test_ranks_are_those_that_the_metrics_and_the_run_file_go_by(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run") / "eval"
    grades = st.dictionaries(st.sampled_from([*PASSAGES, "gone"]), st.integers(0, 2), max_size=4)
    scores = st.dictionaries(st.sampled_from(list(PASSAGES)), st.sampled_from([0.25, 0.5, 0.75]), max_size=8)
    qrels = {query: data.draw(grades) for query in QUERIES} | {"q1": {"d1": 1}}
    lines = saved(folder, qrels, {query: data.draw(scores) for query in QUERIES}, cutoffs=(3,))
    trec = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    for line in lines:
        found = {passage: (int(rank), float(score)) for query, _, passage, rank, score, _ in trec if query == line["query"]}
        assert [(each["id"], each["score"]) for each in line["top"]] == [(p, score) for p, (_, score) in found.items()]
        assert {each["id"]: each["grade"] for each in line["answers"]} == {p: g for p, g in qrels[line["query"]].items() if g}
        for answer in line["answers"]:
            assert (answer["rank"], answer["score"]) == found.get(answer["id"], (None, None))
        ranks = [each["rank"] for each in line["answers"] if each["rank"] is not None]
        assert line["mrr@3"] == (1 / min(ranks) if ranks else 0)
