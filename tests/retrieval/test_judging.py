"""Identical ids, judgements without a passage or query, and passages of one text, against pytrec_eval and BEIR's rule."""

import json

import numpy as np
import pytest
import pytrec_eval

from e5ft.errors import DataError
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.judging import Counts
from e5ft.retrieval.runs import bm25_run, dense_run
from e5ft.retrieval.sets import load_beir, shrink_corpus, subsample

NAMES = {"ndcg@5": "ndcg_cut_5", "recall@5": "recall_5", "map@5": "map_cut_5", "hit@5": "success_5"}


@pytest.fixture
def load(tmp_path):
    """Write a set {id: text}, {id: text}, [(query, passage, relevance)] in BEIR's layout and load it."""

    def write(corpus, queries, qrels, title=""):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        texts = ({"_id": name, "title": title, "text": text} for name, text in corpus.items())
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
        (tmp_path / "queries.jsonl").write_text(
            "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in queries.items())
        )
        (tmp_path / "qrels/test.tsv").write_text("".join("\t".join(map(str, line)) + "\n" for line in qrels))
        return load_beir(tmp_path, "test")

    return write


def reference(scores, query_ids, passage_ids, qrels, *, leave_out=True):
    """pytrec_eval's means of a whole ranking from which BEIR's `ignore_identical_ids` has popped what it pops."""
    judged = {}
    for query_id, passage_id, relevance in qrels:
        judged.setdefault(query_id, {})[passage_id] = relevance
    run = {
        query_id: {p: float(s) for p, s in zip(passage_ids, row, strict=True) if not (leave_out and p == query_id)}
        for query_id, row in zip(query_ids, scores, strict=True)
    }
    values = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.5", "recall.5", "map_cut.5", "success.5"}).evaluate(run)
    return {ours: np.mean([of[theirs] for of in values.values()]) for ours, theirs in NAMES.items()}


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_pytrec_evals(load, seed):
    """Queries that are passages (half of them judged relevant to themselves), absent passages, absent queries."""
    generator = np.random.default_rng(seed)
    corpus = {f"a{i}": f"text {i}" for i in range(12)}
    queries = {f"a{i}": f"text {i}" for i in range(4)} | {f"q{i}": f"ask {i}" for i in range(4)}
    pairs = [
        (q, f"a{p}", int(generator.integers(0, 3)))
        for q in queries
        for p in generator.choice(14, 5, replace=False)
        if q != f"a{p}"
    ]
    pairs += [
        ("a0", "a0", 2),
        ("a1", "a1", 1),
        *((q, "a3", 1) for q in queries if (q, "a3") not in {p[:2] for p in pairs} and q != "a3"),
    ]
    loaded = load(corpus, queries, [*pairs, ("gone", "a1", 1), ("gone", "a2", 1)])
    vectors = [generator.standard_normal((len(ids), 8)).astype(np.float32) for ids in (loaded.queries, loaded.passages)]
    for row, name in enumerate(list(loaded.query_ids)[:4]):
        vectors[1][list(loaded.passage_ids).index(name)] = vectors[0][row]  # a text's vector is the same in both roles
    ours = evaluate_run(loaded, dense_run(*vectors, loaded, 5), [5], "x").metrics
    scores = vectors[0].astype(np.float64) @ vectors[1].T.astype(np.float64)
    theirs = reference(scores, loaded.query_ids, loaded.passage_ids, pairs)
    assert {name: ours[name] for name in NAMES} == pytest.approx(theirs, abs=1e-6)
    assert theirs != pytest.approx(reference(scores, loaded.query_ids, loaded.passage_ids, pairs, leave_out=False), abs=1e-3)
    absent = sum(relevance > 0 and passage not in corpus for _, passage, relevance in pairs)
    assert loaded.counts == Counts(8, left_out=4, left_out_relevant=2, absent_passages=absent, absent_queries=1)


@pytest.mark.parametrize("title", ["", "a title"])
def test_bm25_and_cut_corpora_leave_a_query_out_of_its_own_ranking(load, title):
    corpus = {f"a{i}": f"word{i} word{i + 1} word{i + 2}" for i in range(20)}
    loaded = load(corpus, {f"a{i}": corpus[f"a{i}"] for i in range(10)}, [(f"a{i}", f"a{i + 1}", 1) for i in range(10)], title)
    for tried in (loaded, shrink_corpus(loaded, 13), subsample(loaded, 5, 12)):
        for depth in (1, 3, 50):
            scores, indices = bm25_run(tried, depth, "words")
            assert indices.shape == (len(tried.queries), min(depth, len(tried.passages))) == scores.shape
            names = list(tried.passage_ids)
            ranked = [[names[i] for i in row if i >= 0] for row in indices]
            assert all(query not in row and row for query, row in zip(tried.query_ids, ranked, strict=True))
            assert all(f"a{int(query[1:]) + 1}" in row for query, row in zip(tried.query_ids, ranked, strict=True) if depth > 1)
            assert ((indices < 0) == np.isneginf(scores)).all() and (scores[:, 1:] <= scores[:, :-1]).all()
    assert loaded.counts.lines() == ["10 of 10 queries are passages themselves: left out of their own ranking, as BEIR does"]


def test_ids_that_are_numbered_alike_keep_their_answers(load):
    """Question 1 is answered by passage 1: no query is a passage. Question 3 has its own number, and no answer there."""
    corpus = {str(i): f"answer {i}" for i in range(4)}
    loaded = load(
        corpus, {str(i): f"question {i}" for i in range(4)}, [("0", "0", 1), ("1", "1", 1), ("2", "2", 1), ("3", "0", 1)]
    )
    assert loaded.left_out == {"3": "3"} and (loaded.counts.kept, loaded.counts.left_out) == (3, 1)
    vectors = np.eye(4, dtype=np.float32)
    assert evaluate_run(loaded, dense_run(vectors, vectors, loaded, 4), [1], "x").metrics["hit@1"] == 1.0
    assert loaded.counts.lines() == [
        "1 of 4 queries have the id of a passage with another text: it is left out of their ranking, as BEIR does",
        "answers with their query's id and another text: 3, kept in its ranking",
    ]


@pytest.mark.parametrize(
    ("passage", "is_query"), [("안내 환불은 7일 안에", True), ("환불은 7일 안에 됩니다. 문의: 고객센터", False)]
)
def test_a_keyword_that_its_answer_ends_with_is_not_its_answer(load, passage, is_query):
    """Both numbered alike: the first is the query with a title before it, the second answers it."""
    query = "환불은 7일 안에" if is_query else "고객센터"
    loaded = load({"1": passage, "2": "다른 문서"}, {"1": query, "2": "다른 질문"}, [("1", "1", 1), ("2", "2", 1)])
    assert loaded.left_out == ({"1": "1"} if is_query else {}) and loaded.counts.left_out_relevant == is_query


def test_passages_of_one_text_are_one(load):
    """The smallest id stands for all, with the largest relevance; white space and Unicode's form do not make a text another."""
    corpus = {"d1": "가 나", "d2": "other", "d3": " 가  나", "d4": "\u1100\u1161 나", "d5": "last"}
    loaded = load(
        corpus, {"q1": "x", "q2": "y"}, [("q1", "d4", 2), ("q1", "d1", 0), ("q1", "d3", 1), ("q2", "d3", 1), ("q2", "d5", 1)]
    )
    assert list(loaded.passage_ids) == ["d1", "d2", "d5"] and list(loaded.passages) == ["가 나", "other", "last"]
    assert loaded.qrels == {"q1": {"d1": 2}, "q2": {"d1": 1, "d5": 1}}
    assert loaded.counts.copies == 2 and loaded.counts.lines() == [
        "passages with another passage's text: 2, each text is one passage"
    ]


def test_the_spelling_of_ids_decides_nothing(load):
    """Ten copies of a passage that beats the answer: the answer is second, whatever the ids are."""
    for copy in ("a{}", "z{}"):
        loaded = load({copy.format(i): "k k k" for i in range(10)} | {"m": "k l"}, {"q": "k"}, [("q", "m", 1)])
        assert evaluate_run(loaded, bm25_run(loaded, 10, "words"), [10], "x").metrics["mrr@10"] == 0.5


@pytest.mark.parametrize(("judged", "left_out"), [("other", {"a1": "a1"}), ("copy", {})])
def test_a_copy_of_the_query_under_another_id_is_ranked_only_where_it_is_an_answer(load, judged, left_out):
    corpus = {"a1": "the query", "copy": "the query", "other": "an answer"}
    loaded = load(corpus, {"a1": "the query"}, [("a1", judged, 1)])
    assert loaded.left_out == left_out and loaded.counts.copies == 1
    run = dense_run(np.ones((1, 2), np.float32), np.array([[2, 2], [1, 1]], np.float32), loaded, 2)
    assert evaluate_run(loaded, run, [1], "x").metrics["hit@1"] == 1.0


def test_absent_passages_stay_in_the_ideal_ranking_and_in_recalls_denominator(load):
    loaded = load({"d1": "a", "d2": "b"}, {"q": "a"}, [("q", "d1", 1), ("q", "gone", 1), ("q", "off", 0)])
    run = dense_run(np.eye(1, 2, dtype=np.float32), np.eye(2, dtype=np.float32), loaded, 2)
    metrics = evaluate_run(loaded, run, [5], "x").metrics
    assert metrics["recall@5"] == 0.5 and metrics["ndcg@5"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert loaded.counts.lines() == ["judged passages that the corpus lacks: 1, counted as never found, as pytrec_eval does"]


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("passage", r"test\.tsv:2: passage 'p9' is not in the corpus, as in 2 of 3"),
        ("query", r"test\.tsv:2: query 'p9' is not among"),
    ],
)
def test_files_of_several_sets_are_refused(load, absent, message):
    """Half may be missing, more may not; judgements of 0 say nothing."""
    names = [("q", "p9") if absent == "passage" else ("p9", "d1"), ("q", "p8") if absent == "passage" else ("p8", "d2")]
    irrelevant = [("q", f"x{i}", 0) for i in range(9)]
    judged = [("q", "d1", 1), (*names[0], 1), (*names[1], 1), *irrelevant]
    with pytest.raises(DataError, match=message):
        load({"d1": "a", "d2": "b"}, {"q": "a"}, judged)
    assert load({"d1": "a", "d2": "b"}, {"q": "a"}, [*judged[:2], *irrelevant]).counts.queries == 1
