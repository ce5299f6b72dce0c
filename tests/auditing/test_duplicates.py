"""Duplicate rows and documents, exact and near."""

from e5ft.auditing.duplicates import Duplicates
from tests.auditing.conftest import row

LONG = "한강에는 서른 개가 넘는 다리가 놓여 있으며, 그중 가장 오래된 것은 천구백년에 열린 철도 다리이다."
OTHER = "제주도의 오름은 화산이 터지며 생긴 작은 봉우리로, 섬 전체에 삼백육십 개가 넘게 흩어져 있다."


def test_rows(make_audited):
    rows = make_audited(
        [
            row("한강의 다리는 몇 개인가요?", LONG, ["오답"]),
            row("한강의 다리는  몇 개인가요?", LONG, ["오답"]),  # the same
            row("한강의 다리는 몇 개인가요?", LONG, ["다른 오답"]),  # another hard negative
            row("한강의 다리는 몇 개인가?", LONG.replace("서른", "마흔"), ["오답"]),  # nearly
            row("가장 오래된 철도 다리", LONG, ["오답"]),  # another question
            row("한강의 다리는 몇 개인가요?", OTHER, ["오답"]),  # another answer
        ]
    )
    found = Duplicates(rows)
    assert found.first == {1: 0} and found.near == {3: 0}
    told = [(f.kind, f.row) for f in found.faults()]
    assert told == [("exact_duplicate", 1), ("near_duplicate", 3)]


def test_nearly_the_same_document_of_another_query_is_told_once(make_audited):
    copy = LONG.replace("서른", "마흔")
    rows = make_audited([row("다리 수", LONG), row("철도가 지나는 곳", copy), row("언제 열렸나", copy), row("오름이란", OTHER)])
    assert [(f.kind, f.row, f.evidence) for f in Duplicates(rows).faults()] == [("near_document", 1, LONG)]
