"""Several processes at once: one fills a cold cache, all read it; a name is one process's until it ends, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e5ft.files import read_json
from tests.app.conftest import TINY
from tests.conftest import make_rows
from tests.test_cli import ENVIRONMENT, ROOT, call

RUN = (
    "name=n", *TINY, "tracking=off", "evaluation.bm25=null", "training.use_cpu=true", "training.max_steps=100000",
    "training.eval_strategy=no", "training.load_best_model_at_end=false", "training.save_steps=50", "training.save_total_limit=20",
    "training.logging_steps=500",  # its lines are read at the end alone: a full pipe would hold it up
)  # fmt: skip
SAVED = "trainer_state.json"  # the last file of a checkpoint


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


def newest(cwd) -> int:
    """Step of the newest checkpoint."""
    return max(int(path.name.rpartition("-")[2]) for path in (cwd / "outputs/n").glob("checkpoint-*"))


def test_four_processes_on_a_cold_cache(write_rows, tmp_path):
    rows = write_rows(make_rows(100))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cold_cache", rows, str(tmp_path), "4"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [read_json(tmp_path / f"found-{number}.json") for number in range(4)]
    assert all(each == found[0] for each in found)
    writes = (tmp_path / "writes").read_text().split("\n")[:-1]
    assert [line.split()[0] for line in sorted(writes)] == ["arrow"] * 2 + ["vectors"] * 4  # rows, tokens; 100 texts by 32
    for what in ("arrow", "vectors"):  # rows and tokens may have a writer each
        assert len({line for line in writes if line.startswith(what)}) <= (2 if what == "arrow" else 1)
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".") or "partial" in path.name]
    assert left == []


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A run that does not end by itself, in the middle of its training."""
    cwd = tmp_path_factory.mktemp("names")
    process = start(*RUN, cwd=cwd)
    wait_for(cwd / "outputs/n/checkpoint-50" / SAVED, process)
    yield cwd, process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("arguments", "processes"), [((), 1), (("resume=true",), 1), (("resume=true",), 2)])
def test_a_name_in_use_is_refused(running, arguments, processes):
    cwd, process = running
    status = (cwd / "outputs/n/status.json").read_text()
    done = call("train.py", *RUN, *arguments, cwd=cwd, processes=processes)
    assert done.returncode == (2 if processes == 1 else 1)
    assert (
        "another process is running this name" in done.stderr
        and "Traceback"
        not in done.stderr.split("torch.distributed.elastic")[0].split(
            'Traceback (most recent call last):\n  File "<frozen runpy>"'
        )[0]
    )
    assert process.poll() is None and (cwd / "outputs/n/status.json").read_text() == status


def test_a_crashed_runs_lock_holds_nobody_up(running):
    cwd, process = running
    wait_for(cwd / f"outputs/n/checkpoint-{newest(cwd) + 50}" / SAVED, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_json(cwd / "outputs/n/status.json")["state"] == "running"
    step = newest(cwd)
    anew = call("train.py", *RUN, cwd=cwd)
    assert anew.returncode == 2 and "holds a run already (running)" in anew.stderr
    again = start(*RUN, "resume=true", cwd=cwd)
    wait_for(cwd / f"outputs/n/checkpoint-{step + 50}" / SAVED, again)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 143 and read_json(cwd / "outputs/n/status.json")["state"] == "stopped"
