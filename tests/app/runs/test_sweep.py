"""A sweep is begun once or resumed; its table has the best run first, failures last, and gain and loss side by side."""

import csv
import math
import os
import signal
from enum import Enum

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict, read_write

from e5ft.app.runs import script, sweep
from e5ft.app.runs.folder import hold
from e5ft.app.runs.stopping import StopAtStepEnd, stopping_at_once
from e5ft.app.runs.sweep import AnotherSweepError, EndOfSweep, begin, collect, state_before
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError, TerminatedError, VerdictError
from e5ft.files import read_json, write_json, write_text


def job(folder, number, *, dev=None, test=0.5, change=None, error=None, test_set="law-test"):
    """Write what a job leaves; one that went wrong leaves a summary, too."""
    if error:
        summary = status = {"state": "failed", "error": error}
    else:
        status = {"state": "finished"}
        keep = [] if change is None else [{"set": "wiki-test", "differences": {"ndcg@10": {"mean": change}}}]
        scores = {"after": {"metrics": {"ndcg@10": test, "hit@1": test}}}
        summary = {"state": "finished", "best": {"score": dev}, "objective": "ndcg@10", "test_set": test_set, "keep": keep}
        summary |= {"training": {"seconds": 1.5}, "scores": scores}
    write_json(folder / str(number) / "status.json", status)
    write_json(folder / str(number) / "summary.json", summary)


def test_a_damaged_status_is_a_line_of_the_table(tmp_path):
    job(tmp_path, 0, dev=0.4)
    job(tmp_path, 1, dev=0.5)
    (tmp_path / "1/status.json").write_text("")
    rows = collect(tmp_path)
    assert [row["state"] for row in rows] == ["finished", "failed"] and "1/status.json: damaged; remove it" in rows[1]["error"]


def test_gain_and_loss_stand_side_by_side(tmp_path):
    job(tmp_path, 0, dev=0.4)
    assert not any("change" in column for column in collect(tmp_path)[0])
    job(tmp_path, 0, dev=0.4, change=-0.02)
    job(tmp_path, 1, error="no rows\nsecond line")
    job(tmp_path, 2, dev=0.6, test=0.7, change=0.01)
    rows = collect(tmp_path)
    assert [row["job"] for row in rows] == ["2", "0", "1"]
    assert [row.get("wiki-test ndcg@10 change") for row in rows] == [0.01, -0.02, None]
    assert rows[0]["law-test ndcg@10"] == 0.7 and rows[2]["error"] == "no rows" and rows[2]["state"] == "failed"


@pytest.mark.parametrize(
    ("require", "words", "code"),
    [("better", "NO DIFFERENCE", 7), ("better", "BETTER", None), ("better", "WORSE", 7), (None, "WORSE", None)],
)
def test_the_best_job_s_verdict_is_the_sweep_s(tmp_path, monkeypatch, require, words, code):
    """The other job is better on the test, and worse on the dev set; costs elsewhere change nothing."""
    monkeypatch.setattr(sweep, "_lacking", None)
    for number, (dev, word) in enumerate([(0.6, words), (0.4, "BETTER" if code else "WORSE")]):
        job(tmp_path / "s", number, dev=dev)
        file = tmp_path / "s" / str(number) / "summary.json"
        write_json(file, {**read_json(file), "verdict": {"word": word, "costs_elsewhere": True}})
    assert [row["verdict"] for row in collect(tmp_path / "s")][0] == f"{words}, COSTS ELSEWHERE"
    sweep.SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "s")}}, "require": require}))
    if code is None:
        return sweep.check_verdict()
    with pytest.raises(VerdictError, match=f"the verdict is {words}; .*s/0/summary.json") as raised:
        sweep.check_verdict()
    assert raised.value.exit_code == code


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path):
    formulas = ["=HYPERLINK(1)", "@SUM(1)", "+cmd", "-2+3", "\t=1", "\r=1", "\n=1", "＝1+1", "－1+1"]
    job(tmp_path, 0, dev=-0.5, change=-0.25, test_set="=cmd|' /C calc'!A0")
    overrides = {f"a{number}": value for number, value in enumerate([*formulas, "-1", "+0.5", "-1e-5"])}
    write_text(tmp_path / "0/overrides.yaml", OmegaConf.to_yaml([f"{name}={value}" for name, value in overrides.items()]))
    job(tmp_path, 1, error="=error")
    sweep.write_table(tmp_path)
    with open(tmp_path / "sweep.csv", newline="") as file:
        first, second = csv.DictReader(file)
    cells = [first[f"a{number}"] for number in range(len(overrides))]
    assert cells == [f"'{formula}" for formula in formulas] + ["-1", "+0.5", "-1e-5"] and second["error"] == "'=error"
    assert first["dev ndcg@10"] == "-0.5" and "'=cmd|' /C calc'!A0 ndcg@10" in first


@pytest.mark.parametrize(
    ("launcher", "package"), [("parallel", "hydra_joblib_launcher"), ("submitit", "hydra_submitit_launcher")]
)
def test_launchers_compose_into_what_their_package_takes(launcher, package):
    """Our values over the package's, and no field that its launcher does not know."""
    pytest.importorskip(f"hydra_plugins.{package}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        composed = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra.launcher
    GlobalHydra.instance().clear()
    ours = OmegaConf.load(shipped("conf") / "hydra/launcher" / f"{launcher}.yaml")
    assert {key: composed[key] for key in ours if key != "defaults"} == {key: ours[key] for key in ours if key != "defaults"}
    given = {
        **OmegaConf.to_container(composed, resolve=False),
        **({} if launcher == "parallel" else {"submitit_folder": ".", "name": "train"}),
    }
    assert instantiate(given, _recursive_=False) is not None


@pytest.fixture
def ours(monkeypatch):
    """Let no test leave the lock of a multirun behind."""
    monkeypatch.setattr(sweep, "_held", None)


def test_a_name_is_begun_once_and_then_resumed(tmp_path, ours, monkeypatch):
    folder = tmp_path / "s"
    for value in ("yes", 1, None):
        with pytest.raises(ConfigurationError, match="sweep.resume="):
            begin(folder, value)
    with pytest.raises(ConfigurationError, match="there is no multirun"):
        begin(folder, resume=True)
    begin(folder, resume=False)
    sweep._held[1].release()
    begin(folder, resume=False)  # ended before its first job: nothing to lose
    sweep._held[1].release()
    job(folder, 0, error="refused")
    begin(folder, resume=False)  # nor after a job that failed before its first checkpoint
    sweep._held[1].release()
    job(folder, 1, dev=0.4)
    # Hydra lets it pass: of an `Exception` in a callback it makes a warning.
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}
    hydra = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "sweeper": sweeper}, "sweep": {"resume": False}})
    with pytest.raises(EndOfSweep, match=r"holds a multirun already \(jobs 1\).*sweep.resume=true") as raised:
        sweep.SweepTable().on_multirun_start(hydra)
    assert not isinstance(raised.value, Exception) and raised.value.error.exit_code == 2
    begin(folder, resume=True)
    # A forked or fresh process of a launcher runs a job alone: what stops it stops that job.
    this = os.getpid()
    assert sweep.runs_here()
    monkeypatch.setattr(os, "getpid", lambda: this + 1)
    assert not sweep.runs_here()


def test_a_single_run_is_not_resumed_as_a_multirun(trained):
    with pytest.raises(ConfigurationError, match="to resume a run: resume=true"):
        trained("sweep.resume=true")


def test_a_multirun_that_is_running_is_refused(tmp_path, ours):
    with hold(tmp_path / "sweep.lock", "held"):
        for resume in (False, True):
            with pytest.raises(ConfigurationError, match="another process is running the multirun"):
                begin(tmp_path, resume)
    begin(tmp_path, resume=True)


def test_a_job_is_picked_up_only_with_its_own_overrides(tmp_path):
    folder = tmp_path / "0"
    assert state_before(folder, ["loss.temperature=0.1"]) is None
    (folder / "checkpoint-1").mkdir(parents=True)
    assert state_before(folder, ["loss.temperature=0.1"]) == "unknown"  # its status is gone, its work is not
    write_json(folder / "status.json", {"state": "running"})
    assert state_before(folder, ["loss.temperature=0.1"]) == "running"  # killed before the overrides were written
    write_text(folder / "overrides.yaml", "- name=s\n- loss.temperature=0.1\n")
    assert state_before(folder, ["loss.temperature=0.1", "name=s", "sweep.resume=true"]) == "running"
    with pytest.raises(AnotherSweepError, match="job 0 .*\n  then: loss.temperature=0.1\n  now:  loss.temperature=0.2 seed=1\n"):
        state_before(folder, ["name=s", "loss.temperature=0.2", "seed=1"])


@pytest.fixture
def in_sweep(composed, tmp_path, ours, monkeypatch):
    """Run a function as job 0 of a multirun."""

    def run(function, *, here: bool):
        composed("train", "tracking=off", run_dir="multirun/s/0")
        hydra = HydraConfig.instance().cfg.hydra
        with read_write(hydra):
            hydra.mode, hydra.sweep.dir, hydra.job.num = RunMode.MULTIRUN, str(tmp_path / "multirun/s"), 0
        if here:
            begin(tmp_path / "multirun/s", resume=False)
        (tmp_path / "multirun/s/0").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(script, "_checked", function)
        return script.run_job(None)

    return run


def raises(error):
    def function(config):
        raise error

    return function


def test_sigterm_ends_the_sweep_where_its_jobs_run_in_its_process_and_else_the_job_alone(in_sweep, capsys):
    assert math.isnan(in_sweep(raises(TerminatedError("stopped")), here=False))
    with pytest.raises(EndOfSweep, match="job 0.*sweep.resume=true name=s"):
        in_sweep(raises(TerminatedError("stopped")), here=True)
    assert "1 runs" in capsys.readouterr().out


OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


@pytest.mark.parametrize(("target", "answer"), [(None, math.nan), (OPTUNA, -math.inf)])
def test_a_failed_job_is_the_worst_to_a_sweeper_that_searches_and_nan_to_hydra_s_own(in_sweep, target, answer):
    def function(config):
        if target is not None:
            hydra = HydraConfig.instance().cfg.hydra
            with read_write(hydra), open_dict(hydra):
                hydra.sweeper = OmegaConf.create({"_target_": target, "direction": "maximize"})
        raise DataError("rows.jsonl:1: query is blank")

    assert in_sweep(function, here=True) == pytest.approx(answer, nan_ok=True)


@pytest.mark.parametrize(
    ("direction", "evaluates", "message"),
    [
        ("maximize", "steps", None),
        (["maximize"], "steps", None),
        ("minimize", "steps", "hydra.sweeper.direction=minimize: must be maximize"),
        (
            Enum("Direction", "minimize").minimize,
            "steps",
            "hydra.sweeper.direction=minimize: must be maximize",
        ),  # Optuna's default
        (["maximize", "maximize"], "steps", "hydra.sweeper.direction="),
        ("maximize", "no", "training.eval_strategy=no: must be"),
        ("maximize", False, "training.eval_strategy=no: must be"),
    ],
)
def test_a_search_for_the_worst_or_for_nothing_is_refused(tmp_path, ours, direction, evaluates, message):
    folder = tmp_path / "multirun/s"
    config = OmegaConf.create(
        {
            "hydra": {"sweep": {"dir": str(folder)}, "sweeper": {"_target_": OPTUNA, "direction": direction}},
            "sweep": {"resume": False},
            "training": {"eval_strategy": evaluates},
        }
    )
    if message is None:
        sweep.SweepTable().on_multirun_start(config)
        sweep._held[1].release()
        return
    with pytest.raises(EndOfSweep, match=message):
        sweep.SweepTable().on_multirun_start(config)
    assert not folder.exists()


@pytest.mark.parametrize(("here", "kind"), [(True, EndOfSweep), (False, AnotherSweepError)])
def test_another_sweep_ends_all(in_sweep, here, kind):
    with pytest.raises(kind):
        in_sweep(raises(AnotherSweepError("other jobs")), here=here)


def test_sigterm_after_a_job_has_trained_is_not_lost(in_sweep):
    def function(config):
        with stopping_at_once("name=run resume=true"):
            with StopAtStepEnd(lambda: False):
                os.kill(os.getpid(), 15)
            return 0.5

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EndOfSweep):
        in_sweep(function, here=True)
    assert signal.getsignal(signal.SIGTERM) == before
