"""What mining left out, by hand: the rows of test_mining.py and what its filters remove."""

import numpy as np
import pytest

from e5ft.data.rows import Row
from e5ft.retrieval import removals
from e5ft.retrieval.candidates import make_index
from e5ft.retrieval.filters import apply_filters, fates
from e5ft.retrieval.mining import find_candidates, select
from e5ft.retrieval.removals import questioned, removed, rows_without
from e5ft.retrieval.settings import Limits, Selection
from tests.retrieval.test_mining import ALIKE, ANSWER, HARD, QUERY, REWRITTEN, ROWS, SCORES, UNJUDGED, Teacher


@pytest.fixture
def mined():
    """Mine with a scorer that looks scores up; returns index, selection, candidates, given, chosen."""

    def run(limits, rows=ROWS, teacher=None, found=None):
        index, selection = make_index(rows, list(SCORES)), Selection(window=(1, 20))
        value = np.array([SCORES.get(text, 0.0) for text in index.passages], dtype=np.float32)
        order = np.argsort(-value[: index.candidates], kind="stable") if found is None else found

        def dense(queries, depth):
            return np.tile(np.pad(order, (0, depth - len(order)), constant_values=-1), (len(queries), 1))

        candidates, given = find_candidates(index, {"dense": dense}, selection, lambda queries, passages: value[passages])
        apply_filters(index, candidates, given, limits, teacher)
        return index, selection, candidates, given, select(index, candidates, selection)

    return run


def test_each_filter_shows_what_it_removed_and_what_it_compared(mined):
    limits = Limits(near_duplicate=ALIKE, percent=0.95, teacher_margin=0.0)
    teacher = Teacher(dict.fromkeys(SCORES, 0.0) | {HARD: 1.0})
    index, selection, candidates, given, _ = mined(limits, [ROWS[0]], teacher)
    found = removed(index, selection, limits, candidates, given)
    assert {name: [example["passage"] for example in examples] for name, examples in found.items()} == {
        "known_positive": [ANSWER], "near_duplicate": [REWRITTEN], "percent": [UNJUDGED], "cross_encoder": [HARD],
    }  # fmt: skip
    [near], [percent], [judged] = (found[name] for name in ("near_duplicate", "percent", "cross_encoder"))
    assert near["query"] == QUERY and near["with"] == ANSWER and near["overlap"] >= 0.7
    assert (near["source"], near["rank"], near["score"]) == ("dense", 3, pytest.approx(0.7))
    assert percent["limit"] == pytest.approx(0.76) and "teacher_score" not in percent
    assert (judged["teacher_score"], judged["limit"]) == (1.0, 0.0)
    assert judged["documents"] == [{"score": pytest.approx(0.8), "teacher_score": 0.0, "text": ANSWER}]


def test_ten_of_each_the_same_for_the_same_seed_in_the_order_of_the_rows(mined):
    rows = [Row(f"질문 {i}", (ANSWER,)) for i in range(30)]
    index, selection, candidates, given, _ = mined(Limits(max_score=-1.0), rows)
    first, again = (removed(index, selection, Limits(max_score=-1.0), candidates, given) for _ in range(2))
    numbers = [int(example["query"].removeprefix("질문 ")) for example in first["max_score"]]
    assert first == again and len(numbers) == 10 and numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("limits", "found", "reason"),
    [
        (Limits(max_score=-1.0), None, "max_score"),
        (Limits(near_duplicate=ALIKE, percent=0.1), None, "percent"),
        (Limits(), np.zeros(0, dtype=np.int64), "nothing_found"),
    ],
)
def test_why_rows_have_none(mined, limits, found, reason):
    index, _, candidates, _, chosen = mined(limits, found=found)
    result = rows_without(index, candidates, chosen, lambda row: f"rows.jsonl:{row + 1}")
    assert result["reasons"] == {reason: 3}
    assert [entry["place"] for entry in result["first"]] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert result["first"][0]["query"] == QUERY and result["first"][0]["reason"] == reason
    assert sum(sum(entry["candidates"].values()) for entry in result["first"]) == len(candidates)


def test_a_row_of_whose_candidates_all_are_known_answers_says_so(mined):
    index = make_index(ROWS, list(SCORES))
    found = np.array([list(index.passages).index(ANSWER)])
    index, _, candidates, _, chosen = mined(Limits(), rows=[ROWS[0]], found=found)
    result = rows_without(index, candidates, chosen, lambda row: None)
    assert result["reasons"] == {"known_positive": 1} and result["first"][0]["place"] is None
    index, _, candidates, _, chosen = mined(Limits(), rows=ROWS)
    assert rows_without(index, candidates, chosen, lambda row: None) == {"reasons": {}, "first": []}


def test_a_share_above_the_largest_is_questioned_with_what_removes_less():
    counts = dict.fromkeys(list(fates())[1:], 0) | {"seen": 100, "known_positive": 60, "near_duplicate": 16, "percent": 15}
    limits = Limits(near_duplicate={"threshold": 0.3}, percent=0.95)
    assert questioned(counts, limits) == [
        {"filter": "near_duplicate", "share": 0.16, "looser": "filters.near_duplicate.threshold=0.65"}
    ]
    looser = {
        "percent": (Limits(percent=0.95), "filters.percent=0.975"),
        "margin": (Limits(margin=0.1), "filters.margin=0.05"),
        "max_score": (Limits(max_score=0.9), "filters.max_score=null"),
        "cross_encoder": (Limits(teacher_margin=0.0), "cross_encoder.margin=null cross_encoder.max_score=null"),
    }
    for name, (limits, override) in looser.items():
        over = dict.fromkeys(counts, 0) | {"seen": 100, name: 100 * removals.LARGEST_SHARE + 1}
        assert [question["looser"] for question in questioned(over, limits)] == [override]
