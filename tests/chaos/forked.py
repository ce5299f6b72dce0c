"""The scripts as a user starts them, forked from one warm process: importing their libraries takes longer than a small run.

with Warm(environment) as warm:
    done = warm.call("train.py", "name=a", cwd=folder)
"""

import atexit
import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Warm:
    """A process that has imported everything and forks once a command.

    Args:
        environment: of the process and its commands. What libraries read while they are imported (HF_HOME, say) is fixed by it.
    """

    def __init__(self, environment: dict[str, str]):
        command = [sys.executable, "-m", "tests.chaos.forked"]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        path = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        self._process = subprocess.Popen(command, env={**environment, "PYTHONPATH": path}, **pipes)

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def call(self, script: str, *arguments: str, cwd: Path, out: Path, seconds: int = 300) -> Done:
        """Run a script and wait for it.

        Args:
            script: its name in the project.
            arguments: its overrides.
            cwd: where it is started.
            out: what it prints stays in OUT.stdout and OUT.stderr.
            seconds: after these it is ended.

        Raises:
            RuntimeError: the warm process is gone.
        """
        order = {"script": str(ROOT / script), "arguments": arguments, "cwd": str(cwd), "out": str(out), "seconds": seconds}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the warm process ended with {self._process.wait()}")
        shown = (Path(f"{out}.{name}").read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
        return Done(int(answer), *shown)


def serve() -> None:
    """Import what the scripts import, then fork once a line of standard input and answer with the exit code."""
    import wandb  # noqa: F401

    from e5ft.app.commands import evaluate, export, mine, rounds  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")  # what else prints here is no answer
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(**order)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{code}\n")
        answers.flush()


def _run(script: str, arguments: list[str], cwd: str, out: str, seconds: int) -> None:
    """In the child: become the script. Never returns."""
    signal.alarm(seconds)
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(cwd)
        sys.argv = [script, *arguments]
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # as the interpreter would
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
