"""The scripts as a user starts them, each once: a run, a sweep with a crashing job, two processes, errors and their codes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e5ft.files import read_json
from tests.app.conftest import TINY

# Without a W&B key, as a newcomer's machine is.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {"OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[1]


def call(script, *arguments, cwd, processes=1, **environment):
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, str(ROOT / script), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=240, env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def assert_quiet(done):
    """No library warns of what a user cannot act on, in whatever words."""
    assert "warn" not in (done.stderr + done.stdout).lower(), done.stderr


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One quick run that the tests below share."""
    folder = tmp_path_factory.mktemp("cli")
    done = call("train.py", "experiment=quick", "name=quick", *TINY, "training.max_steps=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_reads_well_and_is_quiet(quick):
    folder, done = quick
    assert "before (random weights)" in done.stdout and "next        make eval RUN=outputs/quick" in done.stdout
    assert done.stdout.startswith("e5ft: ") and "random weights, to try things out" in done.stdout
    assert done.stderr == ""
    assert_quiet(done)
    assert list(folder.glob("outputs/quick/wandb/offline-run-*"))  # W&B without a key: files


@pytest.mark.parametrize(
    ("script", "setting", "words"),
    [
        ("eval.py", "evaluation.intervals=50", "sample-test: 434 queries, 256 passages"),
        ("mine.py", "name=m", "outputs/mined/m/rows.jsonl"),
        ("export.py", "output_dir=exported", "exported"),
    ],
)
def test_the_latest_run_is_used_by_the_other_commands(quick, script, setting, words):
    done = call(script, "model.path=outputs/latest/model", setting, cwd=quick[0])
    assert done.returncode == 0 and words in done.stdout and done.stderr == "", done.stderr
    assert_quiet(done)


def test_the_doctor_leaves_the_cache_alone_behind(tmp_path):
    well = call("train.py", "doctor=true", "training.use_cpu=true", "tracking=off", cwd=tmp_path, WANDB_MODE="offline")
    assert "WANDB" not in well.stdout  # transformers prints a line when it is imported
    assert well.returncode == 0 and well.stderr == "" and well.stdout.endswith("a run can start\n"), well.stderr
    ill = call("train.py", "doctor=true", "model.path=.", "data.train_file=nix.jsonl", cwd=tmp_path)
    assert ill.returncode == 2 and "see data, model" in ill.stderr and "fault  data" in ill.stdout
    refused = call("train.py", "doctor=true", "model.path=.", "optimizer.lr=-1", "seed=x", "training.use_cpu=true", cwd=tmp_path)
    for fault in ("settings     seed='x': must be", "settings     optimizer.lr=-1: must be", "model        "):
        assert refused.stdout.count(f"fault  {fault}") == 1, refused.stdout
    assert refused.returncode == 2 and refused.stderr == "error: doctor: a run could not start; see above\n"
    several = call("train.py", "-m", "doctor=true", "seed=1,2", cwd=tmp_path)
    assert several.returncode == 2 and "leave --multirun out" in several.stderr
    assert os.listdir(tmp_path) == ["cache"]  # the rows, which a run finds there


def test_an_unforeseen_error_is_one_line_and_a_file(tmp_path):
    """A loss of the user's own that crashes: the traceback is in the run's folder, and on the terminal if asked for."""
    (tmp_path / "theirs.py").write_text(
        "import torch\nclass Loss(torch.nn.Module):\n    def __init__(self, **_):\n        super().__init__()\n"
        "    def forward(self, embeddings, step):\n        return 1 / 0\n"
    )
    for full in ({}, {"HYDRA_FULL_ERROR": "1"}):
        settings = ("name=x", *TINY, "loss._target_=theirs.Loss", "tracking=off", "evaluation.bm25=null")
        done = call("train.py", *settings, cwd=tmp_path, PYTHONPATH=str(tmp_path), **full)
        assert done.returncode == 1 and ("theirs.py" in done.stderr) == bool(full), done.stderr
        message = "ZeroDivisionError: division by zero; the traceback is in outputs/x/error.txt"
        assert done.stderr.splitlines()[-1].endswith(message)
        assert "failed      at step 0" in done.stdout and "try again   python " in done.stdout
    assert "theirs.py" in (tmp_path / "outputs/x/error.txt").read_text()
    assert read_json(tmp_path / "outputs/x/summary.json")["state"] == "failed"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("train.py loss.temprature=1", 2, "loss.temprature: no such field; did you mean loss.temperature?"),
        ("train.py training.learning_rate=1", 2, "optimizer.lr"),
        ("train.py data.train_file=nix.jsonl name=no-file", 3, "nix.jsonl"),
        ("mine.py window=[9,3]", 2, "window=[9, 3]"),
        ("mine.py sources=[bm25] data.train_file=nix.jsonl", 3, "nix.jsonl"),
    ],
)
def test_errors_are_one_message_and_a_code(command, code, words, tmp_path):
    script, *arguments = command.split()
    done = call(script, *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ") and words in done.stderr and "Traceback" not in done.stderr


def test_a_sweep_survives_its_middle_job(tmp_path):
    """Three jobs, the second refused by the loss: three folders, a table, exit code 1, and the others' results are whole.

    One setting has its old name: it works, and the new one is said once for all jobs.
    """
    sweep = ("--multirun", "name=s", "loss.chunk_size=512,0,1024", "training.max_steps=1", "evaluation.bm25=null")
    done = call("train.py", *sweep, *TINY, "loss.negatives=micro_batch", cwd=tmp_path)
    assert done.returncode == 1
    assert_quiet(done)
    assert done.stderr.count("note: loss.negatives is step.negatives now") == 1
    folder = tmp_path / "multirun/s"
    states = {job: read_json(folder / job / "status.json")["state"] for job in "012"}
    assert states == {"0": "finished", "1": "failed", "2": "finished"}
    assert "  negatives: micro_batch" in (folder / "0/config.yaml").read_text()
    with open(folder / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["loss.chunk_size"] for row in rows) == ["0", "1024", "512"]
    assert sum(bool(row["dev ndcg@10"]) for row in rows) == 2 and "loss.chunk_size=0" in rows[-1]["error"]
    assert "3 runs" in done.stdout and (tmp_path / "multirun/latest").resolve() == folder.resolve()
    # One W&B run a job that came so far, none shared.
    assert [len(list((folder / job / "wandb").glob("offline-run-*"))) for job in "02"] == [1, 1]


def test_old_names_of_settings_work_and_the_new_ones_are_said(tmp_path):
    for old, new in (("loss.guide=m", "step.guide"), ("loss.keep_weight=-1", "keep.weight=-1: must be")):
        done = call("train.py", old, cwd=tmp_path)
        assert done.stderr.startswith(f"note: {old.partition('=')[0]} is {new.partition('=')[0]} now") and new in done.stderr


def test_two_processes_train_as_one(tmp_path):
    """The same step size in one process and in two: the same losses."""
    settings = (
        *TINY,
        "tracking=off",
        "training.max_steps=2",
        "model.dropout=0",
        "model.attention_dropout=0",
        "evaluation.bm25=null",
    )
    settings += ("training.use_cpu=true",)
    one = call("train.py", "name=one", *settings, cwd=tmp_path)
    two = call("train.py", "name=two", *settings, "training.per_device_train_batch_size=8", cwd=tmp_path, processes=2)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert_quiet(two)
    losses = []
    for name in ("one", "two"):
        entries = [json.loads(line) for line in (tmp_path / f"outputs/{name}/metrics.jsonl").read_text().splitlines()]
        losses.append([entry["loss"] for entry in entries if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    nameless = call("train.py", *settings, cwd=tmp_path, processes=2)
    assert nameless.returncode != 0 and "name=NAME" in nameless.stderr
