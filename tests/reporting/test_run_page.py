"""The page of a run as a whole."""

import pytest

from e5ft.errors import DataError
from e5ft.reporting.run_page import run_page
from tests.reporting.records import Asked, asked, write_run
from tests.reporting.test_html import HOSTILE, Read

RANKS = [(3, 1), (None, 7), (1, None), (100, 2)] * 10


def test_the_verdict_comes_first_and_every_part_is_there_in_both_languages(tmp_path):
    folder = write_run(tmp_path / "r", asked(RANKS))
    for language, title, heading in (("ko", "학습 보고서 · r", "좋아졌나"), ("en", "Training report · r", "Did it get better?")):
        page = run_page(folder, language)
        read = Read(page)
        shown = [text.strip() for inside, text in read.texts if text.strip() and inside not in ("script", "style")]
        assert shown[0] == title and shown.index(title, 1) < shown.index(heading)
        assert [name for name, _ in read.elements].count("section") == 8 and len(read.all("svg")) == 9
        assert read.all("html") == [{"lang": language}]


@pytest.mark.parametrize(
    ("data", "text", "language"), [({"language": "ko"}, "query {}", "ko"), ({}, "질의 {}", "ko"), ({}, "query {}", "en")]
)
def test_the_language_is_that_of_the_data(data, text, language, tmp_path):
    folder = write_run(tmp_path / "r", asked(RANKS, text, "passage {}"), data={"source": "x", **data})
    assert f'<html lang="{language}">' in run_page(folder)


def test_hostile_texts_names_and_ids_of_a_record_stay_text(tmp_path):
    queries = [
        Asked(f"q{n}{HOSTILE}".replace(" ", ""), f"{n} {HOSTILE}", f"{n} {HOSTILE}", *each) for n, each in enumerate(RANKS)
    ]
    folder = write_run(tmp_path / "r", queries, model=HOSTILE, made={"command": HOSTILE, "versions": {HOSTILE: HOSTILE}})
    (folder / "config.yaml").write_text(HOSTILE)
    read = Read(run_page(folder))
    assert len(read.all("script")) == len(read.all("style")) == 1 and not read.all("img")
    assert sum(HOSTILE in text for _, text in read.texts) > 10


def test_settings_digest_versions_and_the_command_are_there(tmp_path):
    page = run_page(write_run(tmp_path / "r", asked(RANKS)), "en")
    for text in (
        "python train.py name=again",
        "rows: 0123abcd",
        "torch: 2.13.0",
        "seed: 42",
        "40 steps of 16 queries, 3.2 epochs",
        "12.5 %",
    ):
        assert text in page


def test_an_older_record_has_a_page_that_says_what_it_lacks(tmp_path):
    gone = dict.fromkeys(("made", "verdict", "threshold", "queries", "passages", "keep", "overlap", "truncated_share"), ...)
    best, training = {"score": 0.1, "step": 4}, {"steps": 6, "queries_per_step": 16}
    page = run_page(write_run(tmp_path / "r", asked(RANKS), texts=False, best=best, training=training, **gone), "ko")
    for text in ("이 기록에는 명령이 없습니다", "본문이 없어", "기록 없음", "임계값이 없습니다"):
        assert text in page


def test_a_folder_without_a_finished_training_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished training is there"):
        run_page(tmp_path)
