"""Measurements in processes of their own, one after the other or in turns.

A process of its own has its own peak of memory and pays for its own imports. (Threads of one process were tried for the turns:
sentence-transformers ran a fifth slower in them than alone, e5ft did not.)
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bench.texts import ROOT

_TURN = "BENCH_TURN"  # "READ,WRITE": the pipe ends over which a contender is given its turn and gives it back
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}


def measure(function: str, **options) -> dict:
    """Call `module:function(folder, **options)` of this package in a new process.

    Args:
        function: for example "encoding:compare"; it gets an empty folder and returns what JSON can hold.
        options: passed on.

    Returns:
        What it returned, with "peak_mb" (the process's largest resident memory) and "process_s" added.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
    """
    with _Process(function, options) as process:
        return process.result()


def in_turns(contenders: Mapping[str, tuple[str, dict]]) -> dict[str, dict]:
    """Run contenders, each in a process of its own, one at a time: each goes on until it hands over (`hand_over`).

    Args:
        contenders: name -> (function, options), as for `measure`.

    Returns:
        name -> its result.

    Raises:
        RuntimeError: one of them failed; the others are ended.
    """
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(_Process(*call, turns=True)) for name, call in contenders.items()}
        waiting, order = dict(processes), list(processes)
        while waiting:
            for name in order:
                if name in waiting and not waiting[name].take_turn():
                    waiting.pop(name).result()  # one that failed ends the comparison now, not after the others' last turn
            order.reverse()
        return {name: process.result() for name, process in processes.items()}


def hand_over() -> None:
    """In a contender's process: let the others have their turn; return when it is ours again. Alone: return at once."""
    ends = os.environ.get(_TURN)
    if ends is None:
        return
    read, write = map(int, ends.split(","))
    os.write(write, b".")
    if not os.read(read, 1):
        raise RuntimeError("the benchmark that runs this process is gone")


class _Process:
    """A running measurement; on leaving the context it is over and its files are gone."""

    def __init__(self, function: str, options: dict, turns: bool = False):
        self.what, self.start = f"{function} {options}", time.perf_counter()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.errors = open(Path(self.folder.name) / "errors.txt", "w+", encoding="utf-8")  # noqa: SIM115
        environment, passed = {**os.environ, **_ENVIRONMENT}, ()
        if turns:
            theirs_read, self.go = os.pipe()
            self.done, theirs_write = os.pipe()
            environment[_TURN], passed = f"{theirs_read},{theirs_write}", (theirs_read, theirs_write)
        command = [sys.executable, "-m", "benchmarks.bench.processes", function, json.dumps(options), self.folder.name]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=self.errors, pass_fds=passed
        )
        for end in passed:
            os.close(end)
        self.ends = (self.go, self.done) if turns else ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in self.ends:
            os.close(end)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.close()
        self.folder.cleanup()

    def take_turn(self) -> bool:
        """Let it run until it hands over; False once it has ended."""
        try:
            os.write(self.go, b".")
        except BrokenPipeError:
            return False
        return bool(os.read(self.done, 1))

    def result(self) -> dict:
        """What it returned, after its end."""
        status = self.process.wait()
        if status == -signal.SIGKILL:
            raise RuntimeError(f"{self.what}: killed, most likely for want of memory")
        if status:
            self.errors.seek(0)
            tail = "\n".join(self.errors.read().strip().splitlines()[-12:])
            raise RuntimeError(f"{self.what}: exit status {status}\n{tail}")
        found = json.loads((Path(self.folder.name) / "result.json").read_text(encoding="utf-8"))
        return {**found, "process_s": time.perf_counter() - self.start}


def _serve(function: str, options: dict, folder: Path) -> None:
    if _TURN in os.environ:  # not before the first turn: imports would disturb the others
        os.read(int(os.environ[_TURN].partition(",")[0]), 1)
    work = folder / "work"
    work.mkdir()
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(f"benchmarks.bench.{module}"), name)(work, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    (folder / "result.json").write_text(json.dumps({"peak_mb": peak, **found}), encoding="utf-8")


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
