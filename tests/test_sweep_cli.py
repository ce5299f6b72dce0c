"""A multirun that real signals end, started again: finished jobs are skipped, the others go on, and the results are the same."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e5ft.files import read_json
from tests.app.conftest import TINY
from tests.test_cli import ENVIRONMENT, ROOT, call

SWEEP = (
    "-m", "name=s", "seed=1,2", *TINY, "tracking=off", "evaluation.bm25=null", "training.max_steps=40", "training.save_steps=10",
    "training.eval_steps=20", "training.load_best_model_at_end=false", "training.save_total_limit=null",
)  # fmt: skip


def start(*arguments, cwd):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for(path: Path, process: subprocess.Popen):
    """Until a file is there; the process must not end before."""
    end = time.monotonic() + 240  # generous: it only ends a wait for what never comes
    try:
        while not path.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, f"{path} did not come"
            time.sleep(0.005)
    except AssertionError:
        process.kill()
        process.wait()
        raise


def states(folder):
    return {job.name: read_json(job / "status.json")["state"] for job in folder.iterdir() if (job / "status.json").is_file()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """SIGTERM in job 0, started again, SIGKILL in job 1, started again."""
    cwd = tmp_path_factory.mktemp("sweep")
    folder, found = cwd / "multirun/s", []
    for arguments, job, number in (((), "0", signal.SIGTERM), (("sweep.resume=true",), "1", signal.SIGKILL)):
        process = start(*SWEEP, *arguments, cwd=cwd)
        wait_for(folder / job / "checkpoint-10/trainer_state.json", process)  # its last file
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        found.append((process.returncode, states(folder), errors))
    first = (folder / "0/summary.json").stat()
    done = call("train.py", *SWEEP, "sweep.resume=true", cwd=cwd)
    return cwd, found, first, done


def test_sigterm_saves_and_ends_the_whole_multirun(ended):
    code, found, errors = ended[1][0]
    assert code == 143 and found == {"0": "stopped"}
    assert "sweep.resume=true name=s" in errors


def test_sigkill_leaves_the_job_as_running(ended):
    code, found, _ = ended[1][1]
    assert code == -signal.SIGKILL and found == {"0": "finished", "1": "running"}


def test_started_again_it_skips_and_goes_on(ended):
    cwd, _, first, done = ended
    folder = cwd / "multirun/s"
    assert done.returncode == 0, done.stderr
    assert states(folder) == {"0": "finished", "1": "finished"}
    now = (folder / "0/summary.json").stat()
    assert (first.st_ino, first.st_mtime_ns) == (now.st_ino, now.st_mtime_ns)
    assert "job 0: finished already" in done.stdout and "2 runs" in done.stdout
    with open(folder / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["seed"] for row in rows) == ["1", "2"] and all(row["dev ndcg@10"] for row in rows)
    assert "sweep.resume" not in rows[0]
    for job in "01":  # went on from a checkpoint: no step is missing or there twice
        lines = (folder / job / "metrics.jsonl").read_text().splitlines()
        steps = [read["step"] for read in map(json.loads, lines) if "loss" in read]
        assert steps == list(range(1, 41))


def test_other_jobs_under_the_name_are_refused_with_both_named(ended):
    cwd = ended[0]
    done = call("train.py", *SWEEP, "sweep.resume=true", "seed=1,5", cwd=cwd)
    assert done.returncode == 2 and "job 1 of" in done.stderr
    assert "then: seed=2" in done.stderr and "now:  seed=5" in done.stderr
    assert states(cwd / "multirun/s") == {"0": "finished", "1": "finished"}
