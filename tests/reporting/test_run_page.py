"""The page of a run as a whole."""

import html

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


@pytest.mark.parametrize(
    ("language", "usual", "named"), [("ko", "학습 전", "라운드 1 모델"), ("en", "before training", "round 1's model")]
)
def test_a_round_that_starts_from_the_one_before_names_that_one(language, usual, named, tmp_path):
    for start, (there, absent) in ((None, (usual, named)), (1, (named, usual))):
        page = run_page(write_run(tmp_path / f"{start}/round-2", asked(RANKS), start_round=start), language)
        shown = "".join(text for inside, text in Read(page).texts if inside not in ("script", "style"))
        assert there in shown and absent not in shown


def test_no_folder_of_this_machine_is_on_the_page(tmp_path, monkeypatch):
    work, home = tmp_path / "home/project", tmp_path / "home"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    made = {"command": f"python train.py data.train_file={work}/data/faq.jsonl 'data.keep_dir=[{home}/sets/wiki]' name=again"}
    folder = write_run(
        work / "outputs/r", asked(RANKS), made=made, model=f"{home}/models/e5", data={"source": f"{work}/data/faq.jsonl"}
    )
    (folder / "config.yaml").write_text(
        f"cache_dir: {work}\ndata:\n  train_file: {work}/data/faq.jsonl\n  keep_dir:\n  - {home}/sets/wiki\n"
    )
    page = html.unescape(run_page(folder, "en"))
    assert str(tmp_path) not in page
    assert "python train.py data.train_file=data/faq.jsonl 'data.keep_dir=[~/sets/wiki]' name=again" in page
    assert "cache_dir: .\ndata:\n  train_file: data/faq.jsonl\n  keep_dir:\n  - ~/sets/wiki\n" in page and "~/models/e5" in page


def test_an_older_record_has_a_page_that_says_what_it_lacks(tmp_path):
    gone = dict.fromkeys(("made", "verdict", "threshold", "queries", "passages", "keep", "overlap", "truncated_share"), ...)
    best, training = {"score": 0.1, "step": 4}, {"steps": 6, "queries_per_step": 16}
    page = run_page(write_run(tmp_path / "r", asked(RANKS), texts=False, best=best, training=training, **gone), "ko")
    for text in ("이 기록에는 명령이 없습니다", "본문이 없어", "기록 없음", "임계값이 없습니다"):
        assert text in page


def test_a_folder_without_a_finished_training_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished training is there"):
        run_page(tmp_path)
