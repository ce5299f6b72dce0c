"""The audit command: what it writes, what it refuses, how it ends."""

import json
from pathlib import Path

import pytest

from e5ft.app.commands.audit import audit
from e5ft.errors import AuditError, ConfigurationError

ROWS = [{"query": f"{n}번 다리는 언제 열렸나요?", "document": f"{n}번 다리는 {1900 + n}년 봄에 열렸습니다."} for n in range(12)]


def test_an_audit_writes_a_page_a_record_and_a_clean_copy(composed, write_rows, capsys):
    path = write_rows([*ROWS, ROWS[2], {"query": "", "document": "글"}, {**ROWS[5], "hard_negative": ROWS[5]["document"]}])
    with pytest.raises(AuditError, match="^strict=true: 3 kinds of certain faults in 3 of 15 rows") as raised:
        audit(composed("audit", f"data.train_file={path}", "name=a", "write=clean.jsonl", "strict=true"))
    assert raised.value.exit_code == 9
    record = json.loads(Path("outputs/audit/a/audit.json").read_text(encoding="utf-8"))
    assert record["removals"]["counts"] == {"unreadable": 1, "negative_equals": 1, "exact_duplicate": 2}
    assert "<h1>" in Path("outputs/audit/a/audit.html").read_text(encoding="utf-8")
    kept = [json.loads(line) for line in Path("clean.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["query"] for each in kept] == [each["query"] for each in ROWS]
    printed = capsys.readouterr().out
    assert "written     clean.jsonl: 4 rows or hard negatives left out" in printed
    assert str(Path(path).parent) not in Path("outputs/audit/a/audit.html").read_text(encoding="utf-8")
    assert printed.startswith(f"e5ft: audit of {path}\n") and "page        outputs/audit/a/audit.html" in printed


def test_evaluation_sets_are_looked_at_and_the_sample_is_sound(composed):
    audit(composed("audit", "output_dir=here", "strict=true"))  # none of its faults is certain
    record = json.loads(Path("here/audit.json").read_text(encoding="utf-8"))
    assert [entry["role"] for entry in record["overlap"]] == ["test", "dev"]
    assert {entry["shared_queries"] for entry in record["overlap"]} == {0}


def test_a_model_counts_tokens_and_doubts(composed, trained, write_rows, capsys):
    _, folder = trained("training.max_steps=1")
    path = write_rows(ROWS)
    audit(composed("audit", f"data.train_file={path}", f"model.path={folder / 'model'}", "name=m"))
    record = json.loads(Path("outputs/audit/m/audit.json").read_text(encoding="utf-8"))
    assert record["searched"]["model"] and record["lengths"][""]["document"]["total_tokens"] > 0
    assert "  tokens      documents: " in capsys.readouterr().out


def test_of_a_choice_of_rows_the_share_of_unreadable_ones_is_the_file_s(composed, write_rows, capsys):
    rows = [{"query": f"{n}번 다리는 언제 열렸나요?", "document": f"{n}번 다리는 {n}년 봄에" * (n % 5 > 0)} for n in range(500)]
    audit(composed("audit", f"data.train_file={write_rows(rows)}", "name=a", "data.max_train_rows=50"))
    record = json.loads(Path("outputs/audit/a/audit.json").read_text(encoding="utf-8"))
    assert record["rows"] == 50 and record["unreadable"] == 12 and 0.19 < record["faults"]["unreadable"]["share"] < 0.21
    assert "in 12 of 62 rows (19.4%)" in capsys.readouterr().out


def test_a_clean_copy_replaces_nothing(composed, write_rows):
    path = write_rows(ROWS)
    with pytest.raises(ConfigurationError, match="^write=.*rows.jsonl.: is there already; name a new file"):
        audit(composed("audit", f"data.train_file={path}", f"write={path}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["write=clean.csv"], "write='clean.csv': must end in .jsonl: JSON lines are written"),
        (["write=c.jsonl", "data.max_train_rows=5"], "write='c.jsonl': must be null with data.max_train_rows: the copy would"),
    ],
)
def test_a_clean_copy_is_read_as_it_was_written_and_lacks_no_sound_row(composed, write_rows, overrides, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        composed("audit", f"data.train_file={write_rows(ROWS)}", *overrides)


def test_a_clean_copy_of_a_mix_would_lose_its_sources(composed, write_rows):
    with pytest.raises(
        ConfigurationError, match="^write='c.jsonl': must be null with data=mix, whose sources are cleaned one by"
    ):
        composed("audit", "data=mix", f"data.sources={{a: {write_rows(ROWS)}}}", "write=c.jsonl")


def test_a_query_of_a_word_that_may_be_meant_is_told_and_stays(composed, write_rows):
    path = write_rows(
        [*ROWS, {"query": "테스트", "document": "시험 서버의 주소입니다."}, {"query": "?!", "document": "물음표입니다."}]
    )
    audit(composed("audit", f"data.train_file={path}", "output_dir=a", "write=clean.jsonl"))
    assert json.loads(Path("a/audit.json").read_text(encoding="utf-8"))["faults"]["empty"]["rows"] == 2
    kept = [json.loads(line)["query"] for line in Path("clean.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept == [*(each["query"] for each in ROWS), "테스트"]
