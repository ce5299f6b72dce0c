"""A sweep is begun once or resumed; its table has the best run first, failures last, and gain and loss side by side."""

import math
import os
import re
import signal
from enum import Enum
from pathlib import Path

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
from e5ft.app.runs.sweep import AnotherSweepError, EndOfSweep, begin, state_before
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError, TerminatedError, VerdictError
from e5ft.files import read_json, write_json, write_text
from e5ft.reporting.facts import jobs_of, locate
from e5ft.reporting.sweeps import read_sweep
from tests.reporting.made_runs import make_run


@pytest.fixture
def ours(monkeypatch):
    """Let no test leave the lock of a multirun behind."""
    monkeypatch.setattr(sweep, "_held", None)


def job(folder, number, *, dev=None, error=None, **changed):
    """Write what a job leaves."""
    if error:
        write_json(folder / str(number) / "status.json", {"state": "failed", "error": error, "seconds": 1.0})
        return
    make_run(folder / str(number), overrides=[f"seed={number}"], best={"score": dev, "step": 4}, **changed)


@pytest.mark.parametrize(
    ("require", "words", "code"),
    [("better", "NO DIFFERENCE", 7), ("better", "BETTER", None), ("better", "WORSE", 7), (None, "WORSE", None)],
)
def test_the_best_job_s_verdict_is_the_sweep_s(tmp_path, monkeypatch, require, words, code):
    """The other job is better on the test, and worse on the dev set; costs elsewhere change nothing."""
    monkeypatch.setattr(sweep, "lacking", None)
    for number, (dev, word) in enumerate([(0.6, words), (0.4, "BETTER" if code else "WORSE")]):
        job(tmp_path / "s", number, dev=dev, verdict={"word": word, "costs_elsewhere": True})
    sweep.SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "s")}}, "require": require}))
    if code is None:
        assert sweep.lacking is None
        return
    assert isinstance(sweep.lacking, VerdictError) and sweep.lacking.exit_code == code
    assert re.search(f"the verdict is {words}; .*s/0/summary.json", str(sweep.lacking))


OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def multirun(folder, *overrides, resume=False, target=BASIC, params=None):
    """What Hydra composes of a multirun, as far as callbacks look at it."""
    sweeper = {"_target_": target, "params": params, "direction": "maximize"}
    hydra = {"sweep": {"dir": str(folder)}, "sweeper": sweeper, "overrides": {"task": list(overrides)}, "mode": RunMode.MULTIRUN}
    hydra |= {"job": {"num": 0}}
    return OmegaConf.create(
        {"hydra": hydra, "sweep": {"resume": resume}, "training": {"eval_strategy": "steps"}, "require": None}
    )


def test_the_jobs_are_written_down_as_hydra_makes_them_and_without_secrets(tmp_path, ours):
    folder, given = tmp_path / "s", ("name=s", "seed=1,2", "loss.temperature=range(1,3)", "my.api_key=very-secret-1")
    sweep.SweepTable().on_multirun_start(
        multirun(folder, *given, "sweep.resume=false", params={"seed": "5,6", "step.guide": "null"})
    )
    written = read_json(folder / "sweep.json")
    assert [job[1:] for job in written["jobs"]] == [
        ["step.guide=null", "name=s", f"loss.temperature={t}", "my.api_key=[secret]"] for _ in (1, 2) for t in (1, 2)
    ]  # the command line's seed wins over the YAML's
    assert [job[0] for job in written["jobs"]] == ["seed=1", "seed=1", "seed=2", "seed=2"]
    assert written["given"] == [*given[:3], "my.api_key=[secret]"] and "very-secret" not in (folder / "sweep.json").read_text()
    assert [job.facts.state for job in read_sweep(folder).jobs] == ["waiting"] * 4


@pytest.mark.parametrize(("target", "override"), [(OPTUNA, "seed=interval(1,2)"), (BASIC, "model=glob(*)")])
def test_of_a_search_no_job_is_known_before_it_begins(tmp_path, ours, target, override):
    sweep.SweepTable().on_multirun_start(multirun(tmp_path / "s", "name=s", override, target=target))
    assert read_json(tmp_path / "s/sweep.json") == {"jobs": None, "given": ["name=s", override]}


def test_each_job_begins_with_a_line_and_a_plain_run_without(tmp_path, ours, capsys):
    config = multirun(tmp_path / "s", "name=s", "seed=1,2")
    sweep.SweepTable().on_multirun_start(config)
    config.hydra.job.num, config.hydra.overrides.task = 1, ["name=s", "seed=2"]
    sweep.SweepTable().on_job_start(config)
    assert capsys.readouterr().out == "\nrun 2 of 2: job 1, seed=2\n"
    config.hydra.mode = RunMode.RUN
    sweep.SweepTable().on_job_start(config)
    assert capsys.readouterr().out == ""


def test_another_multirun_under_the_name_is_refused_before_a_job_begins_and_leaves_the_plan(tmp_path, ours):
    folder = tmp_path / "s"
    sweep.SweepTable().on_multirun_start(multirun(folder, "seed=1,2"))
    sweep._held[1].release()
    plan = (folder / "sweep.json").read_bytes()
    job(folder, 1, dev=0.5)
    with pytest.raises(EndOfSweep, match="job 1 of .* was begun with other overrides"):
        sweep.SweepTable().on_multirun_start(multirun(folder, "seed=1,3", resume=True))
    assert (folder / "sweep.json").read_bytes() == plan
    sweep._held[1].release()
    sweep.SweepTable().on_multirun_start(multirun(folder, "seed=0,1,2", resume=True))  # more jobs may follow


def test_a_name_whose_jobs_all_failed_at_once_is_free_for_another_multirun(tmp_path, ours):
    job(tmp_path / "s", 0, error="no rows")
    write_text(tmp_path / "s/0/overrides.yaml", "- seed=1\n")
    sweep.SweepTable().on_multirun_start(multirun(tmp_path / "s", "seed=7,8"))
    assert [job[0] for job in read_json(tmp_path / "s/sweep.json")["jobs"]] == ["seed=7", "seed=8"]


def test_a_link_leads_to_the_best_job_and_the_table_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "multirun/s"
    for number, dev in enumerate((0.4, 0.6)):
        job(folder, number, dev=dev)
    sweep.write_table(folder)
    assert os.readlink(folder / "best") == "1" and (folder / "best/summary.json").is_file()
    assert "best        job 1: multirun/s/best/model   (a link to multirun/s/1)\n" in capsys.readouterr().out
    assert locate("multirun/s/best") == folder / "1" and [path.name for path in jobs_of(folder)] == ["0", "1"]
    for number in (0, 1):  # resumed jobs without dev scores: nothing is the best any more
        job(folder, number)
    sweep.write_table(folder)
    assert not (folder / "best").exists() and "multirun/s/0/model" in capsys.readouterr().out


def test_where_no_link_can_be_made_the_table_names_the_folder(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    job(tmp_path / "multirun/s", 0, dev=0.5)
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    sweep.write_table(tmp_path / "multirun/s")
    assert "best        job 0: multirun/s/0/model\n" in capsys.readouterr().out
    assert "multirun/s/best: no link could be made (Operation not permitted)" in caplog.text


def test_a_page_that_cannot_be_made_is_a_warning_and_the_table_is_there(tmp_path, monkeypatch, capsys, caplog):
    job(tmp_path / "s", 0, dev=0.5)
    (tmp_path / "s/report.html").mkdir()
    assert sweep.write_table(tmp_path / "s").best.number == "0"
    assert "1 runs: 1 finished" in capsys.readouterr().out and "report.html could not be made" in caplog.text


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
    with pytest.raises(EndOfSweep, match=r"holds a multirun already \(jobs 1\).*sweep.resume=true") as raised:
        sweep.SweepTable().on_multirun_start(multirun(folder))
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
    config = multirun(folder, target=OPTUNA)
    config.hydra.sweeper.direction, config.training.eval_strategy = direction, evaluates
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
