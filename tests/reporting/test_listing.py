"""The list of runs: what a table shows, and what a program reads."""

import json

from e5ft.files import write_json
from e5ft.reporting.facts import facts_of
from e5ft.reporting.listing import first, json_lines, line_of, shortened, table
from e5ft.retrieval.tables import display_width
from tests.reporting.made_runs import make_run


def test_each_run_is_a_line_that_says_its_gain_or_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = make_run(tmp_path / "outputs/a", skill=0.6)
    write_json(tmp_path / "outputs/b/status.json", {"state": "stopped", "error": "stopped by SIGTERM", "seconds": 12.0})
    (tmp_path / "outputs/b/metrics.jsonl").write_text('{"step": 30}\n')
    (tmp_path / "outputs/c").mkdir()
    (tmp_path / "outputs/c/status.json").write_text("")
    lines = [line_of(facts_of(tmp_path / "outputs" / name)) for name in "abc"]
    whole = {end: summary["differences"]["ndcg@10"][end] for end in ("mean", "low", "high")}
    assert lines[0]["gain"] == whole and lines[0]["after"] == summary["scores"]["after"]["metrics"]["ndcg@10"]
    shown = table(lines).splitlines()
    assert (
        len(shown) == 5
        and shown[2].startswith("outputs/a")
        and shown[2].endswith("BETTER")
        and f"{whole['mean']:+.3f}" in shown[2]
    )
    assert shown[3].endswith("stopped at step 30 after 12 s: stopped by SIGTERM")
    assert shown[4].endswith("damaged: status.json is no JSON")
    read = [json.loads(line) for line in json_lines(lines).splitlines()]
    assert [entry["state"] for entry in read] == ["finished", "stopped", "damaged"] and read[1]["gain"] is None
    assert read[0].keys() == read[1].keys() == read[2].keys()


def test_a_long_message_and_long_names_leave_the_table_readable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", data={"source": "아주/긴/" + "이름" * 40, "language": "ko"}, model="\x1b[31m<b>" + "모" * 80)
    write_json(tmp_path / "b/status.json", {"state": "failed", "error": "오류 " * 200, "seconds": 1})
    assert max(map(display_width, table([line_of(facts_of(tmp_path / name)) for name in "ab"]).splitlines())) < 200


def test_what_is_too_long_is_cut_by_columns_not_by_letters():
    assert shortened("가나다라마바사", 14) == first("가나다라마바사", 14) == "가나다라마바사"
    for width in range(3, 14):
        assert (
            display_width(shortened("가나다라마바사", width)) <= width and display_width(first("가나다라마바사", width)) <= width
        )
    assert shortened("abcdefghij", 7) == "abc…hij" and first("abcdefghij", 7) == "abcdef…"
