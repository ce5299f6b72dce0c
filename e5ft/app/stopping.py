"""SIGTERM and SIGUSR1: a request to save at the end of the step and to stop; outside training, to stop at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.errors import TerminatedError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends the second where a job asks for it (--signal=USR1@180)
_SAME_REQUEST = 5  # seconds


@contextlib.contextmanager
def stopping_at_once(name: str) -> Iterator[None]:
    """Within the block a signal ends the job through `TerminatedError`, so that its status says so.

    Args:
        name: the run's, for the message.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # what is being cleaned up stays undisturbed
        found = signal.Signals(number).name
        raise TerminatedError(f"stopped by {found}; what was saved before is safe. Go on with: name={name} resume=true")

    with _handled_by(handle):
        yield


@contextlib.contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one choose
        yield
        return
    before = {each: signal.signal(each, handle) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class StopAtStepEnd(TrainerCallback):
    """As a context around training: the first signal to any process lets all finish the step, save, and stop.

    A later signal ends the process at once, but not while a checkpoint is being written: that is finished first, and the run is
    over then anyway. Within five seconds it is the same request: a cluster signals every process, and torchrun passes on
    what it gets.

    Args:
        saving: tells whether a checkpoint is being written.

    Attributes:
        stopped: the signal's name once training has stopped for it, else None.
    """

    def __init__(self, saving: Callable[[], bool]):
        self.stopped: str | None = None
        self._saving = saving
        self._asked: tuple[str, float] | None = None  # the first signal, and when it came
        self._handling = _handled_by(self._handle)

    def __enter__(self) -> "StopAtStepEnd":
        self._handling.__enter__()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        self._handling.__exit__(kind, *error)
        if self._asked is not None and self.stopped is None and kind is None:  # after the last step: it is for what comes next
            signal.raise_signal(signal.Signals[self._asked[0]])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = signal.Signals(number).name, time.monotonic()
        elif not self._saving() and time.monotonic() - self._asked[1] > _SAME_REQUEST:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def on_step_end(self, args, state, control, **kwargs):
        """Called by Trainer after the optimizer step, before it logs, evaluates and saves."""
        if self._anyone():
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Called by Trainer after a checkpoint was written: one that came meanwhile needs no further step."""
        if self._anyone():
            control.should_training_stop = True

    def _anyone(self) -> bool:
        # The signal comes to processes at different moments: one that stopped a step earlier would leave the others waiting.
        asked = distributed.any_process(self._asked is not None)
        if asked:
            self.stopped = self._asked[0] if self._asked is not None else "a signal to another process"
        return asked
