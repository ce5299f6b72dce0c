"""The scripts in forked children of one warm process: a real process that can really be killed, without seconds of imports.

The parent imports everything once and starts no thread; each child has its own folder, output, environment and faults.
"""

import contextlib
import dataclasses
import os
import resource
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 6 * 2**30  # bytes that a child of `in_child` may take beyond what this process has
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline",
    "PYTHONHASHSEED": "0",
}  # fmt: skip


def warm_up() -> None:
    """Import, before any fork, what children would each spend seconds on."""
    os.environ.update(ENVIRONMENT)
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    import sentence_transformers  # noqa: F401  export's check

    import e5ft.app.commands.evaluate
    import e5ft.app.commands.export
    import e5ft.app.commands.mine
    import e5ft.app.commands.rounds  # noqa: F401


@dataclasses.dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: the exit status; minus the signal's number where one ended it; None where it hung and was killed by us.
        output: what it printed, errors included.
        seconds: how long it took.
    """

    code: int | None
    output: str
    seconds: float

    @property
    def hung(self) -> bool:
        """Whether it had to be stopped."""
        return self.code is None


def run(
    arguments: Sequence[str],
    folder: Path,
    *,
    script: str = "train.py",
    processes: int = 1,
    prepare: Callable[[int], None] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 180,
) -> list[Ended]:
    """Run a script once, as `processes` processes that train together, and wait for all.

    Args:
        arguments: the command line.
        folder: working directory of the children.
        script: of the project's root.
        processes: above 1 as torchrun would start them; when one of them ends badly, the others are killed as torchrun would.
        prepare: called in each child with its rank before the script: the place to put faults in.
        environment: added to the children's.
        timeout: seconds after which a child counts as hung.

    Returns:
        One `Ended` a process, by rank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = {}
    if processes > 1:
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    started, children = time.monotonic(), {}
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        given = {**ENVIRONMENT, **shared, **own, **(environment or {})}

        def script_with_faults(rank: int = rank, given: dict = given) -> int:
            os.environ.update(given)
            if prepare is not None:
                prepare(rank)
            return _script(script, arguments, folder)

        output = folder / f"output-{rank}.txt"
        children[_fork(script_with_faults, output)] = (rank, output)
    codes = _wait(dict(children), timeout)
    seconds = time.monotonic() - started
    return [Ended(codes[pid], output.read_text(errors="replace"), seconds) for pid, (_, output) in children.items()]


def in_child(function: Callable[[], int], output: Path, seconds: float) -> Ended:
    """Fork, call a function in the child, and wait; the child's memory is bounded, and what it started ends with it.

    Args:
        function: returns the exit status; an exception is printed and gives 1.
        output: the file that takes what is printed.
        seconds: after which the child counts as hung.
    """
    started = time.monotonic()

    def bounded() -> int:
        os.setsid()
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
        return function()

    child = _fork(bounded, output)
    code = _wait({child: None}, seconds)[child]
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return Ended(code, output.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started)


def run_script(script: str, arguments: Sequence[str], folder: Path, *, seconds: float = 60, name: str = "output.txt") -> Ended:
    """One of the scripts as `python SCRIPT ARGUMENTS` would run in `folder`, bounded as by `in_child`."""
    return in_child(lambda: _script(script, arguments, folder), folder / name, seconds)


def _script(script: str, arguments: Sequence[str], folder: Path) -> int:
    os.chdir(folder)
    sys.argv = [script, *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # run_script sets it, and would show every traceback to the next one
    runpy.run_path(str(ROOT / script), run_name="__main__")
    return 0


def _fork(function: Callable[[], int], output: Path) -> int:
    """The child's process number; it calls the function, prints into a file and exits with the function's status."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        streams = (os.fdopen(n, "w", encoding="utf-8", errors="backslashreplace", closefd=False) for n in (1, 2))
        sys.stdout, sys.stderr = streams
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        code = function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is to be torn down by a child


def _wait(children: dict, timeout: float) -> dict[int, int | None]:
    codes: dict[int, int | None] = {}
    deadline, failed_at = time.monotonic() + timeout, None
    while len(codes) < len(children):
        for pid in children:
            if pid in codes:
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] not in (0, 143) and failed_at is None:
                    failed_at = time.monotonic()
        late = time.monotonic() > deadline
        # One that went on after another's death would wait for it: torchrun ends it.
        if late or (failed_at is not None and time.monotonic() > failed_at + 3):
            for pid in children:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    codes[pid] = None if late else -signal.SIGKILL
        time.sleep(0.01)
    return codes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
