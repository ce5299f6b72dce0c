"""A multirun that real signals end, resumed: finished jobs are skipped, the others continue, and the results are the same."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e5ft.files import read_json
from e5ft.reporting.facts import jobs_of
from tests.app.conftest import TINY
from tests.test_cli import ENVIRONMENT, ROOT, call

SWEEP = (
    "-m", "name=s", "seed=1,2", *TINY, "tracking=off", "evaluation.bm25=null", "training.max_steps=40", "training.save_steps=10",
    "training.eval_steps=20", "training.load_best_model_at_end=false", "training.save_total_limit=null",
)  # fmt: skip


def ended_by(number, file: Path, *arguments, cwd) -> tuple[int, dict, str]:
    """Start the multirun and send it a signal as soon as a file is there; returns exit code, states of its jobs, and what it said."""
    command = [sys.executable, str(ROOT / "train.py"), *SWEEP, *arguments]
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        end = time.monotonic() + 240  # generous: it only ends a wait for what never comes
        while not file.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        came = file.exists() and process.poll() is None
        process.send_signal(number if came else signal.SIGKILL)
        said = "".join(process.communicate(timeout=60))
    assert came, said
    return process.returncode, states(file.parents[2]), said


def states(folder):
    return {job.name: read_json(job / "status.json")["state"] for job in jobs_of(folder)}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """SIGTERM in job 0, resumed, SIGKILL in job 1, resumed."""
    cwd = tmp_path_factory.mktemp("sweep")
    folder = cwd / "multirun/s"
    last = "checkpoint-10/trainer_state.json"  # the last file of a checkpoint that is written
    terminated = ended_by(signal.SIGTERM, folder / "0" / last, cwd=cwd)
    leg = read_json(folder / "0/status.json")
    killed = ended_by(signal.SIGKILL, folder / "1" / last, "sweep.resume=true", cwd=cwd)
    summary = (folder / "0/summary.json").stat()
    return cwd, (*terminated, leg), killed, summary, call("train.py", *SWEEP, "sweep.resume=true", cwd=cwd)


def test_sigterm_saves_and_ends_the_whole_multirun_and_sigkill_leaves_a_running_job(ended):
    (code, jobs, said, leg), killed = ended[1], ended[2]
    assert code == 143 and jobs == {"0": "stopped"} and "sweep.resume=true name=s" in said
    assert "run 1 of 2: job 0, seed=1" in said and "2 runs: 1 stopped, 1 waiting" in said
    assert leg["error"].endswith("Resume: name=s sweep.resume=true")  # not a run's remedy, which would look in outputs/
    assert killed[:2] == (-signal.SIGKILL, {"0": "finished", "1": "running"})


def test_resumed_it_skips_what_finished_and_continues_the_rest(ended):
    cwd, _, _, before, done = ended
    folder = cwd / "multirun/s"
    assert done.returncode == 0, done.stderr
    assert states(folder) == {"0": "finished", "1": "finished"}
    after = (folder / "0/summary.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert "job 0: finished already" in done.stdout and "2 runs" in done.stdout
    with open(folder / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["seed"] for row in rows) == ["1", "2"] and all(row["dev ndcg@10"] for row in rows)
    assert "sweep.resume" not in rows[0]
    stopped = next(float(row["seconds"]) for row in rows if row["job"] == "0")
    assert stopped > ended[1][3]["seconds"]  # of all its processes
    assert (folder / "report.html").is_file() and f"best        job {rows[0]['job']}: multirun/s/" in done.stdout
    for job in "01":  # resumed from a checkpoint: no step is missing or there twice
        entries = map(json.loads, (folder / job / "metrics.jsonl").read_text().splitlines())
        assert [entry["step"] for entry in entries if "loss" in entry] == list(range(1, 41))


def test_other_jobs_under_the_name_are_refused_with_both_named(ended):
    cwd = ended[0]
    done = call("train.py", *SWEEP, "sweep.resume=true", "seed=1,5", cwd=cwd)
    assert done.returncode == 2 and "job 1 of" in done.stderr
    assert "then: seed=2" in done.stderr and "now:  seed=5" in done.stderr
    assert states(cwd / "multirun/s") == {"0": "finished", "1": "finished"}


STAND_IN = """
import math
from dataclasses import dataclass, field
from typing import Any
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Searching(Sweeper):
    def __init__(self, n_trials, params, **_):
        self.n_trials, self.params = n_trials, params

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments):
        assert set(self.params) == {"loss.temperature", "optimizer.lr"}
        for job in range(self.n_trials):
            trial = [*arguments, f"seed={job}", f"loss.chunk_size={(512, 0, 512)[job]}"]
            value = float(self.launcher.launch([trial], initial_job_idx=job)[0].return_value)
            if math.isnan(value):
                raise ValueError("Values for state TrialState.FAIL should be None.")  # as Optuna's
            print("objective", value)


@dataclass
class Settings:
    _target_: str = "hydra_plugins.stand_in.searching.Searching"
    direction: Any = "minimize"
    n_trials: int = 20
    n_jobs: int = 2
    sampler: dict[str, Any] = field(default_factory=lambda: {"seed": None})
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=Settings, provider="stand_in")
"""


def test_a_failed_job_does_not_end_a_search(tmp_path):
    """A stand-in for Optuna's sweeper, under its name: it knows the fields that are set, and ends on NaN as that does."""
    plugin = tmp_path / "hydra_plugins/stand_in"
    plugin.mkdir(parents=True)
    (plugin / "searching.py").write_text(STAND_IN)
    (plugin / "__init__.py").touch()
    given = ("experiment=optuna", "name=s", *TINY, "tracking=off", "evaluation.bm25=null", "training.max_steps=1")
    done = call("train.py", *given, "hydra.sweeper.n_trials=3", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    objectives = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("objective")]
    assert objectives[1] == "-inf" and all(0 < float(objectives[job]) < 1 for job in (0, 2))
    assert "3 runs" in done.stdout and "loss.chunk_size=0: must be" in done.stdout
    assert states(tmp_path / "multirun/s") == {"0": "finished", "1": "failed", "2": "finished"}
