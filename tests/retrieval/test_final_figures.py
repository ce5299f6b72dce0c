"""What a training's end says as figures and tables: each is what the summary, or the query's line, has."""

import pytest

from e5ft.retrieval.comparison import Scores
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.final_figures import CHANGES, changes, figures, tables
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


def test_the_queries_with_the_largest_changes_come_first_and_no_more_than_asked_for():
    before, after = evaluation("before"), evaluation("after")
    (head, *won), (_, *lost) = changes(before, after, "mrr@10")
    assert tuple(head) == CHANGES
    assert [(row[1], row[2], row[3]) for row in won] == [(0.75, 4, 1), (0.5, 2, 1), (0.5, None, 2)]
    assert [(pytest.approx(row[1]), row[2], row[3]) for row in lost] == [(-2 / 3, 1, 3), (-1 / 3, 3, None)]
    assert {row[4] for row in won} == {"글"} and all(len(row) == len(CHANGES) for row in won + lost)
    assert [rows[1:] for rows in changes(before, after, "mrr@10", most=1)] == [won[:1], lost[:1]]
    assert changes(before, before, "mrr@10") == ([list(CHANGES)], [list(CHANGES)])


def test_figures_and_the_closing_table_are_the_summary_s():
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
    closing = tables(summary, scores)["closing"]
    assert [row[0] for row in closing] == ["system", "before", "BM25 (auto)", "after", "gain"]
    assert closing[0][1:4] == ["hit@1", "hit@1 low", "hit@1 high"] and {len(row) for row in closing} == {13}
    assert closing[3][1] == after["hit@1"] and closing[4][7] == pytest.approx(gain)
    assert "threshold" not in figures({**summary, "threshold": None})
