"""A run's folder: one run at a time, a status that tells what happened, links to the latest."""

import fcntl
import os
import socket
import time
from pathlib import Path

from e5ft import distributed
from e5ft.app.secrets import without_secrets
from e5ft.errors import ConfigurationError
from e5ft.files import read_json, replace_link, write_json


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
        earlier = self._status()
        if resume and earlier is None:
            raise ConfigurationError(f"resume=true: there is no run in {self.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / "run.lock", "w")  # noqa: SIM115  held open: the lock ends with the process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"{self.path}: another process is running this name; choose another one (name=...)"
            ) from None
        begun = earlier is not None and (earlier["state"] != "failed" or any(self.path.glob("checkpoint-*")))
        if begun and not resume:  # a run that failed before its first checkpoint has nothing to lose
            raise ConfigurationError(
                f"{self.path}: holds a run already ({earlier['state']}); choose another name=, or go on with it: resume=true"
            )
        self.set_status("running")

    def _status(self) -> dict | None:
        file = self.path / "status.json"
        return read_json(file) if file.is_file() else None

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
