"""The terminal's table of a sweep fits 120 columns and says which model to take, and what to type next."""

import pytest
import yaml

from e5ft.files import write_json
from e5ft.reporting.sweep_table import beginning, ending
from e5ft.reporting.sweeps import read_sweep, split
from e5ft.retrieval.tables import display_width
from tests.reporting.made_runs import make_run, make_sweep

AGAIN = "python train.py -m seed=1,2 name=s sweep.resume=true"


def table(folder) -> str:
    return ending(read_sweep(folder), AGAIN)


def test_it_shows_what_varies_the_intervals_the_base_and_bm25_and_nothing_that_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sweep(tmp_path / "multirun/s", waiting=0, failed=0, queries=40)
    lines = table(tmp_path / "multirun/s").splitlines()
    assert lines[1] == "8 runs: 8 finished; every figure: multirun/s/sweep.csv"
    assert lines[4].split() == ["job", "temperature", "seed", "dev", "behind", "the", "best", "test", "gain", "result"]
    rows = {line.split()[0]: line for line in lines[6:16]}
    assert list(rows)[-2:] == ["before", "BM25"] and ".310" in rows["before"]
    best = next(line for line in lines if line.startswith("best"))
    assert lines[6].split()[:2] == [best.split()[2].rstrip(":"), "0.02"] and "best" in lines[6]
    assert all(
        row.count("[") >= (row is not lines[6]) + 1 for name, row in rows.items() if name.isdecimal()
    ) and "train_file" not in "".join(lines)
    assert (
        best.endswith(f": multirun/s/{lines[6].split()[0]}/model")
        and "loss.temperature=0.02 seed=" in lines[lines.index(best) + 1]
    )
    assert any(line.startswith("            not apart from job ") and "on the dev set" in line for line in lines)
    assert any(line.startswith("compare     python -m e5ft report 'runs=[multirun/s/") for line in lines)
    assert lines[-1].startswith("next        make eval RUN=multirun/s/")


def test_what_waits_and_what_failed_stand_in_it_with_the_sweep_s_own_remedy(tmp_path):
    make_sweep(tmp_path / "s")
    write_json(
        tmp_path / "s/6/status.json", {"state": "stopped", "error": "stopped. Resume: name=s sweep.resume=true", "seconds": 9}
    )
    (tmp_path / "s/6/metrics.jsonl").write_text('{"step": 3}\n')
    text = table(tmp_path / "s")
    assert "8 runs: 6 finished, 1 stopped, 1 waiting" in text and "stopped at step 3" in text and "waiting\n" in text
    assert "job 6 stopped: stopped. Resume: name=s sweep.resume=true\n" in text and text.endswith(f"resume      {AGAIN}")


@pytest.mark.parametrize("fields", [1, 4, 12])
def test_it_fits_120_columns_whatever_varies(tmp_path, monkeypatch, fields):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        given = [f"group{field}.설정-{field}={'가' * 30}{number}" for field in range(fields)]
        make_run(tmp_path / f"s/{number}", seed=number, overrides=given, keep=[("wiki-test", 0.01), ("law-test", -0.01)])
    (tmp_path / "s/3").mkdir()
    write_json(tmp_path / "s/3/status.json", {"state": "failed", "error": "x" * 300, "seconds": 1})
    lines = table(tmp_path / "s").splitlines()
    commands = ("resume", "compare")  # may not be cut
    assert max(display_width(line) for line in lines if not line.startswith(commands)) <= 120
    assert any(line.startswith("job ") for line in lines) and any("BETTER" in line for line in lines)


def test_without_a_finished_job_there_is_no_best_and_without_a_job_no_table(tmp_path):
    assert table(tmp_path).splitlines()[1].startswith("0 runs")
    make_sweep(tmp_path, failed=2, waiting=6)
    text = table(tmp_path)
    assert "2 failed, 6 waiting" in text and "best" not in text and "compare" not in text


def test_a_beginning_job_says_which_of_how_many_with_which_values(tmp_path):
    grid = make_sweep(tmp_path)
    assert beginning(tmp_path, 2, split(grid[2])) == "run 3 of 8: job 2, loss.temperature=0.02 seed=1"
    long = [[f"name=s{'e' * 200}", f"data.train_file={number}{'가' * 200}"] for number in range(2)]
    write_json(tmp_path / "sweep.json", {"jobs": long, "given": []})
    assert display_width(beginning(tmp_path, 0, split(long[0]))) <= 120


def test_a_search_s_job_says_what_it_tries(tmp_path):
    write_json(tmp_path / "sweep.json", {"jobs": None, "given": ["name=s", "experiment=optuna"]})
    tried = split(["name=s", "experiment=optuna", "loss.temperature=0.0137"])
    assert beginning(tmp_path, 4, tried) == "run 5: job 4, loss.temperature=0.0137"


def test_jobs_without_a_varied_setting_have_a_table_too(tmp_path):
    for number in range(2):
        make_run(tmp_path / str(number), overrides=["seed=1"])
    (tmp_path / "1/overrides.yaml").write_text(yaml.safe_dump(["seed=1"]))
    assert "2 runs: 2 finished" in table(tmp_path)
