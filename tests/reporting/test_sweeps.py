"""A multirun's record: the best job first, failures and jobs that wait in it too, and a file that no spreadsheet misreads."""

import csv
import json

import numpy as np
import pytest
import yaml

from e5ft.files import read_json, write_json
from e5ft.reporting.compare_page import compare_page
from e5ft.reporting.comparing import comparison
from e5ft.reporting.sweep_page import sweep_page
from e5ft.reporting.sweep_table import ending
from e5ft.reporting.sweeps import collect, read_plan, read_sweep, write_csv
from tests.reporting.made_runs import make_run, make_sweep


def test_the_best_on_the_dev_set_is_first_and_what_did_not_finish_last(tmp_path):
    make_sweep(tmp_path / "s")
    sweep = read_sweep(tmp_path / "s")
    scores = [job.facts.dev_score for job in sweep.jobs[:6]]
    assert scores == sorted(scores, reverse=True) and sweep.best.overrides["loss.temperature"] == "0.02"
    assert [(job.number, job.facts.state) for job in sweep.jobs[6:]] == [("6", "failed"), ("7", "waiting")]
    assert list(sweep.fields) == ["loss.temperature", "seed"] and sweep.given(sweep.jobs[7]) == "loss.temperature=0.1 seed=2"
    assert sweep.counts() == {"finished": 6, "failed": 1, "waiting": 1} and sweep.verdict == "BETTER"


def test_jobs_are_compared_with_the_best_on_the_dev_set_and_else_on_the_test_set(tmp_path):
    for dev, kind, folder in ((True, "dev", "eval/dev/after"), (False, "test", "eval/faq-test/final")):
        make_sweep(tmp_path / kind, dev=dev)
        sweep = read_sweep(tmp_path / kind)
        read = {place: read_json(sweep.jobs[place].facts.folder / folder / "metrics.json") for place in range(6)}
        assert sweep.set == kind and sweep.values.keys() == read.keys()
        for place, values in sweep.values.items():
            assert values.mean() == pytest.approx(read[place]["metrics"]["ndcg@10"])
        for place, pair in sweep.behind().items():
            assert pair.mean == pytest.approx((sweep.values[place] - sweep.values[0]).mean()) and pair.queries == 60


def test_a_job_on_other_queries_is_not_compared(tmp_path):
    make_sweep(tmp_path / "s")
    worst = read_sweep(tmp_path / "s").jobs[5]
    file = worst.facts.folder / "eval/dev/after/per_query.jsonl"
    file.write_text(file.read_text().replace('"d000"', '"other"'))
    sweep = read_sweep(tmp_path / "s")
    assert sweep.values.keys() == set(range(5)) and sweep.jobs[5].number == worst.number
    (sweep.best.facts.folder / "eval/dev/after/per_query.jsonl").write_text("damaged")
    assert read_sweep(tmp_path / "s").set == "test"


def measured(folder, number, score, dev_set, **more):
    """A job whose training was measured on some dev set; the one that is saved after it is the same for all unless `dev` is False."""
    best, made = {"score": score, "step": 4, "alpha": 1.0}, {"digests": {"dev set": dev_set}}
    return make_run(folder / str(number), overrides=[f"seed={number}"], best=best, made=made, **more)


def test_jobs_are_ranked_within_one_dev_set_alone(tmp_path):
    for number, (score, dev_set) in enumerate(((0.5, "a"), (0.9, "b"), (0.6, "a"), (0.4, "a"))):
        measured(tmp_path, number, score, dev_set, dev=False)
    sweep = read_sweep(tmp_path)
    assert [job.number for job in sweep.jobs] == ["2", "0", "3", "1"] and sweep.apart == ["1"] and sweep.chosen
    page, said = sweep_page(sweep, "en"), ending(sweep, "again")
    assert "among the 3 jobs with the same dev set; job 1 was measured on another one" in page and "(0.900)" in page
    assert "another dev set, so not ranked: job 1" in said and "(.900)" in said
    assert [row["dev set"] for row in collect(sweep)] == ["a", "a", "a", "b"]


def test_where_each_job_has_a_dev_set_of_its_own_none_is_chosen(tmp_path):
    for number in range(3):
        measured(tmp_path, number, 0.5 + number / 10, str(number), dev=False)
    sweep = read_sweep(tmp_path)
    assert not sweep.chosen and sweep.best.number == "0" and sweep.verdict == "UNDECIDED" != sweep.best.facts.verdict
    assert "each job has another dev set, so no job is chosen" in ending(sweep, "again")
    page = sweep_page(sweep, "en")
    assert "Each job was measured on another dev set" in page and "Take the model" not in page


def test_the_dev_set_that_was_ranked_after_training_ranks_where_those_of_training_differ(tmp_path):
    for number, (score, skill) in enumerate(((0.9, 0.3), (0.1, 0.7))):
        measured(tmp_path, number, score, str(number), skill=skill)
    sweep = read_sweep(tmp_path)
    assert sweep.chosen and sweep.best.number == "1" and not sweep.apart
    saved = [read_json(job.facts.folder / "eval/dev/after/metrics.json")["metrics"]["ndcg@10"] for job in sweep.jobs]
    assert [job.score for job in sweep.jobs] == pytest.approx(saved)
    assert "dev ndcg@10 chooses, ranked after training" in ending(sweep, "again")
    assert "the dev set that was ranked after training, the same for all" in sweep_page(sweep, "en")


def test_what_is_sent_to_others_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    work = tmp_path / "home/project"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number in range(2):
        given = [f"data.train_file={work}/rows{number}.jsonl", f"data.keep_dir=[{tmp_path}/home/wiki]"]
        make_run(work / f"multirun/s/{number}", seed=number, overrides=given)
    write_json(work / "multirun/s/2/status.json", {"state": "failed", "error": f"{work}/rows2.jsonl: no such file", "seconds": 1})
    write_json(work / "multirun/s/sweep.json", {"jobs": [], "given": [f"data.train_file={work}/rows0.jsonl,{work}/rows1.jsonl"]})
    sweep = read_sweep(work / "multirun/s")
    write_csv(sweep)
    page, table = sweep_page(sweep, "ko"), (work / "multirun/s/sweep.csv").read_text()
    assert str(tmp_path) not in page + table + compare_page(comparison([work / "multirun/s/0", work / "multirun/s/1"]), "ko")
    assert "data.train_file=rows0.jsonl,rows1.jsonl" in page and "rows2.jsonl: no such file" in page
    assert "multirun/s/1/model" in table and "[~/wiki]" in table


def test_without_dev_scores_the_first_finished_job_is_taken(tmp_path):
    for number in (1, 2):
        make_run(tmp_path / str(number), best={"score": None, "step": 3}, overrides=[f"seed={number}"])
    write_json(tmp_path / "0/status.json", {"state": "failed", "error": "x", "seconds": 0})
    sweep = read_sweep(tmp_path)
    assert [job.number for job in sweep.jobs] == ["1", "2", "0"] and sweep.best.number == "1"


def test_a_folder_without_jobs_or_with_damaged_ones_has_no_best(tmp_path):
    assert read_sweep(tmp_path).jobs == [] and read_sweep(tmp_path).best is None and read_sweep(tmp_path).verdict == ""
    make_sweep(tmp_path / "s", waiting=0, failed=7)
    (tmp_path / "s/0/status.json").write_text("")
    sweep = read_sweep(tmp_path / "s")
    assert sweep.best is None and sweep.set is None and sweep.jobs[0].facts.state == "damaged"
    (tmp_path / "s/sweep.json").write_text("[]")
    assert read_plan(tmp_path / "s") == ([], []) and len(read_sweep(tmp_path / "s").jobs) == 8


def test_a_killed_job_without_a_status_and_an_empty_folder_differ(tmp_path):
    make_sweep(tmp_path, waiting=2, failed=0)
    (tmp_path / "6/checkpoint-10").mkdir(parents=True)
    (tmp_path / "7").mkdir()
    assert [job.facts.state for job in read_sweep(tmp_path).jobs[6:]] == ["failed", "waiting"]


def test_gain_loss_and_the_model_s_folder_stand_side_by_side(tmp_path):
    make_sweep(tmp_path / "s", keep=[("wiki-test", -0.02)])
    write_csv(read_sweep(tmp_path / "s"))
    with open(tmp_path / "s/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["wiki-test ndcg@10 change"] == "-0.02" and rows[0]["model"].endswith(f"s/{rows[0]['job']}/model")
    assert rows[0]["seconds"] == "75.5" and rows[0]["verdict"] == "BETTER, COSTS ELSEWHERE"
    assert rows[6]["error"].startswith("out of memory") and rows[7]["state"] == "waiting" and rows[7]["seed"] == "2"


def test_with_other_cutoffs_the_change_of_keep_sets_is_of_their_metric(tmp_path):
    summary = make_run(tmp_path / "0", overrides=["seed=1"], keep=[("wiki-test", -0.02)])
    write_json(tmp_path / "0/summary.json", json.loads(json.dumps(summary).replace("@10", "@5").replace("hit@1", "hit@5")))
    sweep = read_sweep(tmp_path)
    (row,) = collect(sweep)
    assert row["wiki-test ndcg@5 change"] == -0.02 and {f"faq-test {name}@5" for name in ("recall", "ndcg", "mrr")} <= row.keys()
    assert "-0.020 [-0.030, -0.010]" in sweep_page(sweep, "en") and "-0.020" in ending(sweep, "again")


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path):
    formulas = ["=HYPERLINK(1)", "@SUM(1)", "+cmd", "-2+3", "\t=1", "\r=1", "\n=1", "＝1+1", "－1+1"]
    given = [f"a{number}={value}" for number, value in enumerate([*formulas, "-1", "+0.5", "-1e-5"])]
    make_run(tmp_path / "0", overrides=given, test="=cmd|' C calc'!A0", best={"score": -0.5, "step": 1})
    write_json(tmp_path / "1/status.json", {"state": "failed", "error": "=error", "seconds": 0})
    (tmp_path / "1/overrides.yaml").write_text(yaml.safe_dump(["a0=1"]))
    write_csv(read_sweep(tmp_path))
    with open(tmp_path / "sweep.csv", newline="") as file:
        first, second = csv.DictReader(file)
    cells = [first[f"a{number}"] for number in range(len(given))]
    assert cells == [f"'{formula}" for formula in formulas] + ["-1", "+0.5", "-1e-5"] and second["error"] == "'=error"
    assert first["dev ndcg@10"] == "-0.5" and "'=cmd|' C calc'!A0 ndcg@10" in first


def test_rows_of_older_jobs_without_a_verdict_are_there(tmp_path):
    summary = make_run(tmp_path / "0", overrides=["seed=1"], dev=False)
    del summary["verdict"], summary["keep"]
    write_json(tmp_path / "0/summary.json", summary)
    (row,) = collect(read_sweep(tmp_path))
    assert row["verdict"] == "" and np.isclose(row["faq-test ndcg@10"], summary["scores"]["after"]["metrics"]["ndcg@10"])
