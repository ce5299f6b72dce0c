"""The scripts in forks of one warm process: real processes that can really be killed, without seconds of imports each.

The warm process imports everything once and starts no thread; each child has its own folder, output, environment and faults.
"""

import atexit
import contextlib
import dataclasses
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 6 * 2**30  # bytes that a child may take beyond what this process has
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
IMPORTED_LATE = (
    *(f"e5ft.app.commands.{name}" for name in ("rounds", "evaluate", "mine", "export")),
    *("evaluate", "datasets", "sklearn", "peft", "sentence_transformers", "wandb"),
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: the exit status; minus the signal's number where one ended it; None where it hung and was killed by us.
        output: what it printed, errors included.
    """

    code: int | None
    output: str


class Warm(contextlib.AbstractContextManager):
    """A warm process with an environment of its own; it ends with the block.

    Args:
        environment: of the process and its commands. What libraries read while they are imported (HF_HOME, say) is fixed by it.
    """

    def __init__(self, environment: Mapping[str, str]):
        path = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**environment, "PYTHONPATH": path})
        self._process = subprocess.Popen([sys.executable, "-m", "tests.chaos.forking"], **pipes)

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=60)

    def call(self, script: str, *arguments: str, cwd: Path, out: Path) -> Ended:
        """Run a script of the project in the folder `cwd`, and wait for it; what it prints stays in the file `out`."""
        print(json.dumps([script, arguments, str(cwd), str(out)]), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())
        return Ended(code, out.read_text(encoding="utf-8", errors="replace"))


def serve() -> None:
    """Fork once a line of standard input, and answer with the exit code."""
    answers = os.fdopen(os.dup(1), "w")  # what else prints here is no answer
    os.dup2(2, 1)
    warm_up({})
    for line in iter(sys.stdin.readline, ""):
        script, arguments, folder, output = json.loads(line)
        [ended] = in_children({Path(output): lambda a=(script, arguments, folder): become(*a)}, 300)
        print(json.dumps(ended.code), file=answers, flush=True)


def warm_up(environment: Mapping[str, str] = ENVIRONMENT) -> None:
    """Import, before any fork, what children would each spend seconds on."""
    os.environ.update(environment)
    sys.path.insert(0, str(ROOT))
    import torch

    from e5ft.app.runs.script import prepare_libraries
    from e5ft.app.settings.build import register

    torch.set_num_threads(1)
    register()
    prepare_libraries()
    for name in IMPORTED_LATE:
        importlib.import_module(name)


def run_script(
    script: str, arguments: list[str], folder: Path, *, seconds: float = 60, processes: int = 1, prepare: Callable | None = None
) -> list[Ended]:
    """Run a script once, as `processes` processes that train together, and wait for all.

    Args:
        script: of the project's root.
        arguments: the command line.
        folder: working directory of the children, which takes their output too.
        seconds: after these a child counts as hung.
        processes: above 1 as torchrun would start them.
        prepare: called in each child with its rank before the script: the place to put faults in.

    Returns:
        One `Ended` a process, by rank.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}

    def process(rank: int) -> int:
        if processes > 1:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
        if prepare is not None:
            prepare(rank)
        return become(script, arguments, folder)

    return in_children({folder / f"output-{n}.txt": lambda n=n: process(n) for n in range(processes)}, seconds)


def become(script: str, arguments: list[str], folder: str | os.PathLike) -> int:
    """Be a script of the project in this (child) process."""
    os.chdir(folder)
    sys.argv = [script, *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    runpy.run_path(str(ROOT / script), run_name="__main__")
    return 0


def in_children(functions: Mapping[Path, Callable[[], int]], seconds: float) -> list[Ended]:
    """Fork a child a function and wait for all; their memory is bounded, and what they started ends with them.

    Args:
        functions: the file that takes what is printed -> what returns the exit status; an exception is printed and gives 1.
        seconds: after these a child counts as hung. When one ends badly, the others are killed, as torchrun would.
    """
    children = {_fork(function, output): output for output, function in functions.items()}
    codes: dict[int, int | None] = {}
    limit, failed = time.monotonic() + seconds, False
    while len(codes) < len(children):
        for pid in children.keys() - codes:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] not in (0, 143) and not failed:
                    limit, failed = min(limit, time.monotonic() + 3), True
            elif time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = -signal.SIGKILL if failed else None
        time.sleep(0.01)
    for pid in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    return [Ended(codes[pid], path.read_text(encoding="utf-8", errors="replace")) for pid, path in children.items()]


def _fork(function: Callable[[], int], output: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        atexit._clear()  # nothing of the parent's is to be torn down by a child
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        sys.stdout = sys.stderr = open(output, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *[sys.stdout.fileno()] * 2]):
            os.dup2(descriptor, number)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        try:
            code = function()
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
