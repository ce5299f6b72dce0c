"""Numbers and texts as a person or a page shows them."""

from pathlib import Path

import pytest

from e5ft.formatting import duration, inline, markdown_table, portable, shareable, size
from tests.app.telling.test_report import NASTY


@pytest.mark.parametrize("text", NASTY)
def test_a_value_is_one_harmless_line(text):
    shown = inline(text)
    assert shown.isprintable() and not set(shown) & set("<>`|\\") and "](" not in shown


def test_no_folder_of_this_machine_leaves_it():
    names = ("/home/me/faq.jsonl", "data/faq.jsonl", "hf://datasets/a/b/c.jsonl", "intfloat/multilingual-e5-small")
    assert [portable(name) for name in names] == ["faq.jsonl", *names[1:]]
    assert portable("../../kim/faq.jsonl") == "faq.jsonl"


def test_a_text_to_be_shared_has_paths_as_they_are_from_here_or_from_home(tmp_path, monkeypatch):
    home, work = tmp_path / "me", tmp_path / "me/work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    texts = {
        f"a={work}/x.jsonl b=[{home}/y,{work}]": "a=x.jsonl b=[~/y,.]",
        f"{home}": "~",
        f"file://{work}/x file://{home}/y": "file://x file://~/y",
        f"{work}er/x {work}-2": "~/worker/x ~/work-2",  # not below it
        f"/data{work}/x": f"/data{work}/x",  # another folder of the same names
        "/data/x and y": "/data/x and y",
        "": "",
    }
    assert {text: shareable(text) for text in texts} == texts
    assert shareable(Path("outputs/a")) == shareable(work / "outputs/a") == "outputs/a" and shareable(home / "b") == "~/b"


def test_durations_and_sizes():
    assert [duration(s) for s in (12.4, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 5 min"]
    assert [size(count) for count in (35.2e6, 1.24e9)] == ["35 MB", "1.2 GB"]


def test_korean_and_ordinary_names_stay_readable():
    for name in ("ko-wiki-test", "intfloat/multilingual-e5-small", "전입신고는 언제까지 하나요?", "['query_passage']", "query: "):
        assert inline(name) == name


def test_a_table_shows_any_cell_as_text():
    table = markdown_table([["set", "", "score"], ["a|b", "<i>", 0.5]], text_columns=2)
    assert table == "| set |  | score |\n|---|---|---:|\n| a&#124;b | &#60;i&#62; | 0.5 |"
