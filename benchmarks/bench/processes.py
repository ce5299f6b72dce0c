"""Measurements in processes of their own, one after the other or in turns.

A process of its own has its own peak of memory. (Threads of one process were tried for the turns: sentence-transformers ran a
fifth slower in them than alone, e5ft did not.) They are forked from one that has imported everything and computed nothing:
imports take eight seconds, longer than most measurements, and are in every contender's memory alike.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
# Of glibc: freed memory stays with the process. A virtual machine charges up to 1.5 s for each GB that is handed out anew, which was
# most of a step that allocates 10 GB anew every time (docs/log.md): a figure of the machine, not of who is measured.
_ENVIRONMENT |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
_IMPORTED = ["benchmarks.bench.training", "benchmarks.bench.encoding", "sentence_transformers.losses"]
_turn: list[Connection] = []  # in a contender's process: over which it is given its turn and gives it back


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
    for connection in _turn:
        connection.send_bytes(b".")
        connection.recv_bytes()


class _Process:
    """A running measurement; on leaving the context it is over and its files are gone."""

    def __init__(self, function: str, options: dict, turns: bool = False):
        self.what, self.start = f"{function} {options}", time.perf_counter()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        context = _server()
        self.turn, other = context.Pipe() if turns else (None, None)
        self.process = context.Process(target=_serve, args=(function, options, Path(self.folder.name), other))
        self.process.start()
        if other is not None:
            other.close()  # so that its end is seen here

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.turn is not None:
            self.turn.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def take_turn(self) -> bool:
        """Let it run until it hands over; False once it has ended."""
        try:
            self.turn.send_bytes(b".")
            return bool(self.turn.recv_bytes())
        except (EOFError, OSError):
            return False

    def result(self) -> dict:
        """What it returned, after its end."""
        self.process.join()
        status = self.process.exitcode
        if status == -signal.SIGKILL:
            raise RuntimeError(f"{self.what}: killed, most likely for want of memory")
        if status:
            errors = (Path(self.folder.name) / "errors.txt").read_text(encoding="utf-8", errors="replace")
            tail = "\n".join(errors.strip().splitlines()[-12:])
            raise RuntimeError(f"{self.what}: exit status {status}\n{tail}")
        found = json.loads((Path(self.folder.name) / "result.json").read_text(encoding="utf-8"))
        return {**found, "process_s": time.perf_counter() - self.start}


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    """The process that the others are forked from, started with the environment that the libraries read when imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _serve(function: str, options: dict, folder: Path, turn: Connection | None) -> None:
    os.environ.update(_ENVIRONMENT)
    with open(folder / "errors.txt", "w", encoding="utf-8") as errors, open(os.devnull, "w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    if turn is not None:
        turn.recv_bytes()  # not before the first turn
        _turn.append(turn)
    work = folder / "work"
    work.mkdir()
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(f"benchmarks.bench.{module}"), name)(work, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    (folder / "result.json").write_text(json.dumps({"peak_mb": peak, **found}), encoding="utf-8")
