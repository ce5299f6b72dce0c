"""What mining leaves: rows that are read back, and examples to read."""

import json

import pytest

from e5ft.data.rows import Columns, Row
from e5ft.data.store import load_rows
from e5ft.retrieval.mined import examples
from e5ft.retrieval.settings import Limits
from tests.retrieval.test_mining import EASIER, HARD, QUERY, ROWS, SCORES, UNJUDGED, mine


def test_the_rows_are_read_back_ragged(tmp_path):
    rows = [*ROWS, Row("둘", (HARD, EASIER))]
    mined = mine(rows, limits=Limits(percent=0.27))[0]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in mined), encoding="utf-8")
    store = load_rows(str(path), Columns(), tmp_path / "cache")
    again = list(store)
    assert [(row.query, row.positives) for row in again] == [(row.query, row.positives) for row in rows]
    assert [list(row.negatives) for row in again] == [row["hard_negative"] for row in mined]
    assert {len(row.negatives) for row in again} == {0, 1, 2}  # ragged indeed
    for row in mined:
        assert len(row["mining"]["hard_negative"]) == len(row["hard_negative"])
        assert all(
            made["score"] == pytest.approx(SCORES[t])
            for made, t in zip(row["mining"]["hard_negative"], row["hard_negative"], strict=True)
        )
    assert mined[0]["mining"]["document"] == [{"score": 0.8}] and mined[3]["mining"]["document"] == [
        {"score": 0.6},
        {"score": 0.1},
    ]


def test_examples_are_readable():
    long = Row(QUERY, ("긴 글 " * 500,))
    mined = mine([long, ROWS[2]], limits=Limits())[0]
    shown = examples(mined, 2, 0)
    assert [example["query"] for example in shown] == [QUERY, ROWS[2].query]
    assert len(shown[0]["documents"][0]["text"]) < 310 and len(shown[0]["hard_negatives"]) == 3
    assert shown[0]["hard_negatives"][0] == {"source": "dense", "rank": 1, "score": 0.81, "text": UNJUDGED}
    assert len(examples([mined[0]] * 30, 30, 0)) == 10
