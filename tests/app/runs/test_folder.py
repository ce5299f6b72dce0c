"""However a run ends, its files and its last lines say what happened, what is saved and how to resume it."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

from e5ft.app.runs.folder import CrashedError, Job, RunFolder, command, hold, progress_of, repeating
from e5ft.errors import ConfigurationError, NonFiniteError, ResumeRefusedError, StorageError, TerminatedError
from e5ft.files import read_json, write_json

METRICS = [{"step": 0, "eval_ndcg@10": 0.1}, {"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}, {"step": 4, "eval_ndcg@10": 0.3}]


def checkpoint(path, step, *, complete=True):
    folder = path / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("trainer_state.json", "model.safetensors", *(["optimizer.pt", "manifest.json"] if complete else [])):
        (folder / name).write_text("x")


@pytest.fixture
def ended(tmp_path, monkeypatch, capsys):
    """Let a run that came to step 4 end with an error; returns what was raised, its summary, its status and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "experiment=quick", "name=old", "loss.temperature=0.1"])

    def end(error, path="outputs/x", steps=METRICS, resume=False, name="x"):
        folder = RunFolder(Job(tmp_path / path, name), resume=resume)
        with pytest.raises(BaseException) as caught, folder:
            (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps) + '{"step": 5, "lo')
            if steps and not resume:
                checkpoint(folder.path, 2)
                checkpoint(folder.path, 4, complete=False)
            raise error
        summary = folder.path / "summary.json"
        return caught.value, read_json(summary), read_json(folder.path / "status.json"), capsys.readouterr().out

    return end


FULL = OSError(errno.ENOSPC, "No space left on device")
CASES = [
    (TerminatedError("stopped by SIGTERM at step 4"), TerminatedError, "stopped", 143),
    (NonFiniteError("step 5: the loss is nan"), NonFiniteError, "failed", 4),
    (KeyboardInterrupt(), KeyboardInterrupt, "stopped", 130),
    (FULL, StorageError, "failed", 6),
    (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), StorageError, "failed", 6),
    (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), StorageError, "failed", 6),
    (ZeroDivisionError("by zero\nsecond line"), CrashedError, "failed", 1),
    (SystemExit(7), SystemExit, "failed", 1),
]


@pytest.mark.parametrize(("error", "kind", "state", "code"), CASES, ids=[f"{type(c[0]).__name__}-{c[3]}" for c in CASES])
def test_summary_and_last_lines_tell_of_it(ended, error, kind, state, code):
    raised, summary, status, printed = ended(error)
    assert type(raised) is kind
    assert summary["state"] == status["state"] == state and summary["exit_code"] == status["exit_code"] == code
    assert summary["error"] == status["error"] == (str(raised) or type(raised).__name__)
    assert summary["reached"] == {
        "folder": "outputs/x",
        "step": 4,
        "loss": 2.0,
        "dev": {"step": 4, "metrics": {"ndcg@10": 0.3}},
        "checkpoint": "checkpoint-2",
    }
    assert summary["seconds"] >= 0
    lines = printed.strip().splitlines()
    assert lines[0].startswith(f"{state:<12}at step 4 after 0 s, loss 2.0000, dev ndcg@10 0.300 at step 4")
    assert lines[1] == "saved       outputs/x: checkpoint-2, metrics.jsonl to step 4"
    assert lines[2] == "resume      python train.py experiment=quick loss.temperature=0.1 name=x resume=true"


def test_the_traceback_of_what_nobody_foresaw_is_in_a_file(ended, tmp_path):
    raised, _, _, printed = ended(ZeroDivisionError("by zero"))
    assert str(raised) == "ZeroDivisionError: by zero; the traceback is in outputs/x/error.txt" and "Traceback" not in printed
    text = (tmp_path / "outputs/x/error.txt").read_text()
    assert text.startswith("Traceback") and "test_folder.py" in text and text.endswith("ZeroDivisionError: by zero\n")
    assert raised.exit_code == 1 and isinstance(raised.__cause__, ZeroDivisionError)


def test_seconds_are_those_of_all_processes_that_worked_at_a_run(ended, tmp_path, monkeypatch):
    """One that was killed wrote none of its end: it worked until its last logged step."""
    clock = [1000.0]
    monkeypatch.setattr("e5ft.app.runs.folder.time.time", lambda: clock[0])
    path = tmp_path / "outputs/x"
    folder = RunFolder(Job(path, "x"))
    clock[0] += 30
    with pytest.raises(TerminatedError), folder:
        checkpoint(path, 2)
        raise TerminatedError("stopped")
    assert read_json(path / "status.json")["seconds"] == 30
    with RunFolder(Job(path, "x"), resume=True):
        clock[0] += 4
    assert read_json(path / "status.json")["seconds"] == 34
    write_json(path / "status.json", {"state": "running", "seconds": 34.0})
    (path / "metrics.jsonl").write_text("")
    for name, moment in (("status.json", 5000), ("metrics.jsonl", 5060)):
        os.utime(path / name, (moment, moment))
    with RunFolder(Job(path, "x"), resume=True):
        clock[0] += 6
    assert read_json(path / "status.json")["seconds"] == 34 + 60 + 6


@pytest.mark.parametrize(
    ("job", "again"),
    [
        (Job("p", "x"), "name=x resume=true"),
        (Job("p", None, "temps", True), "name=temps sweep.resume=true"),
        (Job("p/round-1", None, "r"), "name=r resume=true"),
    ],
)
def test_what_resumes_a_part_is_what_resumes_the_whole(job, again):
    assert job.again == again


def test_a_multirun_s_command_resumes_the_multirun(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "name=t", "sweep.resume=true", "seed=1,2", "-m"])
    assert command("t", True, of="sweep.") == "python train.py seed=1,2 -m name=t sweep.resume=true"


def test_before_the_first_checkpoint_the_same_name_begins_again(ended):
    *_, printed = ended(ZeroDivisionError(), steps=[])
    assert "saved       outputs/x: nothing yet" in printed and printed.rstrip().endswith("try again   " + command("x", False))
    assert "resume" not in printed


def test_a_refused_setting_and_a_part_of_something_larger_have_no_last_lines(ended):
    _, summary, _, printed = ended(ConfigurationError("loss.temperature=-1"), steps=[])
    assert printed == "" and summary["exit_code"] == 2
    *_, printed = ended(ZeroDivisionError(), path="outputs/y", name=None)
    assert printed == ""


def test_a_later_attempt_starts_with_a_clean_slate(ended, tmp_path):
    ended(ZeroDivisionError())
    with RunFolder(Job(tmp_path / "outputs/x", "x"), resume=True) as folder:
        assert not (folder.path / "error.txt").exists() and not (folder.path / "summary.json").exists()
    assert read_json(folder.path / "status.json")["state"] == "finished"


@pytest.mark.parametrize("written", [{"state": "finished", "best": 1}, {"best": 1}])
def test_a_refused_attempt_keeps_the_results_of_a_finished_run(ended, tmp_path, written):
    write_json(tmp_path / "outputs/x/summary.json", written)
    write_json(tmp_path / "outputs/x/status.json", {"state": "finished"})
    _, summary, status, printed = ended(ConfigurationError("another training"), resume=True)
    assert summary == written and status["state"] == "finished" and status["last_error"] == "another training"
    assert printed == ""


def test_a_crash_after_the_results_keeps_them(tmp_path, monkeypatch, caplog):
    """Where the disk is full, so that the ending cannot be written, the error is still the one that ended the run."""

    def full(*_):
        raise FULL

    for number in range(2):
        where = "HYDRA_FULL_ERROR=1" if number else "the traceback is in"
        with pytest.raises(CrashedError, match=f"Error: by zero; {where}"), RunFolder(Job(tmp_path / str(number))) as folder:
            write_json(folder.path / "summary.json", {"state": "finished", "scores": 1})
            if number:
                monkeypatch.setattr("e5ft.files.os.fsync", full)
            raise ZeroDivisionError("by zero")
        summary = read_json(folder.path / "summary.json")
        assert summary["scores"] == 1 and summary["state"] == ("finished" if number else "failed")
    assert "could not be written (No space left on device)" in caplog.text


def test_of_rounds_the_last_one_counts(tmp_path):
    for number in (1, 2, 10):
        checkpoint(tmp_path / f"round-{number}", number)
        (tmp_path / f"round-{number}/metrics.jsonl").write_text(f'{{"step": {number}, "loss": NaN}}\n')
    shutil.copytree(tmp_path / "round-10/checkpoint-10", tmp_path / "round-10/checkpoint-20-copy")  # by a person
    progress = progress_of(tmp_path)
    assert progress["step"] == 10 and progress["checkpoint"] == "checkpoint-10" and progress["loss"] is None


def test_the_command_names_no_secret_and_the_launcher(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "+tracking.api_key=canary", "data.train_file=a b.jsonl", "resume=true"])
    assert command("x", False) == "python train.py 'data.train_file=a b.jsonl' name=x"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert command("x", True).startswith("torchrun --standalone --nproc_per_node 2 train.py ")
    monkeypatch.setattr(sys, "argv", ["e5ft train", "seed=1"])  # python -m e5ft train
    assert command("x", True) == "torchrun --standalone --nproc_per_node 2 -m e5ft train seed=1 name=x resume=true"
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert command("x", True) == "the same command on every node, with name=x resume=true"


def test_the_command_that_trains_again_is_the_jobs_own_without_secrets(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["train.py", "data.train_file=a b.jsonl", "tracking.api_key=abc", "name=x", "seed=1"])
    assert repeating(Job(tmp_path / "x", "x")) == "python train.py 'data.train_file=a b.jsonl' seed=1 name=x-again"
    assert repeating(Job(tmp_path / "x/round-2", group="x")).endswith(" seed=1 name=x-again")  # all rounds
    job = Job(tmp_path / "s/3", None, "s", True, ("name=s", "sweep.resume=true", "loss.temperature=0.05", "tracking.api_key=abc"))
    assert repeating(job) == "python train.py loss.temperature=0.05 name=s-3-again"


def test_a_training_that_crashes_leaves_its_record(trained, monkeypatch):
    def crash(*_):
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr("e5ft.app.commands.train.load_encoder", crash)
    with pytest.raises(CrashedError):
        trained("training.max_steps=1")
    assert OmegaConf.load("outputs/test/config.yaml").name and read_json("outputs/test/status.json")["state"] == "failed"


@pytest.mark.parametrize("content", ["", "{", "[]"])
@pytest.mark.parametrize(("record", "resume"), [("status.json", True), ("status.json", False), ("summary.json", True)])
def test_a_damaged_record_is_named_with_the_way_on(tmp_path, record, content, resume):
    """Which works: the run is not lost with its status."""
    with contextlib.suppress(TerminatedError), RunFolder(Job(tmp_path)) as folder:
        checkpoint(folder.path, 2)
        raise TerminatedError
    (tmp_path / record).write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        RunFolder(Job(tmp_path), resume)
    assert str(raised.value) == f"{tmp_path / record}: damaged; remove it and resume (resume=true), or choose another name="
    (tmp_path / record).unlink()
    with RunFolder(Job(tmp_path), resume=True):
        pass
    assert read_json(tmp_path / "status.json")["state"] == "finished"


@pytest.mark.parametrize("work", ["checkpoint-2", "model", "round-1/checkpoint-2", "round-1/model"])
@pytest.mark.parametrize("status", [None, {"state": "failed"}])
def test_a_folder_with_checkpoints_or_a_model_holds_work_whatever_its_status(tmp_path, work, status):
    (tmp_path / work).mkdir(parents=True)
    if status is not None:
        write_json(tmp_path / "status.json", status)
    before = sorted(tmp_path.rglob("*.json"))
    with pytest.raises(ConfigurationError, match=f"holds a run already .{'failed' if status else 'unknown'}.; .*resume=true"):
        RunFolder(Job(tmp_path))
    assert sorted(tmp_path.rglob("*.json")) == before
    with RunFolder(Job(tmp_path), resume=True):
        pass


@pytest.mark.parametrize("state", ["failed", "finished", None])
def test_a_refused_resume_leaves_the_run_as_it_was(ended, tmp_path, capsys, state):
    ended(ZeroDivisionError("by zero"))
    path = tmp_path / "outputs/x"
    if state == "finished":
        for file in ("summary.json", "status.json"):
            write_json(path / file, {"state": "finished"})
    if state is None:
        (path / "status.json").unlink()
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with pytest.raises(ResumeRefusedError, match="seed"), RunFolder(Job(path, "x"), True):
        raise ResumeRefusedError("seed: 1 then, 2 now")
    assert {file: file.read_bytes() for file in path.iterdir() if file.is_file()} == before and path / "error.txt" in before
    assert capsys.readouterr().out == ""


def test_a_finished_run_without_a_checkpoint_is_not_begun_anew_over_its_results(tmp_path):
    """Nothing says any more which training they are of."""
    for file in ("summary.json", "status.json"):
        write_json(tmp_path / file, {"state": "finished"})
    refused = pytest.raises(ResumeRefusedError, match="has results and no whole checkpoint; choose another name=")
    with refused, RunFolder(Job(tmp_path), resume=True) as folder:
        folder.newest_step()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.lock", "status.json", "summary.json"]


def test_nor_is_one_whose_model_alone_is_left(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "damaged-checkpoint-2").mkdir()
    refused = pytest.raises(ResumeRefusedError, match="has results and no whole checkpoint; choose another name=")
    with refused, RunFolder(Job(tmp_path), resume=True) as folder:
        folder.newest_step()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-checkpoint-2", "model", "run.lock"]


def _hold_and_wait(path, ready):
    lock = hold(path, "held")
    if os.fork() == 0:  # a loader's worker that outlives its parent
        os.setsid()
        time.sleep(60)
        os._exit(0)
    ready.send(lock.is_locked)
    time.sleep(60)


def test_a_lock_goes_with_its_process_even_if_a_child_stays(tmp_path):
    """After SIGKILL; the child is a process that was forked after the lock was taken, as a data loader's."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_hold_and_wait, args=(tmp_path / "lock", there))
    process.start()
    assert here.recv()
    with pytest.raises(ConfigurationError, match="held"):
        hold(tmp_path / "lock", "held")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    hold(tmp_path / "lock", "held").release()


def test_a_lock_is_held_against_another_thread_and_given_back(tmp_path):
    lock = hold(tmp_path / "lock", "held")
    with ThreadPoolExecutor() as pool, pytest.raises(ConfigurationError, match="held"):
        pool.submit(hold, tmp_path / "lock", "held").result()
    lock.release()
    hold(tmp_path / "lock", "held").release()


def test_where_no_lock_can_be_had_no_run_begins(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigurationError, match="cannot be locked .*use another disk"):
        hold(tmp_path / "lock", "held")
