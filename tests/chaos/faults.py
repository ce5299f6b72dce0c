"""Faults at named places of the code, at a chosen step: a kill, a full disk, a signal, a number that is none."""

import dataclasses
import errno
import functools
import importlib
import os
import signal
from collections.abc import Callable

KILL, FULL, TERM, USR1, NAN = "SIGKILL", "ENOSPC", "SIGTERM", "SIGUSR1", "NaN"


@dataclasses.dataclass(frozen=True)
class Place:
    """A named place: before, after or halfway through a call of a function of the code.

    Attributes:
        name: what tables call it.
        target: "module:name" or "module:Class.name".
        when: "before", "after", or "half": after the call, with the file that it wrote cut to half (a write that stopped midway).
        file: for calls that write: only the one whose path ends so.
    """

    name: str
    target: str
    when: str = "before"
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens where.

    Attributes:
        place: the place.
        step: the optimizer step under way, counted from 0; None where there is none (before and after training).
        kind: KILL, FULL, TERM, USR1, or NAN (what the call returns, a tensor, becomes NaN).
        rank: the process it happens to.
        count: at which of the step's calls, counted from 1.
    """

    place: Place
    step: int | None = None
    kind: str = KILL
    rank: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """For messages."""
        where = "" if self.step is None else f", step {self.step + 1}"
        return f"{self.kind} {self.place.name}{where}, process {self.rank}"


class _Clock:
    """The step under way, in this process."""

    step: int | None = None


def install(fault: Fault, rank: int) -> None:
    """Put a fault in place in this (child) process."""
    _follow_steps()
    if rank != fault.rank:
        return
    left = [fault.count]
    owner, name, function = _resolve(fault.place.target)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        path = _written(args, kwargs) if fault.place.file else ""
        hit = _Clock.step == fault.step and path.endswith(fault.place.file)
        if hit:
            left[0] -= 1
        strikes = hit and left[0] == 0
        if strikes and fault.place.when == "before":
            _strike(fault)
        result = function(*args, **kwargs)
        if strikes and fault.kind == NAN:
            return result * float("nan")
        if strikes and fault.place.when == "half":
            os.truncate(path, os.path.getsize(path) // 2)
        if strikes and fault.place.when != "before":
            _strike(fault)
        return result

    setattr(owner, name, wrapped)


def _follow_steps() -> None:
    from e5ft.training.trainer import ContrastiveTrainer

    fetch, train = ContrastiveTrainer.get_batch_samples, ContrastiveTrainer.train

    @functools.wraps(fetch)
    def following(self, *args, **kwargs):
        _Clock.step = self.state.global_step
        return fetch(self, *args, **kwargs)

    @functools.wraps(train)
    def training(self, *args, **kwargs):
        try:
            return train(self, *args, **kwargs)
        finally:
            _Clock.step = None

    ContrastiveTrainer.get_batch_samples, ContrastiveTrainer.train = following, training


def _resolve(target: str) -> tuple[object, str, Callable]:
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name, getattr(owner, name)


def _written(args: tuple, kwargs: dict) -> str:
    paths = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, str | os.PathLike)]
    return paths[-1] if paths else ""


def _strike(fault: Fault) -> None:
    if fault.kind == FULL:
        raise OSError(errno.ENOSPC, "No space left on device")
    os.kill(os.getpid(), getattr(signal, fault.kind))
