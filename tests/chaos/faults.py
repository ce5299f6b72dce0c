"""Faults at named places of the code, at a chosen step: a kill, a full disk, a signal, a number that is none."""

import dataclasses
import errno
import functools
import os
import pkgutil
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


def install(fault: Fault, rank: int) -> None:
    """Put a fault in place in this (child) process."""
    from e5ft.training.trainer import ContrastiveTrainer

    step, left = None, fault.count  # the step under way in this process; calls until the fault

    def fetching(fetch: Callable, trainer, *args, **kwargs):
        nonlocal step
        step = trainer.state.global_step
        return fetch(trainer, *args, **kwargs)

    def training(train: Callable, *args, **kwargs):
        nonlocal step
        try:
            return train(*args, **kwargs)
        finally:
            step = None

    def faulty(function: Callable, *args, **kwargs):
        nonlocal left
        paths = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, str | os.PathLike)]
        left -= step == fault.step and (not fault.place.file or bool(paths) and paths[-1].endswith(fault.place.file))
        strikes, left = left == 0, left or -1
        if strikes and fault.place.when == "before":
            _strike(fault)
        result = function(*args, **kwargs)
        if strikes and fault.kind == NAN:
            return result * float("nan")
        if strikes and fault.place.when == "half":
            os.truncate(paths[-1], os.path.getsize(paths[-1]) // 2)
        if strikes and fault.place.when != "before":
            _strike(fault)
        return result

    _wrap(ContrastiveTrainer, "get_batch_samples", fetching)
    _wrap(ContrastiveTrainer, "train", training)
    if rank == fault.rank:
        module, _, path = fault.place.target.partition(":")
        owner, _, name = path.rpartition(".")
        _wrap(pkgutil.resolve_name(f"{module}:{owner}"), name, faulty)


def _wrap(owner: object, name: str, wrapper: Callable) -> None:
    function = getattr(owner, name)
    setattr(owner, name, functools.wraps(function)(lambda *args, **kwargs: wrapper(function, *args, **kwargs)))


def _strike(fault: Fault) -> None:
    if fault.kind == FULL:
        raise OSError(errno.ENOSPC, "No space left on device")
    os.kill(os.getpid(), getattr(signal, fault.kind))
