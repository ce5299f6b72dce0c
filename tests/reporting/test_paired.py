"""Saved evaluations are compared query by query where that is possible, and else it is said why not."""

import json

import numpy as np
import pytest

from e5ft.errors import DataError
from e5ft.reporting.paired import compare, difference_of_sets, in_one_order, read_saved
from tests.reporting.made_runs import write_evaluation

RANKS = np.array([1, 2, 0, 1, 5])


def test_values_are_read_by_query_and_put_in_one_order(tmp_path):
    write_evaluation(tmp_path / "a", "s", RANKS)
    values = write_evaluation(tmp_path / "b", "s", RANKS[::-1])
    lines = (tmp_path / "b/per_query.jsonl").read_text().splitlines()
    (tmp_path / "b/per_query.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    a, b = (read_saved(tmp_path / name, "ndcg@10") for name in "ab")
    assert difference_of_sets(a, b) is None
    assert in_one_order([a, b])[1].tolist() == values[:, 2].tolist()


def test_a_difference_is_the_mean_over_queries_and_an_interval_around_it():
    """Worked by hand: differences 1, 0, 0, 1 have mean 1/2 and standard deviation 1/sqrt(3); t of 3 degrees at 97.5 % is 3.182."""
    pair = compare(np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0]))
    half = 3.1824463 / 3**0.5 / 2
    assert pair.mean == 0.5 and pair.queries == 4 and not pair.is_apart
    assert (pair.low, pair.high) == (pytest.approx(0.5 - half, abs=1e-5), 1.0)
    assert compare(np.ones(6), np.zeros(6)).is_apart and not compare(np.ones(5), np.zeros(5)).is_apart  # p = 2/64 and 2/32


def changed(folder, **values):
    record = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**record, **values}))


@pytest.mark.parametrize(
    ("change", "kind", "values"),
    [
        (lambda folder: changed(folder, set="t"), "set", ("s", "t")),
        (lambda folder: changed(folder, passages=7), "passages", (1000, 7)),
        (lambda folder: write_evaluation(folder, "s", RANKS[:3]), "queries", (2, 0)),
    ],
)
def test_what_does_not_compare_says_why(tmp_path, change, kind, values):
    for name in "ab":
        write_evaluation(tmp_path / name, "s", RANKS)
    change(tmp_path / "b")
    a, b = (read_saved(tmp_path / name, "ndcg@10") for name in "ab")
    assert difference_of_sets(a, b) == {"kind": kind, "values": values}


def test_other_answers_do_not_compare_and_older_records_without_any_do(tmp_path):
    for name in "ab":
        write_evaluation(tmp_path / name, "s", RANKS)
    file = tmp_path / "b/per_query.jsonl"
    file.write_text(file.read_text().replace('"id": "p3", "grade": 1', '"id": "p3", "grade": 2'))
    a, b = (read_saved(tmp_path / name, "ndcg@10") for name in "ab")
    assert difference_of_sets(a, b) == {"kind": "answers", "values": (1, 1)}
    write_evaluation(tmp_path / "b", "s", RANKS, texts=False)
    assert difference_of_sets(a, read_saved(tmp_path / "b", "ndcg@10")) is None


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", '{"query": "q1"}\n', "{\n"])
def test_a_damaged_file_is_one_error_with_its_place(tmp_path, text):
    write_evaluation(tmp_path / "a", "s", RANKS)
    (tmp_path / "a/per_query.jsonl").write_text(text)
    with pytest.raises(DataError, match="a: cannot be read"):
        read_saved(tmp_path / "a", "ndcg@10")
    with pytest.raises(DataError, match="metrics.json"):
        read_saved(tmp_path / "nowhere", "ndcg@10")
