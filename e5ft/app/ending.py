"""How a run ends: its files and its last lines say what happened, what is safe and how to go on, also when it went wrong."""

import contextlib
import errno
import json
import logging
import math
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from e5ft import distributed
from e5ft.app.run_folder import RunFolder
from e5ft.app.secrets import is_secret_field, without_secrets
from e5ft.app.telling.report import duration, relative, say
from e5ft.errors import ConfigurationError, DataError, E5ftError, StorageError, Terminated
from e5ft.files import MANIFEST, read_json, write_json, write_text
from e5ft.training import checkpoint

log = logging.getLogger(__name__)

# How a full disk is told: by the system, by safetensors (Rust), by torch.save.
_FULL = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122", "PytorchStreamWriter failed writing")


class Crashed(E5ftError):
    """What nobody foresaw; the message is one line, the traceback is in a file of the run's folder."""


@contextlib.contextmanager
def recorded(folder: RunFolder, name: str | None = None) -> Iterator[None]:
    """Let the folder's status and summary say how the block ended.

    Args:
        folder: of the run.
        name: with which the run can be gone on with; the last lines name the command. None: they are left out, for a part of
            something larger (a job of a sweep, a round), which has last lines of its own.

    Raises:
        Crashed: an exception that is no E5ftError; its traceback is in error.txt.
        StorageError: the disk was full, however the library at work told it.
    """
    finished, started = _clean(folder.path), time.monotonic()
    try:
        yield
    except BaseException as error:
        known = _known(error, folder.path)
        if distributed.is_main():
            _record(folder, known, finished, time.monotonic() - started, name)
        if known is error:
            raise
        raise known from error
    folder.finish()


def reached(path: Path) -> dict:
    """How far a run came, from what its folder holds; of rounds, the last one.

    Args:
        path: the folder.

    Returns:
        folder, step, loss (the last logged), dev ({"step", "metrics"} of the last evaluation) and checkpoint (the newest
        complete one's name); None for what there is not.
    """
    rounds = sorted(path.glob("round-[0-9]*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    path = rounds[-1] if rounds else path
    found = {"folder": relative(path), "step": 0, "loss": None, "dev": None, "checkpoint": newest_checkpoint(path)}
    file = path / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut in half
        values = {key: value for key, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)}
        found["step"] = max(found["step"], step)
        found["loss"] = values.get("loss", found["loss"])
        dev = {key.removeprefix("eval_"): value for key, value in values.items() if key.startswith("eval_")}
        found["dev"] = {"step": step, "metrics": dev} if dev else found["dev"]
    return found


def newest_checkpoint(path: Path) -> str | None:
    """The name of the newest complete checkpoint; None if there is none. (Whether it is still whole is asked on resuming.)"""
    found = [folder.name for folder in checkpoint.visible(path) if (folder / MANIFEST).is_file()]
    return found[-1] if found else None


def command(name: str, resume: bool) -> str:
    """The command that this process was started with, under a run's name, going on with it or beginning anew."""
    given = [argument for argument in sys.argv[1:] if argument.partition("=")[0] not in ("name", "resume")]
    given = [argument for argument in given if not is_secret_field(argument.partition("=")[0])]
    own = [f"name={name}", *(["resume=true"] if resume else [])]
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and os.environ.get("LOCAL_WORLD_SIZE") != str(processes):
        return f"the same command on every node, with {' '.join(own)}"
    launcher = ["python"] if processes == 1 else ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
    return shlex.join([*launcher, sys.argv[0], *given, *own])


def _clean(path: Path) -> bool:
    """Remove what an earlier, failed attempt said; whether an earlier one finished, so that its results must stay."""
    if not distributed.is_main():
        return False
    for file in path.glob("error*.txt"):
        file.unlink()
    summary = path / "summary.json"
    # Summaries without a state are of a time when only good ends wrote any.
    finished = (path / "rounds.json").is_file() or (
        summary.is_file() and read_json(summary).get("state", "finished") == "finished"
    )
    if not finished:
        summary.unlink(missing_ok=True)
    return finished


def _known(error: BaseException, path: Path) -> BaseException:
    """The error as a person should see it; the traceback of an unforeseen one goes into a file."""
    if isinstance(error, E5ftError) or not isinstance(error, Exception):
        return error
    first = (str(error).strip() or "no message").splitlines()[0]
    if _disk_was_full(error):
        known = StorageError(f"the disk is full ({first}); make room in {relative(path)}, then go on")
    else:
        known = Crashed(f"{type(error).__name__}: {first}; {_keep_traceback(error, path)}")
    if distributed.rank():  # at the end only the main process's error is told, and this one may be the cause of that
        print(f"error: process {distributed.rank()}: {known}", file=sys.stderr, flush=True)
    return known


def _keep_traceback(error: Exception, path: Path) -> str:
    rank = distributed.rank()
    file = path / ("error.txt" if rank == 0 else f"error-process{rank}.txt")
    try:
        write_text(file, without_secrets("".join(traceback.format_exception(error))))
    except OSError as failure:
        return f"HYDRA_FULL_ERROR=1 shows the traceback, which could not be written ({failure.strerror})"
    return f"the traceback is in {relative(file)}"


def _disk_was_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _record(folder: RunFolder, error: BaseException, finished: bool, seconds: float, name: str | None) -> None:
    state = "stopped" if isinstance(error, Terminated | KeyboardInterrupt) else "failed"
    code = error.exit_code if isinstance(error, E5ftError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    message = str(error) or type(error).__name__
    found = reached(folder.path)
    try:
        if finished:  # this attempt was refused or failed, but the results of the one before are whole
            folder.set_status("finished", last_error=message)
        else:
            file = folder.path / "summary.json"
            results = read_json(file) if file.is_file() else {}
            end = {"state": state, "error": message, "exit_code": code, "reached": found, "seconds": round(seconds, 1)}
            write_json(file, without_secrets({**results, **end}))
            folder.set_status(state, error=message, exit_code=code)
    except OSError as failure:
        log.warning(f"{relative(folder.path)}: status.json and summary.json could not be written ({failure.strerror})")
    refused = isinstance(error, ConfigurationError | DataError) and not found["step"]  # its message is all there is to say
    if name is not None and not finished and not refused:
        say(closing(state, found, seconds, command(name, resume=state == "stopped" or found["checkpoint"] is not None)))


def closing(state: str, found: dict, seconds: float, again: str) -> str:
    """The last lines of a run that went wrong.

    Args:
        state: stopped or failed.
        found: of `reached`.
        seconds: that it ran.
        again: the command to go on with.
    """
    measured = f", loss {found['loss']:.4f}" if found["loss"] is not None else ""
    if found["dev"] is not None:
        metric = "ndcg@10" if "ndcg@10" in found["dev"]["metrics"] else next(iter(found["dev"]["metrics"]))
        measured += f", dev {metric} {found['dev']['metrics'][metric]:.3f} at step {found['dev']['step']:,}"
    kept = [name for name in (found["checkpoint"],) if name] + [f"metrics.jsonl to step {found['step']:,}"]
    safe = "nothing yet: no step was logged" if not found["step"] and not found["checkpoint"] else ", ".join(kept)
    anew = "go on" if "resume=true" in again else "again"
    return "\n".join(
        [
            "",
            f"{state:<12}at step {found['step']:,} after {duration(seconds)}{measured}",
            f"safe        {found['folder']}: {safe}",
            f"{anew:<12}{again}",
        ]
    )
