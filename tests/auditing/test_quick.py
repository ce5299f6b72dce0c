"""The line in every run's header."""

from e5ft.auditing import quick as module
from e5ft.auditing.quick import quick
from tests.auditing.conftest import row

ROWS = [row(f"{n}번 다리는 언제 열렸나요?", f"{n}번 다리는 {1900 + n}년 봄에 열렸습니다.") for n in range(6)]


def test_what_is_certainly_wrong_is_counted(make_audited, monkeypatch):
    faulty = [*ROWS, ROWS[1], ROWS[2], row("query: 무엇", "<b>글</b>입니다."), row("끝이 없는 글", "이 글은 중간에")]
    end = "looked at quickly; a full audit: python -m e5ft audit"
    store = make_audited(faulty).store
    assert quick(store) == f"exact duplicate rows 2, prefixes in the text 1, HTML remains 1 in the rows, {end}"
    monkeypatch.setattr(module, "ROWS", 7)
    assert quick(store) == f"exact duplicate rows 1 in the first 7 rows, {end}"
    monkeypatch.setattr(module, "ROWS", 6)
    assert quick(store) == f"no fault found in the first 6 rows, {end}"
