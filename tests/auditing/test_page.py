"""The page and the printed lines."""

import re

import pytest

from e5ft.auditing.audit import audit
from e5ft.auditing.page import page, summary, verdict
from e5ft.auditing.rows import LeftOut
from tests.auditing.conftest import row

HOSTILE = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"


@pytest.fixture
def found(make_audited):
    rows = [row(f"{n}번 다리는 언제 열렸나요?", f"{n}번 다리는 {1900 + n}년 봄에 열렸습니다.") for n in range(10)]
    return audit(make_audited([*rows, rows[3], row("query: 무엇인가", HOSTILE)]), LeftOut())


@pytest.mark.parametrize(
    ("language", "title", "fault"),
    [("auto", "rows.jsonl 데이터 점검", "완전 중복 행"), ("en", "Audit of rows.jsonl", "exact duplicate rows")],
)
def test_a_page_tells_faults_and_shows_texts_as_texts(found, language, title, fault):
    text = page(found, "rows.jsonl", language, cleaned="clean.jsonl")
    assert f"<h1>{title}</h1>" in text and fault in text and "clean.jsonl" in text
    assert verdict(found, "ko" if language == "auto" else "en").replace("'", "&#39;") in text
    assert "alert(1)&lt;/script&gt;" in text and "<script>alert" not in text and "<img" not in text


def test_the_printed_lines(found):
    lines = summary(found).splitlines()
    assert lines[0].startswith("  rows        12 rows, 11 different queries")
    assert any(re.match(r"  exact duplicate rows +1 +8.3%  .*rows.jsonl:11$", line) for line in lines)
    assert any(line.startswith("  texts that end") and line.endswith("(suspected)") for line in lines)
    assert lines[-1].startswith("3 kinds of certain faults in 2 of 12 rows (16.7%): mend these first; ")


def test_nothing_found_is_said(make_audited):
    rows = [row(f"{n}번 다리는 언제 열렸나요?", f"{n}번 다리는 {1900 + n}년 봄에 열렸습니다.") for n in range(10)]
    found = audit(make_audited(rows), LeftOut())
    assert verdict(found, "en") == "No certain fault in 10 rows." and summary(found).endswith("\n\nNo certain fault in 10 rows.")
    assert 'class="verdict good"' in page(found, "rows.jsonl", "en")
