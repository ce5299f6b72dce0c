"""What a training's end says as figures and tables: each is what the summary, or the query's line, has."""

import math

import pytest

from e5ft.reporting.final_figures import CHANGES, figures, tables
from e5ft.reporting.record import Run
from e5ft.retrieval.comparison import Scores
from e5ft.retrieval.evaluation import evaluate_run
from tests.retrieval.conftest import make_run, make_set

QRELS = {f"q{i}": {"d1": 1} for i in range(6)}
RANKS = {"before": (1, 2, 4, None, 3, 1), "after": (1, 1, 1, 2, None, 3)}  # of d1, a query


def evaluation(when, label=None):
    retrieval_set = make_set(QRELS)
    scores = {}
    for query, rank in zip(QRELS, RANKS[when], strict=True):
        others = ["d2", "d3", "d4"]
        order = others[: (rank or 4) - 1] + (["d1"] if rank else []) + others[(rank or 4) - 1 :]
        scores[query] = {passage: 1 - place / 10 for place, passage in enumerate(order)}
    return evaluate_run(retrieval_set, make_run(retrieval_set, scores), [1, 10], label or when, samples=20)


def run_of(tmp_path, before, after, **summary):
    """A run's folder of what was measured."""
    before.save(tmp_path / "eval/small/base")
    after.save(tmp_path / "eval/small/final")
    return Run(tmp_path, {"test_set": "small", **summary}, "", ())


def summary_of(scores):
    return {"scores": scores.record(), "differences": scores.differences(0)}


def test_the_queries_with_the_largest_changes_come_first_and_no_more_than_asked_for(tmp_path, monkeypatch):
    before, after = evaluation("before"), evaluation("after")
    run = run_of(tmp_path, before, after, **summary_of(Scores(before, None, after)))
    (head, *won), (_, *lost) = (tables(run)[name] for name in ("won", "lost"))
    assert tuple(head) == CHANGES
    gains = 1 - 1 / math.log2(5), 1 / math.log2(3), 1 - 1 / math.log2(3)  # from rank 4, to rank 2, from rank 2
    assert [(pytest.approx(row[1]), row[2], row[3]) for row in won] == [(gains[1], None, 2), (gains[0], 4, 1), (gains[2], 2, 1)]
    assert [(row[2], row[3]) for row in lost] == [(3, None), (1, 3)] and all(row[1] < 0 for row in lost)
    assert {row[4] for row in won} == {"글"} and all(len(row) == len(CHANGES) for row in won + lost)
    monkeypatch.setattr("e5ft.reporting.final_figures.MOST", 1)
    assert [tables(run)[name][1:] for name in ("won", "lost")] == [won[:1], lost[:1]]
    run = run_of(tmp_path, before, before, **summary_of(Scores(before, None, before)))
    assert tables(run)["won"] == tables(run)["lost"] == [list(CHANGES)]


def test_figures_and_the_closing_table_are_the_summary_s(tmp_path):
    scores = Scores(evaluation("before"), evaluation("before", "BM25 (auto)"), evaluation("after"))
    effect = {"queries": 6, "answered": 1.0}
    verdict = {"word": "UNDECIDED", "costs_elsewhere": False, "reason": "6 test queries", "base_kept": False, "keep": {}}
    verdict |= {"metric": "ndcg@10", "set": "small", "against": "before", "mean": 0.1, "low": 0, "high": 0.2, "p": 0.5}
    summary = {
        "scores": scores.record(),
        "differences": scores.differences(0),
        "keep": [{"set": "law", "scores": scores.record()}],
        "threshold": {"value": 0.5, "dev": effect, "test": effect},
        "verdict": verdict,
    }
    found, after = figures(summary), scores.after.metrics
    assert {name.removeprefix("test/"): value for name, value in found.items() if name.startswith("test/")} == after
    assert found["keep/law/mrr@10"] == after["mrr@10"] and found["threshold"] == 0.5 and found["verdict"] == "UNDECIDED"
    assert found["before/hit@1"] == found["bm25/hit@1"] == scores.before.metrics["hit@1"] and "hybrid/hit@1" not in found
    gain = scores.after.metrics["ndcg@10"] - scores.before.metrics["ndcg@10"]
    assert found["gain/ndcg@10"] == pytest.approx(gain) and found["gain/ndcg@10/low"] <= gain <= found["gain/ndcg@10/high"]
    closing = tables(run_of(tmp_path, scores.before, scores.after, **summary))["closing"]
    assert [row[0] for row in closing] == ["system", "before", "BM25 (auto)", "after", "gain"]
    assert closing[0][1:4] == ["hit@1", "hit@1 low", "hit@1 high"] and {len(row) for row in closing} == {13}
    assert closing[3][1] == after["hit@1"] and closing[4][7] == pytest.approx(gain)
    assert "threshold" not in figures({**summary, "threshold": None})
