"""A run's folder: one run at a time, a status and last lines that say how it ended, what is saved and how to resume it."""

import dataclasses
import json
import logging
import math
import os
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from e5ft import distributed
from e5ft.app.settings.guard import OUTPUTS, folder_in, is_secret_field, without_secrets
from e5ft.app.telling.report import relative, say
from e5ft.app.telling.state import check_startable, record
from e5ft.errors import ConfigurationError, DataError, E5ftError, ResumeRefusedError, StorageError, TerminatedError
from e5ft.files import MANIFEST, clear_temporaries, disk_was_full, read_json, replace_link, write_json, write_text
from e5ft.formatting import duration

log = logging.getLogger("e5ft")


class CrashedError(E5ftError):
    """What nobody foresaw; the message is one line, the traceback is in a file of the run's folder."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command runs as.

    Attributes:
        path: its folder.
        name: with which it can be resumed by itself; None for a part of something larger, a job of a sweep or a round.
        group: of the run in W&B; None for a run by itself.
        in_sweep: whether it is a job of a multirun.
        overrides: of the command line, as Hydra composed them.
        start_round: of a round that starts from an earlier one's model: that one's number.
    """

    path: Path
    name: str | None = None
    group: str | None = None
    in_sweep: bool = False
    overrides: tuple[str, ...] = ()
    start_round: int | None = None

    @property
    def again(self) -> str:
        """The overrides that resume it, or what it is part of."""
        return f"name={self.name or self.group} {'sweep.' * self.in_sweep}resume=true"


def current_job(name: object) -> Job:
    """The job that Hydra runs now."""
    hydra = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN
    group, path, here = Path(hydra.sweep.dir).name if in_sweep else None, Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd)
    if os.path.normpath(path) == os.path.normpath(here):  # Hydra made no folder: the run does, once its rows were read
        path = here / folder_in(OUTPUTS, name)
    return Job(path, None if in_sweep else str(name), group, in_sweep, tuple(hydra.overrides.task))


def hold(path: Path, complaint: str) -> FileLock:
    """Take the lock that a file stands for; it is given back when it is released or the process ends, however.

    Args:
        path: of the file, made where it is absent.
        complaint: the beginning of the message.

    Raises:
        ConfigurationError: another process has it, or the file system knows no locks.
    """
    # A soft lock, filelock's substitute, would outlive a kill.
    lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigurationError(f"{complaint}; wait for it, or choose another name (name=...)") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be locked ({error.strerror or error}); use another disk") from error
    return lock


def _held(path: Path) -> FileLock:
    return hold(path / "run.lock", f"{path}: another process is running this name")


def check_free(path: Path) -> None:
    """Refuse to begin a run in a folder that another process runs in, or that holds a run.

    Raises:
        ConfigurationError: so it is.
    """
    if (path / "run.lock").exists():
        _held(path).release()
    check_startable(path, resume=False)


def lasting(overrides: Sequence[str]) -> list[str]:
    """A job's overrides as its folder keeps them: without what only says how the multirun was started, and without secrets."""
    return without_secrets([override for override in overrides if not override.startswith("sweep.resume=")])


class RunFolder:
    """The folder of a training run, held by this process; as a context it records how the block ended.

    Args:
        job: its path and name.
        resume: whether the run that is there is resumed, or a new one begins.

    Raises:
        ConfigurationError: another process holds it, a run exists already, or there is none to resume.
    """

    def __init__(self, job: Job, resume: bool = False):
        self.path, self.job = job.path, job
        self._started = time.time()
        if not distributed.is_main():  # one process writes; the others read
            return
        if resume:  # before a folder is made
            check_startable(self.path, resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _held(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        try:
            check_startable(self.path, resume)
            for folder in (self.path, *self.path.glob("eval/*")):  # of an earlier process that was killed; the lock is ours
                clear_temporaries(folder)
            self._finished_before = self._clean()
        except ConfigurationError:
            self._lock.release()
            raise
        self._seconds_before = _seconds_before(self.path)
        self.set_status("running")
        if job.in_sweep:
            write_text(self.path / "overrides.yaml", OmegaConf.to_yaml(lasting(job.overrides)))

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Record how the block ended.

        Raises:
            CrashedError: an exception that is no E5ftError; its traceback is in error.txt.
            StorageError: the disk was full, however the library at work reported it.
        """
        try:
            if error is None:
                self.set_status("finished")
                if distributed.is_main() and self.path.parent.name == OUTPUTS:
                    replace_link(self.path.parent / "latest", self.path)
                return
            known = self._known(error)
            if distributed.is_main():
                self._write_end(known)
            if known is not error:
                raise known from error
        finally:
            if distributed.is_main():
                self._lock.release()

    def set_status(self, state: str, **more: object) -> None:
        """Record "running", "finished", "failed" or "stopped", with an error message or exit code where there is one."""
        if distributed.is_main():
            process = {"pid": os.getpid(), "host": socket.gethostname()}
            seconds = round(self._seconds_before + time.time() - self._started, 1)
            write_json(self.path / "status.json", {"state": state, **process, "seconds": seconds, **without_secrets(more)})

    def write_config(self, values: dict) -> None:
        """Write config.yaml from plain values without secrets."""
        if distributed.is_main():
            write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))

    def newest_step(self) -> int:
        """The step of the newest whole checkpoint, and 0 if there is none; damaged ones are renamed.

        Raises:
            ResumeRefusedError: the run has results, and nothing says any more which training they are of.
        """
        from e5ft.training import checkpoint

        newest, damaged = checkpoint.newest(self.path)
        if newest is None and (self._finished_before or (self.path / "model").exists()):
            raise ResumeRefusedError(f"resume=true: {self.path} has results and no whole checkpoint; choose another name=")
        checkpoint.clear(self.path, damaged)
        for line in damaged:
            log.warning(f"skipping damaged {line}; renamed to damaged-{line.partition(':')[0]}")
        return 0 if newest is None else checkpoint.step_of(newest)

    def _clean(self) -> bool:
        """Remove what an earlier, failed attempt said; whether an earlier one finished, so that its results must stay."""
        status, summary, tracebacks = self.path / "status.json", self.path / "summary.json", self.path.glob("error*.txt")
        said = [file for file in (status, summary, *tracebacks) if file.is_file()]
        self._said_before = {file: file.read_text(encoding="utf-8", errors="replace") for file in said}
        # Summaries without a state are of a time when only good ends wrote any.
        finished = summary in said and record(summary).get("state", "finished") == "finished"
        rounds = self.path / "rounds.json"
        finished = finished or (rounds.is_file() and "rounds" in record(rounds))
        for file in said:
            if file != status and not (finished and file == summary):
                file.unlink()
        return finished

    def _known(self, error: BaseException) -> BaseException:
        """The error as a person should see it; the traceback of an unforeseen one goes into a file."""
        if isinstance(error, E5ftError) or not isinstance(error, Exception):
            return error
        first = (str(error).strip() or "no message").splitlines()[0]
        if disk_was_full(error):
            known = StorageError(f"the disk is full ({first}); make room in {relative(self.path)}, then resume")
        else:
            known = CrashedError(f"{type(error).__name__}: {first}; {self._keep_traceback(error)}")
        if distributed.rank():  # at the end only the main process's error is printed, and this one may be the cause of that
            print(f"error: process {distributed.rank()}: {known}", file=sys.stderr, flush=True)
        return known

    def _keep_traceback(self, error: Exception) -> str:
        rank = distributed.rank()
        file = self.path / ("error.txt" if rank == 0 else f"error-process{rank}.txt")
        try:
            write_text(file, without_secrets("".join(traceback.format_exception(error))))
        except OSError as failure:
            return f"HYDRA_FULL_ERROR=1 shows the traceback, which could not be written ({failure.strerror})"
        return f"the traceback is in {relative(file)}"

    def _write_end(self, error: BaseException) -> None:
        state = "stopped" if isinstance(error, TerminatedError | KeyboardInterrupt) else "failed"
        code = error.exit_code if isinstance(error, E5ftError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        message, seconds = str(error) or type(error).__name__, time.time() - self._started
        progress = progress_of(self.path)
        try:
            if isinstance(error, ResumeRefusedError):
                for file, text in self._said_before.items():
                    write_text(file, text)
                if self.path / "status.json" not in self._said_before:
                    (self.path / "status.json").unlink()
            elif self._finished_before:  # this attempt failed, but the results of the one before are whole
                self.set_status("finished", last_error=message)
            else:
                file = self.path / "summary.json"
                results = read_json(file) if file.is_file() else {}
                end = {"state": state, "error": message, "exit_code": code, "reached": progress, "seconds": round(seconds, 1)}
                write_json(file, without_secrets({**results, **end}))
                self.set_status(state, error=message, exit_code=code)
        except OSError as failure:
            log.warning(f"{relative(self.path)}: status.json and summary.json could not be written ({failure.strerror})")
        # The message of a refused setting or row is all there is to say.
        refused = isinstance(error, ConfigurationError | DataError) and not progress["step"]
        refused = refused or isinstance(error, ResumeRefusedError)
        if self.job.name is not None and not self._finished_before and not refused:
            resume = state == "stopped" or progress["checkpoint"] is not None
            say(closing(state, progress, seconds, command(self.job.name, resume), resume))


def progress_of(path: Path) -> dict:
    """How far the run in a folder came; of rounds, the last one.

    Returns:
        folder, step, loss (the last logged), dev ({"step", "metrics"} of the last evaluation) and checkpoint (the newest
        complete one's name); None for what there is not.
    """
    path = next(reversed(_numbered(path, "round")), path)
    complete = [folder.name for folder in _numbered(path, "checkpoint") if (folder / MANIFEST).is_file()]
    progress = {"folder": relative(path), "step": 0, "loss": None, "dev": None, "checkpoint": complete[-1] if complete else None}
    file = path / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut in half
        values = {key: value for key, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)}
        progress["step"] = max(progress["step"], step)
        progress["loss"] = values.get("loss", progress["loss"])
        dev = {key.removeprefix("eval_"): value for key, value in values.items() if key.startswith("eval_")}
        progress["dev"] = {"step": step, "metrics": dev} if dev else progress["dev"]
    return progress


def _seconds_before(path: Path) -> float:
    """How long the earlier processes of a run worked at it; of one that was killed, until its last logged step."""
    status, metrics = path / "status.json", path / "metrics.jsonl"
    try:
        before = read_json(status)
        killed = before["state"] == "running" and metrics.is_file()
        return before["seconds"] + (max(0.0, metrics.stat().st_mtime - status.stat().st_mtime) if killed else 0.0)
    except (OSError, ValueError, KeyError, TypeError):  # there was none, or it says nothing
        return 0.0


def _numbered(path: Path, kind: str) -> list[Path]:
    """KIND-1, KIND-2, ... in a folder, in ascending order."""
    numbers = {folder.name.removeprefix(f"{kind}-"): folder for folder in path.glob(f"{kind}-*")}
    return [numbers[number] for number in sorted(filter(str.isdecimal, numbers), key=int)]


def command(name: str, resume: bool, of: str = "") -> str:
    """The command that this process was started with, under a run's name, to resume it or to start again; `of` is sweep. of a multirun."""
    replaced = ("name=", "resume=", "sweep.resume=", "hydra.output_subdir=")
    overrides = [o for o in sys.argv[1:] if not (o.startswith(replaced) or is_secret_field(o.partition("=")[0]))]
    added = [f"name={name}", *([f"{of}resume=true"] if resume else [])]
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and os.environ.get("LOCAL_WORLD_SIZE") != str(processes):
        return f"the same command on every node, with {' '.join(added)}"
    verb = sys.argv[0].split() if sys.argv[0].startswith("e5ft ") else []  # as e5ft/__main__.py names itself
    torchrun = ["torchrun", "--standalone", "--nproc_per_node", str(processes), *(["-m"] if verb else [])]
    launcher = torchrun if processes > 1 else [] if verb else ["python"]
    return shlex.join([*launcher, *(verb or sys.argv[:1]), *overrides, *added])


def repeating(job: Job) -> str:
    """The command that trains once more what a job trains, under another name and without secrets, as its summary keeps it."""
    if job.in_sweep:
        given = {override: override.partition("=")[0] for override in lasting(job.overrides)}
        overrides = [override for override, name in given.items() if name != "name" and not is_secret_field(name)]
        return shlex.join(["python", "train.py", *overrides, f"name={job.group}-{job.path.name}-again"])
    return without_secrets(command(f"{job.name or job.group}-again", resume=False))


def closing(state: str, progress: dict, seconds: float, again: str, resume: bool) -> str:
    """The last lines of a run that did not finish.

    Args:
        state: stopped or failed.
        progress: as `progress_of` gives it.
        seconds: that it ran.
        again: the command to type.
        resume: whether that command resumes the run.
    """
    measured = f", loss {progress['loss']:.4f}" if progress["loss"] is not None else ""
    if progress["dev"] is not None:
        metrics = progress["dev"]["metrics"]
        metric = "ndcg@10" if "ndcg@10" in metrics else next(iter(metrics))
        measured += f", dev {metric} {metrics[metric]:.3f} at step {progress['dev']['step']:,}"
    saved = "nothing yet: no step was logged"
    if progress["step"] or progress["checkpoint"]:
        saved = ", ".join(filter(None, [progress["checkpoint"], f"metrics.jsonl to step {progress['step']:,}"]))
    return (
        f"\n{state:<12}at step {progress['step']:,} after {duration(seconds)}{measured}"
        f"\nsaved       {progress['folder']}: {saved}\n{'resume' if resume else 'try again':<12}{again}"
    )
