"""Work in a forked child of this warm process, so that a crash, a hang or a memory bomb ends the child and is seen."""

import contextlib
import dataclasses
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 6 * 2**30  # bytes that a child may take beyond what this process has


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative: the signal; None: stopped after `seconds`), and all that it printed."""

    code: int | None
    output: str

    @property
    def hung(self) -> bool:
        """Whether it had to be stopped."""
        return self.code is None


def in_child(function: Callable[[], int], output: Path, seconds: float) -> Ending:
    """Fork, call a function with stdout and stderr in a file, and wait.

    Args:
        function: returns the exit code; an exception is printed and gives 1.
        output: the file.
        seconds: after which the child and its own children are stopped.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            with contextlib.suppress(ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (
                os.fdopen(n, "w", encoding="utf-8", errors="backslashreplace", closefd=False) for n in (1, 2)
            )
            code = function()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = _wait(child, seconds)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what it started, if anything is left
    return Ending(code, output.read_text(encoding="utf-8", errors="replace") if output.exists() else "")


def run_script(script: str, arguments: Sequence[str], folder: Path, *, seconds: float = 60, name: str = "output.txt") -> Ending:
    """One of the scripts as `python SCRIPT ARGUMENTS` would run in `folder`, without the start-up."""

    def call() -> int:
        os.chdir(folder)
        sys.argv = [script, *arguments]
        runpy.run_path(str(ROOT / script), run_name="__main__")
        return 0

    return in_child(call, folder / name, seconds)


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
