"""Evaluation through the `evaluate` module, its files, the comparison of two, and where the module is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.evaluation import (
    METRIC_FILE,
    bootstrap_interval,
    evaluate_run,
    load_evaluation,
    load_metric,
    paired_difference,
)
from e5ft.retrieval.metrics import run_metrics
from e5ft.retrieval.sets import RetrievalSet

ROOT = Path(__file__).parents[2]
PASSAGES = ["d1", "d2", "d3", "d4"]


def a_set(qrels, name="small"):
    return RetrievalSet(
        name=name,
        query_ids=StringColumn(qrels),
        queries=StringColumn(["질문"] * len(qrels)),
        passage_ids=StringColumn(PASSAGES),
        passages=StringColumn(["문서"] * len(PASSAGES)),
        qrels=qrels,
    )


QRELS = {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}, "q3": {"d4": 1}, "q4": {"d4": 0}}
GOOD = {"q1": {"d2": 0.9, "d1": 0.8, "d3": 0.1}, "q2": {"d3": 0.5}, "q3": {"d1": 0.4, "d4": 0.4}}
POOR = {"q1": {"d3": 0.9, "d1": 0.8}, "q2": {"d1": 0.5}}

judgements = st.dictionaries(st.sampled_from(PASSAGES), st.integers(0, 2), min_size=1)
some_runs = st.dictionaries(
    st.sampled_from(["q1", "q2"]), st.dictionaries(st.sampled_from(PASSAGES), st.sampled_from([0.0, 0.5, 1.0]))
)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(qrels=st.fixed_dictionaries({"q1": judgements, "q2": judgements, "q3": st.just({"d1": 1})}), run=some_runs)
def test_the_module_gives_what_the_functions_give(qrels, run):
    evaluation = evaluate_run(a_set(qrels), run, [1, 3], "x", samples=10)
    assert (evaluation.metrics, evaluation.per_query) == run_metrics(run, qrels, [1, 3])


def test_what_an_evaluation_holds():
    evaluation = evaluate_run(a_set(QRELS), GOOD, [10, 1], "good")
    assert (evaluation.set_name, evaluation.label, evaluation.passages, evaluation.run) == ("small", "good", 4, GOOD)
    assert list(evaluation.per_query) == ["q1", "q2", "q3"]  # q4 has no relevant passage
    assert evaluation.metrics["mrr@10"] == pytest.approx((1 + 1 + 1 / 2) / 3)  # q3: a tie, d1 before d4
    for name, interval in evaluation.intervals.items():
        assert interval == pytest.approx(bootstrap_interval([values[name] for values in evaluation.per_query.values()]))


def test_saved_and_loaded_again(tmp_path):
    for run, label in ((POOR, "poor"), (GOOD, "기본 모델")):  # the second replaces the first
        evaluation = evaluate_run(a_set(QRELS), run, [1, 10], label)
        evaluation.save(tmp_path / "eval" / "base")
        assert load_evaluation(tmp_path / "eval" / "base") == evaluation
    assert sorted(path.name for path in (tmp_path / "eval" / "base").iterdir()) == ["metrics.json", "per_query.jsonl", "run.trec"]
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["base"]


def test_a_broken_folder_is_named(tmp_path):
    evaluate_run(a_set(QRELS), GOOD, [1], "x").save(tmp_path / "e")
    (tmp_path / "e" / "metrics.json").write_text('{"set": "small"}')
    with pytest.raises(DataError, match=r"metrics\.json: not as an evaluation is saved"):
        load_evaluation(tmp_path / "e")
    (tmp_path / "e" / "per_query.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"per_query\.jsonl:1: not JSON"):
        load_evaluation(tmp_path / "e")
    with pytest.raises(DataError, match="cannot be read"):
        load_evaluation(tmp_path / "nothing")


def test_a_run_of_another_set_is_refused():
    with pytest.raises(DataError, match="the query 'q9'"):
        evaluate_run(a_set(QRELS), {"q9": {"d1": 1.0}}, [1], "x")
    with pytest.raises(DataError, match="the passage 'd8'.*2 such"):
        evaluate_run(a_set(QRELS), {"q1": {"d9": 1.0, "d1": 1.0, "d8": 0.5}}, [1], "x")


def test_cutoffs_are_checked():
    with pytest.raises(ConfigurationError, match="cutoffs"):
        evaluate_run(a_set(QRELS), GOOD, [], "x")


def test_paired_difference_is_a_minus_b():
    good, poor = (evaluate_run(a_set(QRELS), run, [1], label, samples=10) for run, label in ((GOOD, "good"), (POOR, "poor")))
    difference = paired_difference(good, poor, "hit@1")
    assert difference.mean == pytest.approx(2 / 3)
    assert (difference.low, difference.high) == bootstrap_interval([1.0, 1.0, 0.0])
    # signs of (1, 1, 0): half of the patterns reach |2|
    assert difference.p_value == pytest.approx(0.5, abs=0.02)
    opposite = paired_difference(poor, good, "hit@1")
    assert opposite.mean == -difference.mean and opposite.p_value == difference.p_value


def test_what_does_not_compare_is_refused():
    one = evaluate_run(a_set(QRELS), GOOD, [1], "one", samples=10)
    fewer = evaluate_run(a_set({"q1": QRELS["q1"]}), {}, [1], "two", samples=10)
    with pytest.raises(DataError, match="'q2' is in one only"):
        paired_difference(one, fewer, "hit@1")
    with pytest.raises(DataError, match="set_name"):
        paired_difference(one, evaluate_run(a_set(QRELS, "other"), GOOD, [1], "two", samples=10), "hit@1")
    with pytest.raises(ConfigurationError, match="no metric 'ndcg@10'"):
        paired_difference(one, one, "ndcg@10")


def test_the_module_loads_by_its_path():
    import evaluate

    metric = evaluate.load(str(METRIC_FILE), module_type="metric")
    references = [{"passage_ids": ["a"], "relevance": [1]}, {"passage_ids": ["a"], "relevance": [0]}]
    assert metric.compute(predictions=[["b", "a"], []], references=references, cutoffs=[2])["mrr@2"] == 0.5
    assert load_metric().compute(predictions=[["b", "a"], []], references=references)["recall@100"] == 1.0


SCRIPT = """
import socket
import sys
sys.modules["transformers"] = None  # evaluate imports it for its pipelines if it is there: seconds, and not wanted here
import evaluate
del sys.modules["transformers"]
def refuse(*arguments, **options):
    raise SystemExit(f"network: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
from e5ft.retrieval.evaluation import load_metric
references = [{"passage_ids": ["a"], "relevance": [1]}]
print(load_metric().compute(predictions=[["a"]], references=references, cutoffs=[1])["ndcg@1"])
"""


def start(cache):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_several_processes_fill_a_cold_cache_without_network(tmp_path):
    processes = [start(tmp_path), start(tmp_path)]
    results = [(*process.communicate(), process.returncode) for process in processes]
    for output, errors, code in results:
        assert (output, code) == ("1.0\n", 0), errors
        assert "in place" not in errors
    assert list(tmp_path.rglob("retrieval_metrics.py")), "both went through evaluate's cache"
    assert not list(tmp_path.rglob("*.arrow*"))


def test_an_unwritable_cache_is_no_obstacle(tmp_path, monkeypatch, caplog):
    import evaluate

    (tmp_path / "file").write_text("")  # where the cache's parent folder should be; root may write into any real folder
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "file" / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert evaluate_run(a_set(QRELS), GOOD, [1], "x", samples=10).metrics["hit@1"] == pytest.approx(2 / 3)
    assert "imported in place" in caplog.text
