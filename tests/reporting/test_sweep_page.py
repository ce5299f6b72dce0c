"""The page of a multirun says which model to take and how sure that is, and shows every job and setting."""

import dataclasses
import re

from e5ft.files import write_json
from e5ft.reporting.sweep_page import language_of_runs, sweep_page, write_page
from e5ft.reporting.sweeps import read_sweep
from tests.reporting.made_runs import make_run, make_sweep

MARKUP = "<script>alert(1)</script>"


def texts(page: str) -> str:
    """What a reader sees, on one line."""
    body = re.sub(r"<(style|script).*?</\1>", "", page.partition("<body>")[2], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("&#39;", "'").replace("&gt;", ">").replace("&lt;", "<")


def test_the_first_sentence_names_the_model_to_take_and_what_it_cannot_be_told_apart_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sweep(tmp_path / "multirun/s")
    sweep = read_sweep(tmp_path / "multirun/s")
    page, best = texts(sweep_page(sweep, "ko")), sweep.best
    near = [sweep.jobs[place].number for place, pair in sweep.behind().items() if not pair.is_apart]
    assert (
        near
        and f"다음 작업과는 차이의 95 % 신뢰 구간이 0을 포함하여 어느 쪽이 나은지 알 수 없습니다: 작업 {', '.join(near)}." in page
    )
    assert f"작업 {best.number}(loss.temperature=0.02 seed={best.overrides['seed']})의 모델을 쓰십시오." in page
    assert "작업 8개 중 6개만 끝났습니다." in page and f"multirun/s/{best.number}/model" in page
    assert f"python train.py data.train_file=faq.jsonl loss.temperature=0.02 seed={best.overrides['seed']}" in page
    assert "python train.py -m name=s data.train_file=faq.jsonl loss.temperature=0.01,0.02,0.05,0.1 seed=1,2" in page


def test_every_job_has_a_row_with_its_folder_and_the_open_ones_their_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sweep(tmp_path / "multirun/s", keep=[("wiki-test", -0.02)])
    page = texts(sweep_page(read_sweep(tmp_path / "multirun/s"), "en"))
    rows = page[page.index("A row a job, whose number is its folder in multirun/s") :]
    assert all(re.search(rf" {number} 0\.\d+ [12] (BETTER|failed|waiting)", rows) for number in range(8))
    assert "But it got worse on wiki-test." in page and 'class="verdict bad"' in sweep_page(
        read_sweep(tmp_path / "multirun/s"), "en"
    )
    assert "wiki-test, change" in page and "-0.020 [-0.030, -0.010]" in page and "out of memory while training" in page
    assert "waiting" in page and "name=s sweep.resume=true" in page and "BM25 (bigrams)" in page


def test_each_setting_s_effect_has_an_interval_and_says_how_many_pairs_agree(tmp_path):
    make_sweep(tmp_path, waiting=0, failed=0)
    page = texts(sweep_page(read_sweep(tmp_path), "en"))
    effect = page[page.rindex("What each setting did") :]
    assert re.search(r"loss\.temperature 0\.1 2 0\.\d{3} [-+]0\.\d{3} \[-0\.\d{3}, -0\.\d{3}\] 2 of 2", effect)
    assert "reference" in effect and "how far chance alone moves a score" in page


def test_what_cannot_be_measured_is_said(tmp_path):
    for number, (lr, temperature) in enumerate((("1e-5", "0.1"), ("2e-5", "0.2"))):
        make_run(tmp_path / f"a/{number}", seed=number, overrides=[f"optimizer.lr={lr}", f"loss.temperature={temperature}"])
    page = texts(sweep_page(read_sweep(tmp_path / "a"), "en"))
    assert "optimizer.lr: no two jobs differ in this setting alone" in page and "vary seed=1,2,3" in page
    make_run(tmp_path / "b/0", overrides=["seed=1"])
    assert "No setting differs between the jobs." in texts(sweep_page(read_sweep(tmp_path / "b"), "en"))
    make_sweep(tmp_path / "c", failed=3, waiting=5)
    page = texts(sweep_page(read_sweep(tmp_path / "c"), "en"))
    assert "No job has finished" in page and "What each setting did" not in page


def test_a_job_that_is_better_on_the_saved_dev_run_is_named_and_the_best_is_not_called_apart(tmp_path):
    for number, (skill, score) in enumerate(((0.35, 0.9), (0.7, 0.1))):  # the bounded dev set of training chose the weaker one
        best = {"score": score, "step": 40, "alpha": 1.0}
        make_run(tmp_path / str(number), skill=skill, seed=number, best=best, overrides=[f"seed={number}"])
    sweep = read_sweep(tmp_path)
    page = texts(sweep_page(sweep, "en"))
    assert sweep.best.number == "0" and "job 1 is better" in page and "better than every other job" not in page


def test_without_dev_scores_no_model_is_to_be_taken(tmp_path):
    for number in range(2):
        best = {"score": None, "step": 3}
        make_run(tmp_path / str(number), seed=number, best=best, dev=False, overrides=[f"seed={number}"])
    page = sweep_page(read_sweep(tmp_path), "en")
    assert "No job has a dev score" in page and "Take the model" not in page and "The model to take" not in page
    assert 'class="verdict good"' not in page


def test_where_the_dev_set_is_the_test_set_its_score_is_not_the_one_to_report(tmp_path):
    for number in range(2):
        make_run(tmp_path / str(number), seed=number, chosen_on_test=True, overrides=[f"seed={number}"])
    page = texts(sweep_page(read_sweep(tmp_path), "en"))
    assert "a test set kept apart" in page and "Report the test score" not in page


def test_hostile_settings_and_messages_are_text(tmp_path):
    for number in range(2):
        make_run(tmp_path / str(number), seed=number, overrides=[f"data.train_file={MARKUP}{number}"], model=MARKUP)
    write_json(tmp_path / "2/status.json", {"state": "failed", "error": MARKUP, "seconds": 1})
    page = sweep_page(read_sweep(tmp_path), "ko")
    assert MARKUP not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page).replace("http-equiv", "")  # it fetches nothing


def test_the_language_is_that_of_the_rows_unless_asked_and_the_file_is_replaced(tmp_path):
    make_sweep(tmp_path / "s")
    assert language_of_runs("auto", [job.facts for job in read_sweep(tmp_path / "s").jobs]) == "ko"
    assert language_of_runs("en", [job.facts for job in read_sweep(tmp_path / "s").jobs]) == "en"
    assert language_of_runs("auto", []) == "en"
    file = write_page(read_sweep(tmp_path / "s"))
    assert file == tmp_path / "s/report.html" and 'lang="ko"' in file.read_text()
    assert (
        write_page(read_sweep(tmp_path / "s"), "en", tmp_path / "x.html")
        .read_text()
        .startswith('<!doctype html>\n<html lang="en">')
    )


def test_links_are_no_jobs_and_hundreds_of_jobs_stay_a_small_page(tmp_path):
    make_run(tmp_path / "0", overrides=["seed=0"])
    (tmp_path / "1").symlink_to(tmp_path / "0")
    sweep = read_sweep(tmp_path)
    assert len(sweep.jobs) == 1
    many = dataclasses.replace(sweep, jobs=[*sweep.jobs] * 500, fields=["seed"])
    assert len(sweep_page(many, "ko").encode()) < 2_000_000
