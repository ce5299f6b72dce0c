"""Evaluations: what they hold and write, and models measured whole, cut and while training."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.evaluation import (
    dimensions,
    evaluate_run,
    evaluator,
    kept_vectors,
    of_queries,
    score_bm25,
    score_model,
    score_sizes,
)
from e5ft.retrieval.hybrid import DevSet, Weight
from e5ft.retrieval.runs import bm25_run
from e5ft.retrieval.sets import RetrievalSet, subsample
from e5ft.retrieval.significance import mean_intervals
from e5ft.retrieval.small_vectors import Centre
from tests.conftest import WORDS, make_encoder
from tests.retrieval.conftest import make_run, make_set

QRELS = {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}, "q3": {"d4": 1}, "q4": {"d4": 0}}
GOOD = {"q1": {"d2": 0.9, "d1": 0.8, "d3": 0.1}, "q2": {"d3": 0.5}, "q3": {"d1": 0.4, "d4": 0.4}, "q4": {"d1": 1.0}}
SETTINGS = SimpleNamespace(
    cutoffs=[10, 1], bm25="words", hybrid_weight="auto", batch_tokens=256, intervals=20, dimensions=[8, 32], precisions=[]
)


@pytest.fixture
def good():
    retrieval_set = make_set(QRELS)
    return evaluate_run(retrieval_set, make_run(retrieval_set, GOOD), [10, 1], "기본 모델")


@pytest.fixture(scope="module")
def words():
    """Ten passages of words, and queries that share some with one of them; the last query has no relevant passage."""
    passages = [" ".join(WORDS[5 * i : 5 * i + 5]) for i in range(10)]
    ids = [f"q{i}" for i in range(10)]
    return RetrievalSet(
        "words", StringColumn(ids), StringColumn(text[:5] for text in passages),
        StringColumn(f"d{i}" for i in range(10)), StringColumn(passages),
        {name: {f"d{i}": int(i < 9)} for i, name in enumerate(ids)},
    )  # fmt: skip


def test_the_evaluation_of_some_queries_is_that_of_a_set_with_them_alone(good):
    part = of_queries(good, np.array([0, 2, 3]))
    qrels = {query: QRELS[query] for query in ("q1", "q3", "q4")}
    smaller = make_set(qrels)
    alone = evaluate_run(smaller, make_run(smaller, {query: GOOD[query] for query in qrels}), [10, 1], "기본 모델")
    assert (part.metrics, part.intervals, part.passages) == (alone.metrics, alone.intervals, 4)
    assert list(part.retrieval_set.query_ids) == ["q1", "q3", "q4"] and part.scored.tolist() == [0, 1]
    np.testing.assert_array_equal(part.run[1], alone.run[1])


def test_what_an_evaluation_holds(good):
    assert (good.set_name, good.label, good.passages, good.cutoffs) == ("small", "기본 모델", 4, (1, 10))
    assert good.scored.tolist() == [0, 1, 2]  # q4 has no relevant passage
    assert good.metrics["mrr@10"] == pytest.approx((1 + 1 + 1 / 2) / 3)  # q3: a tie, d1 before d4
    assert good.metrics["hit@1"] == 2 / 3 and good.metrics["recall@1"] == pytest.approx(0.5)
    np.testing.assert_allclose(list(good.intervals.values()), mean_intervals(good.values, level=0.95))


def test_a_query_without_results_counts_as_zero():
    retrieval_set = make_set(QRELS)
    assert evaluate_run(retrieval_set, make_run(retrieval_set, {"q2": {"d3": 1.0}}), [5], "x").metrics["ndcg@5"] == 1 / 3


def test_a_set_whose_relevant_passages_are_not_in_the_corpus_scores_zero(good):
    """As a half of a small keep set may be."""
    retrieval_set = make_set({"q1": {"gone": 1}, "q2": {"d3": 1}})
    run = make_run(retrieval_set, {"q1": {"d1": 1.0}, "q2": {"d3": 1.0}})
    whole = evaluate_run(retrieval_set, run, [5], "x")
    assert of_queries(whole, np.array([0])).metrics["ndcg@5"] == 0 and of_queries(whole, np.array([1])).metrics["ndcg@5"] == 1


def test_the_files(good, tmp_path):
    for _ in range(2):  # the second replaces the first
        good.save(tmp_path / "eval" / "base")
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["base"]
    files = {path.name: path.read_text() for path in (tmp_path / "eval" / "base").iterdir()}
    assert sorted(files) == ["metrics.json", "per_query.jsonl", "run.trec"]
    summary = json.loads(files["metrics.json"])
    assert (summary["set"], summary["label"], summary["queries"], summary["passages"]) == ("small", "기본 모델", 3, 4)
    assert summary["metrics"] == good.metrics and summary["interval_level"] == 0.95
    assert {name: tuple(ends) for name, ends in summary["intervals"].items()} == good.intervals
    rows = [json.loads(line) for line in files["per_query.jsonl"].splitlines()]
    assert [row.pop("query") for row in rows] == ["q1", "q2", "q3"]
    assert [[row[name] for name in good.metrics] for row in rows] == good.values.tolist()
    assert files["run.trec"].splitlines()[3:5] == ["q2 Q0 d3 1 0.5 기본_모델", "q3 Q0 d1 1 0.4000000059604645 기본_모델"]


def test_cutoffs_are_checked():
    retrieval_set = make_set(QRELS)
    with pytest.raises(ConfigurationError, match="cutoffs"):
        evaluate_run(retrieval_set, make_run(retrieval_set, {}), [], "x")
    with pytest.raises(DataError, match="nothing to score"):
        evaluate_run(make_set({"q": {"d1": 0}}), make_run(make_set({"q": {}}), {}), [1], "x")


def test_at_the_end_and_while_training_the_figures_are_the_same(words, tmp_path):
    encoder = make_encoder()
    whole, small = score_sizes(encoder, words, SETTINGS, "model", cache=tmp_path)
    measured = evaluator(words, SETTINGS)(encoder)
    expected = {**whole.metrics, **{f"8d_{name}": value for name, value in small["8d"].metrics.items()}}
    assert list(small) == ["8d"] and measured == expected and set(whole.values[:, 1]) == {0.0, 1.0}
    assert small["8d"].label == "model, first 8 dimensions" and small["8d"].metrics != whole.metrics
    assert (whole.bytes_per_passage, small["8d"].bytes_per_passage) == (128, 32)
    assert score_model(encoder, words, SETTINGS, "model").metrics == whole.metrics


def test_bytes_and_bits_are_measured_beside_whole_vectors(words, tmp_path):
    """Bits are about the set's own centre, or the one given; float queries against them are ranked as by hand."""
    encoder = make_encoder()
    settings = SimpleNamespace(**{**vars(SETTINGS), "dimensions": [16], "precisions": ["int8", "binary"]})
    passages, queries = encoder.encode(words.passages, "passage"), encoder.encode(words.queries, "query")
    given = Centre(np.zeros(32, np.float32), "nowhere", 1)
    for centre, about in ((None, passages.mean(axis=0)), (given, given.vector)):
        whole, small = score_sizes(encoder, words, settings, "m", cache=tmp_path, centre=centre)
        assert list(small)[:4] == ["int8", "int8_rescored", "binary", "binary_rescored"] and len(small) == 9
        for key, size in (("binary_rescored", 32), ("16d_binary_rescored", 16)):
            scores = (queries - about)[:, :size] @ np.where(passages > about, 1, -1)[:, :size].T
            np.testing.assert_allclose(small[key].run[0], -np.sort(-scores, axis=1), rtol=0, atol=1e-5)
            assert small[key].bytes_per_passage == size // 8
    assert small["16d_int8"].label == "m, first 16 dimensions, int8" and small["int8"].bytes_per_passage == 32
    products = np.take_along_axis(queries @ passages.T, small["int8"].run[1], axis=1)
    assert (np.diff(products, axis=1) <= 0.02).all()  # the order of float32, up to half a step's error
    assert list(small["int8"].metrics) == list(whole.metrics)
    small["binary"].save(tmp_path / "binary")
    assert json.loads((tmp_path / "binary/metrics.json").read_text())["bytes_per_passage"] == 4
    assert of_queries(small["binary"], np.array([0, 1])).bytes_per_passage == 4


def test_vectors_that_scores_have_kept_serve_a_part_of_the_set(words, tmp_path, monkeypatch):
    encoder, part = make_encoder(), subsample(words, 3, 4)
    score_model(encoder, words, SETTINGS, "model", cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(encoder), "encode", None)  # nothing is encoded again
        vectors = kept_vectors(encoder, part, words, SETTINGS, tmp_path)
    assert 4 <= len(part.passages) < len(words.passages)
    np.testing.assert_allclose(vectors, encoder.encode(part.passages, "passage"), rtol=0, atol=1e-6)
    assert evaluator(part, SETTINGS, vectors)(encoder) == evaluator(part, SETTINGS)(encoder)


def test_the_lexical_reference(words):
    evaluation = score_bm25(words, SETTINGS)
    assert evaluation.label == "BM25 (words)" and evaluation.metrics["hit@1"] == 1.0
    assert score_bm25(words, SimpleNamespace(bm25=None)) is None


def test_a_model_together_with_bm25_at_the_weight_that_is_best_on_dev(words, monkeypatch):
    """The dev set is a part of the set's passages: its queries alone are encoded. The words alone find everything."""
    encoder, encoded = make_encoder(), []
    plain = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda texts, role, **how: encoded.append((role, len(texts))) or plain(texts, role, **how)
    )
    bm25 = score_bm25(words, SETTINGS)
    dev = dataclasses.replace(
        words,
        name="dev",
        passage_ids=words.passage_ids.take(range(9)),
        passages=words.passages.take(range(9)),
    )
    of_dev = DevSet(dev, bm25_run(dev, 100, "words"))
    whole, small = score_sizes(encoder, words, SETTINGS, "model", bm25=bm25, weight=of_dev)
    assert encoded == [("passage", 10), ("query", 10), ("query", 10)]
    weight = whole.hybrid.weight
    assert weight.source == "chosen on dev" and list(weight.curve) == [tenth / 10 for tenth in range(11)]
    assert weight.value == max((w for w in weight.curve if weight.curve[w] == 1.0), key=lambda w: (-abs(w - 0.7), w)) < 1
    for given in weight.curve:
        fixed = score_model(encoder, dev, SETTINGS, "m", bm25=score_bm25(dev, SETTINGS), weight=Weight(given, "given")).hybrid
        assert fixed.metrics["ndcg@10"] == weight.curve[given] and fixed.weight.value == given
    assert whole.hybrid.label == weight.label and whole.hybrid.metrics["hit@1"] == 1.0 > whole.metrics["hit@1"]
    assert whole.metrics == score_model(encoder, words, SETTINGS, "model").metrics and small["8d"].hybrid is None


def test_of_a_run_that_is_deeper_the_file_holds_what_is_measured(words, tmp_path):
    evaluation = score_bm25(words, SimpleNamespace(**{**vars(SETTINGS), "cutoffs": [1]}))
    assert evaluation.run[1].shape == (10, 10)
    evaluation.save(tmp_path / "bm25")
    assert {line.split()[3] for line in (tmp_path / "bm25/run.trec").read_text().splitlines()} == {"1"}


@pytest.mark.parametrize("chosen", [[0], [33], [True], [8.0]])
def test_dimensions_are_the_model_s(chosen):
    with pytest.raises(ConfigurationError, match="must be whole numbers from 1 to 32"):
        dimensions(SimpleNamespace(dimensions=chosen), 32)
    assert dimensions(SimpleNamespace(dimensions=[8, 16, 8, 1, 32]), 32) == [16, 8, 1]
