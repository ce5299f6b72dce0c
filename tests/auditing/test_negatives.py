"""Hard negatives that answer."""

from e5ft.auditing.negatives import negative_faults
from e5ft.formatting import portable
from tests.auditing.conftest import row

ANSWER = "한강에는 서른 개가 넘는 다리가 놓여 있다. 그중 가장 오래된 것은 철도 다리이다. 지금도 열차가 그 위를 지난다."
SECOND = "서울을 흐르는 강을 건너는 길은 서른한 곳이라고 시청이 밝혔다."
OTHER = "제주도의 오름은 화산이 터지며 생긴 작은 봉우리이다. 섬 전체에 삼백 개가 넘게 흩어져 있다."


def test_known_answers_copies_and_equal_ones(make_audited):
    rows = make_audited(
        [
            row("한강의 다리 수", ANSWER, [SECOND, OTHER]),  # the second answer is in row 1
            row("한강의 다리 수", SECOND, [OTHER]),
            row("한강의  다리 수", ANSWER, [f"{OTHER} {ANSWER[:47]}", OTHER]),  # holds most of the answer
            row("오름이란", OTHER, [ANSWER]),  # an answer, of another query
        ]
    )
    found = [(f.kind, f.row, f.field, f.evidence) for f in negative_faults(rows, {rows.place(3): (OTHER,)})]
    assert found[0] == ("negative_equals", 3, "hard_negative", OTHER)
    assert found[1] == ("negative_answers", 0, "hard_negative", f"{portable(rows.place(1))}: 한강의 다리 수")
    assert found[2][:3] == ("negative_answers", 2, "hard_negative") and found[2][3].endswith(f"%: {ANSWER}")
    assert len(found) == 3


def test_rows_without_hard_negatives(make_audited):
    assert not list(negative_faults(make_audited([row("한강의 다리 수", ANSWER)]), {}))
