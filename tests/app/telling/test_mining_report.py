"""What mining prints, from summaries made by hand; the command that goes on: tests/app/commands/test_mine.py."""

from pathlib import Path

from e5ft.app.telling.mining_report import mining_closing
from e5ft.retrieval.filters import fates
from e5ft.retrieval.settings import Limits, Selection

EXAMPLE = {
    "query": "복합기 담당은?",
    "documents": [{"score": 1.0, "text": "총무팀"}],
    "with": "총무팀 내선 1",
    "passage": "인사팀\n내선 2",
}
SUMMARY = {
    "rows": 9, "rows_with_none": 2, "rows_with_fewer": 3, "scores": None, "seconds": 1,
    "candidates": {"seen": 100, **dict.fromkeys(list(fates())[1:], 0), "near_duplicate": 40, "chosen": 60},
    "removed": {"near_duplicate": [EXAMPLE]},
    "questioned": [{"filter": "near_duplicate", "share": 0.4, "looser": "filters.near_duplicate.threshold=0.65"}],
    "without": {
        "reasons": {"near_duplicate": 1, "nothing_found": 1},
        "first": [{"place": "faq.csv:12", "query": "복합기 담당은?", "reason": "near_duplicate", "candidates": {}}],
    },
}  # fmt: skip


def closing(following):
    return mining_closing(SUMMARY, Selection(), Limits(near_duplicate={"threshold": 0.3}), Path("out/rows.jsonl"), following)


def test_what_was_removed_too_often_is_questioned_with_an_example_and_what_to_type():
    lines = closing("python train.py data.train_file=out/rows.jsonl").splitlines()
    assert "40.0% of the candidates" in (asked := next(line for line in lines if line.startswith("near_duplicate removed")))
    assert asked.endswith(" filters.near_duplicate.threshold=0.65")
    shown = [line.split(maxsplit=1) for line in lines[lines.index(asked) + 1 :][:3]]
    assert shown == [["query", "복합기 담당은?"], ["answer", "총무팀 내선 1"], ["removed", "인사팀 내선 2"]]
    assert lines[-1] == "next        python train.py data.train_file=out/rows.jsonl"


def test_rows_without_a_negative_and_why():
    told = closing("python train.py")
    assert "1 nearly the same as a known answer; 1 nothing was found for the query" in told
    assert "faq.csv:12, 복합기 담당은?" in told


def test_within_rounds_the_setting_is_the_rounds_and_nothing_is_to_be_typed_next():
    told = closing(None)
    assert "rounds.mining.filters.near_duplicate.threshold=0.65" in told and "next" not in told
