"""A run's record is read as it was written; what is damaged is named."""

import json

import pytest

from e5ft.errors import DataError
from e5ft.reporting.record import BASE, FINAL, read_run, versions
from tests.reporting.records import asked, write_run

RANKS = [(3, 1), (None, 7), (1, None), (200, 2)]


def test_queries_have_texts_ranks_and_scores(tmp_path):
    run = read_run(write_run(tmp_path / "r", asked(RANKS[:3])))
    queries = run.queries("test-set", FINAL)
    assert [(q.rank, q.text) for q in queries.values()] == [(1, "질의 0번"), (7, "질의 1번"), (None, "질의 2번")]
    assert queries["q1"].answers[0].score == pytest.approx(0.893) and queries["q1"].top[0].identifier == "w1-q1"
    assert run.queries("test-set", "hybrid") == {} and run.name == "r"


def test_of_a_record_without_texts_the_rank_comes_from_the_deepest_reciprocal_rank(tmp_path):
    run = read_run(write_run(tmp_path / "r", asked([(3, 97), (None, 1)]), texts=False))
    assert [q.rank for q in run.queries("test-set", BASE).values()] == [3, None]
    assert [q.rank for q in run.queries("test-set", FINAL).values()] == [97, 1]
    assert all(q.text is None and not q.top for q in run.queries("test-set", FINAL).values())


def test_an_older_summary_takes_its_counts_from_the_evaluation(tmp_path):
    run = read_run(write_run(tmp_path / "r", asked(RANKS), queries=..., passages=...))
    assert (run.summary["queries"], run.summary["passages"]) == (4, 500)


def test_curves_leave_out_what_is_no_number_and_lines_cut_in_half(tmp_path):
    folder = write_run(tmp_path / "r", asked(RANKS))
    with open(folder / "metrics.jsonl", "w") as file:
        file.write(
            '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": null}\n[]\n{"step": 4, "loss": 1}\n{"step": 5, "lo'
        )
    assert read_run(folder).curve("loss") == ([1, 4], [2.0, 1.0]) and read_run(folder).curve("absent") == ([], [])


def test_what_is_no_run_and_what_is_damaged_is_said_with_its_place(tmp_path):
    with pytest.raises(DataError, match="no finished training is there"):
        read_run(tmp_path)
    folder = write_run(tmp_path / "r", asked(RANKS))
    lines = folder / "eval/test-set/final/per_query.jsonl"
    lines.write_text(lines.read_text() + json.dumps({"query": "q9", "answers": [{"id": "x"}]}) + "\n")
    with pytest.raises(DataError, match=r"per_query.jsonl:5: no line of an evaluation"):
        read_run(folder).queries("test-set", FINAL)
    for text in ("{", "[]", '{"state": "failed"}'):
        (folder / "summary.json").write_text(text)
        with pytest.raises(DataError, match=r"summary.json: no "):
            read_run(folder)


def test_a_job_of_a_multirun_and_a_round_are_named_with_it(tmp_path):
    for name in ("sweep/3", "long/round-2"):
        assert read_run(write_run(tmp_path / name, asked(RANKS))).name == name


def test_versions_are_those_of_what_is_installed():
    import torch

    assert versions()["torch"] == torch.__version__
