"""A sweep is begun once or gone on with; its table has the best run first, failures last, and gain and loss side by side."""

import os
import signal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf, read_write

from e5ft.app.runs import script, sweep
from e5ft.app.runs.folder import hold
from e5ft.app.runs.stopping import StopAtStepEnd, stopping_at_once
from e5ft.app.runs.sweep import AnotherSweepError, EndOfSweep, begin, collect, state_before
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, TerminatedError
from e5ft.files import write_json, write_text


def job(folder, number, *, dev=None, test=0.5, change=None, error=None):
    write_json(folder / str(number) / "status.json", {"state": "failed", "error": error} if error else {"state": "finished"})
    if error:  # a job that went wrong leaves a summary, too
        end = {"state": "failed", "error": error, "exit_code": 3, "reached": {"step": 4, "dev": None}, "seconds": 1.5}
        write_json(folder / str(number) / "summary.json", end)
        return
    keep = [{"set": "wiki-test", "differences": {"ndcg@10": {"mean": change}}}] if change is not None else []
    summary = {
        "state": "finished", "best": {"score": dev}, "objective": "ndcg@10", "test_set": "law-test", "keep": keep, "training": {"seconds": 1.5},
        "scores": {"after": {"metrics": {"ndcg@10": test, "hit@1": test}}},
    }  # fmt: skip
    write_json(folder / str(number) / "summary.json", summary)


def test_gain_and_loss_stand_side_by_side(tmp_path):
    job(tmp_path, 0, dev=0.4, change=-0.02)
    job(tmp_path, 1, error="no rows\nsecond line")
    job(tmp_path, 2, dev=0.6, test=0.7, change=0.01)
    rows = collect(tmp_path)
    assert [row["job"] for row in rows] == ["2", "0", "1"]
    assert [row.get("wiki-test ndcg@10 change") for row in rows] == [0.01, -0.02, None]
    assert rows[0]["law-test ndcg@10"] == 0.7 and rows[2]["error"] == "no rows" and rows[2]["state"] == "failed"


def test_a_sweep_without_keep_sets_has_no_such_column(tmp_path):
    job(tmp_path, 0, dev=0.4)
    assert not any("change" in column for column in collect(tmp_path)[0])


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


def test_a_name_is_begun_once_and_then_gone_on_with(tmp_path, ours):
    folder = tmp_path / "s"
    with pytest.raises(ConfigurationError, match="there is no multirun"):
        begin(folder, resume=True)
    begin(folder, resume=False)
    assert sweep.runs_here()
    sweep._held[1].release()
    begin(folder, resume=False)  # ended before its first job: nothing to lose
    sweep._held[1].release()
    job(folder, 0, error="refused")
    begin(folder, resume=False)  # nor after a job that failed before its first checkpoint
    sweep._held[1].release()
    job(folder, 1, dev=0.4)
    with pytest.raises(ConfigurationError, match=r"holds a multirun already \(jobs 1\).*sweep.resume=true"):
        begin(folder, resume=False)
    begin(folder, resume=True)


def test_hydra_hears_of_a_taken_name_before_the_first_job(tmp_path, ours):
    """As what Hydra lets pass: of an `Exception` in a callback it makes a warning."""
    job(tmp_path, 0, dev=0.4)
    given = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "sweep": {"resume": False}})
    with pytest.raises(EndOfSweep) as raised:
        sweep.SweepTable().on_multirun_start(given)
    assert not isinstance(raised.value, Exception) and raised.value.error.exit_code == 2


def test_a_single_run_is_not_gone_on_with_as_a_multirun(trained):
    with pytest.raises(ConfigurationError, match="to resume a run: resume=true"):
        trained("sweep.resume=true")


def test_a_multirun_that_is_running_is_refused(tmp_path, ours):
    folder = tmp_path / "s"
    folder.mkdir()
    with hold(folder / "sweep.lock", "held"):
        for resume in (False, True):
            with pytest.raises(ConfigurationError, match="another process is running the multirun"):
                begin(folder, resume)
    begin(folder, resume=True)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_resume_is_true_or_false(tmp_path, value):
    with pytest.raises(ConfigurationError, match="sweep.resume="):
        begin(tmp_path / "s", value)


def test_only_the_process_that_began_a_multirun_runs_it(tmp_path, ours, monkeypatch):
    """A forked or fresh process of a launcher runs a job alone: what stops it stops that job."""
    assert not sweep.runs_here()
    begin(tmp_path / "s", resume=False)
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    assert not sweep.runs_here()


def test_a_job_is_picked_up_only_with_its_own_overrides(tmp_path):
    folder = tmp_path / "0"
    assert state_before(folder, ["loss.temperature=0.1"]) is None
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


def test_sigterm_ends_the_sweep_where_its_jobs_run_in_its_process(in_sweep, capsys):
    with pytest.raises(EndOfSweep) as raised:
        in_sweep(raises(TerminatedError("stopped")), here=True)
    assert "job 0" in str(raised.value.error) and "sweep.resume=true name=s" in str(raised.value.error)
    assert "1 runs" in capsys.readouterr().out


def test_sigterm_ends_a_job_alone_in_a_process_of_its_own(in_sweep):
    value = in_sweep(raises(TerminatedError("stopped")), here=False)
    assert value != value  # NaN


@pytest.mark.parametrize(("here", "kind"), [(True, EndOfSweep), (False, AnotherSweepError)])
def test_another_sweep_ends_all(in_sweep, here, kind):
    with pytest.raises(kind):
        in_sweep(raises(AnotherSweepError("other jobs")), here=here)


def test_sigterm_after_a_job_has_trained_is_not_lost(in_sweep):
    def function(config):
        with stopping_at_once("run"):
            with StopAtStepEnd(lambda: False):
                os.kill(os.getpid(), 15)
            return 0.5

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EndOfSweep):
        in_sweep(function, here=True)
    assert signal.getsignal(signal.SIGTERM) == before
