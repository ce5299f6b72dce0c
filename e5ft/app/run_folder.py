"""A run's folder: one run at a time, a status that tells what happened, links to the latest."""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from e5ft import distributed
from e5ft.app.secrets import without_secrets
from e5ft.errors import ConfigurationError
from e5ft.files import clear_temporaries, read_json, replace_link, write_json


def hold(path: Path, complaint: str) -> IO:
    """Take the lock that a file stands for; it is given back when the returned file is closed or the process ends, however.

    Args:
        path: of the file, made where it is absent.
        complaint: the beginning of the message.

    Raises:
        ConfigurationError: another process has it.
    """
    file = open(path, "w")  # noqa: SIM115  held open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigurationError(f"{complaint}; wait for it, or choose another name (name=...)") from None
    return file


def status_of(path: Path) -> dict | None:
    """What a run's folder says of its state; None where no run has begun."""
    file = path / "status.json"
    return read_json(file) if file.is_file() else None


def holds_work(path: Path) -> bool:
    """Whether a run's folder holds something to lose: one that failed before its first checkpoint does not."""
    status = status_of(path)
    return status is not None and (status["state"] != "failed" or any(path.glob("checkpoint-*")))


class RunFolder:
    """The folder of a training run, held by this process until it ends.

    Args:
        path: `outputs/NAME` or `multirun/NAME/JOB`.
        resume: go on with the run that is there, instead of beginning one.

    Raises:
        ConfigurationError: another process holds it, it holds a run already, or there is none to go on with.
    """

    def __init__(self, path: str | os.PathLike, resume: bool = False):
        self.path = Path(path)
        self._started = time.time()
        if not distributed.is_main():  # one process writes; the others read
            return
        earlier = status_of(self.path)
        if resume and earlier is None:
            raise ConfigurationError(f"resume=true: there is no run in {self.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.path / "run.lock", f"{self.path}: another process is running this name")
        if holds_work(self.path) and not resume:
            raise ConfigurationError(
                f"{self.path}: holds a run already ({earlier['state']}); choose another name=, or go on with it: resume=true"
            )
        for place in (self.path, *self.path.glob("eval/*")):  # of an earlier process that was killed; the lock is ours
            clear_temporaries(place)
        self.set_status("running")

    def set_status(self, state: str, **more: object) -> None:
        """Record "running", "finished", "failed" or "stopped", with an error message or exit code where there is one."""
        if distributed.is_main():
            process = {"pid": os.getpid(), "host": socket.gethostname()}
            seconds = round(time.time() - self._started, 1)
            write_json(self.path / "status.json", {"state": state, **process, "seconds": seconds, **without_secrets(more)})

    def finish(self) -> None:
        """Record success and point `outputs/latest` at it (a sweep moves `multirun/latest` at its end)."""
        self.set_status("finished")
        if distributed.is_main() and self.path.parent.name == "outputs":
            replace_link(self.path.parent / "latest", self.path)

    def check_definition(self, definition: dict, resume: bool) -> None:
        """Keep what defines the training, or, when going on, refuse what differs from it, field by field.

        Raises:
            ConfigurationError: a field differs.
        """
        file = self.path / "definition.json"
        if not resume or not file.is_file():  # a run that ended before this was written goes on from its beginning
            if distributed.is_main():
                write_json(file, definition)
            return
        before = read_json(file)
        different = [key for key in sorted({*before, *definition}) if before.get(key) != definition.get(key)]
        if different:
            lines = [f"  {key}: {before.get(key)!r} then, {definition.get(key)!r} now" for key in different]
            raise ConfigurationError("resume=true: this is another training than the one that was stopped:\n" + "\n".join(lines))
