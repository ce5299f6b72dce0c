"""What ends a run early: signals, which let a step end and be saved, and memory that does not suffice, with its remedies."""

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from e5ft import distributed
from e5ft.errors import E5ftError, OutOfMemoryError, TerminatedError
from e5ft.modeling import cpu
from e5ft.training.fitting import cuts, out_of_memory
from e5ft.training.schedule import AUTO

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends the second where a job asks for it (--signal=USR1@180)
_SAME_REQUEST = 5  # seconds


@contextlib.contextmanager
def stopping_at_once(again: str) -> Iterator[None]:
    """Within the block a signal ends the job through `TerminatedError`, so that its status says so.

    Args:
        again: the overrides that resume it, for the message.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # what is being cleaned up stays undisturbed
        word = signal.Signals(number).name
        raise TerminatedError(f"stopped by {word}; what was saved before is safe. Resume: {again}")

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

    def on_epoch_end(self, args, state, control, **kwargs):
        """Called by Trainer after the last step, too: under training.save_strategy=best an evaluation took the request back."""
        if self.stopped is not None:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        """Called by Trainer after a checkpoint was written: a signal that came meanwhile needs no further step."""
        if self._anyone():
            control.should_training_stop = True

    def _anyone(self) -> bool:
        # The signal comes to processes at different moments: one that stopped a step earlier would leave the others waiting.
        asked = distributed.any_process(self._asked is not None)
        if asked:
            self.stopped = self._asked[0] if self._asked is not None else "a signal to another process"
        return asked


@contextlib.contextmanager
def out_of_memory_explained(settings: Any) -> Iterator[None]:
    """Turn running out of memory, wherever it happens in the block, into an error that names the remedies.

    Args:
        settings: of any script.

    Raises:
        OutOfMemoryError: memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, E5ftError) or not out_of_memory(error):
            raise
        raise OutOfMemoryError(advice(error, settings)) from error


def advice(error: BaseException, settings: Any) -> str:
    """What happened, and the overrides that take less memory and leave the results' meaning alone.

    Args:
        error: what was raised, with its traceback.
        settings: of the script.
    """
    frames = {(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)}
    encoding = ("e5ft.modeling.encoder", "encode_tokens") in frames  # vectors for ranking, also in the middle of a training
    trains = hasattr(settings, "training")
    activity = "encoding" if encoding else "training" if trains else "running"
    remedies = list(_of_training(settings) if activity == "training" else _of_encoding(settings))
    width = max((len(override) for override, _ in remedies), default=0)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    lines = [f"out of memory while {activity}: {reason}"]
    if remedies:
        lines.append("Each of these takes less and leaves what is computed as it is:")
    lines += [f"  {override:{width}}  {why}" for override, why in remedies]
    if trains:
        if activity == "training" and settings.step.negatives == "micro_batch":
            lines.append("A smaller micro-batch would have fewer negatives (step.negatives=micro_batch).")
        lines.append("Checkpoints are untouched; where there is one, resume: name=NAME resume=true and one of these.")
    return "\n".join(lines)


def _of_training(settings: Any) -> Iterator[tuple[str, str]]:
    training = settings.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    is_auto = accumulation == AUTO  # the rows have not been read
    queries = batch if is_auto else batch * accumulation
    if settings.step.negatives == "step" and batch > 1:
        size, number = (batch // 2, AUTO) if is_auto else next(cut for cut in cuts(batch, accumulation) if cut[0] <= batch // 2)
        yield (
            f"training.per_device_train_batch_size={size} training.gradient_accumulation_steps={number}",
            f"the same step{'' if is_auto else f' of {queries} queries a process'} in smaller pieces",
        )
        if not training.fit_micro_batch:
            yield "training.fit_micro_batch=true", "the largest such piece that fits, found before training"
    if not training.activation_checkpointing:
        yield "training.activation_checkpointing=true", "about a third more time"
    if not (training.bf16 or training.fp16):
        yield "training.bf16=true", "half the activations, in bfloat16's precision; in a new run, not with resume=true"
    chunk = settings.loss.get("chunk_size")
    if chunk is not None and min(chunk, queries) > 1:
        yield f"loss.chunk_size={min(chunk, queries) // 2}", "fewer queries' scores at once"


def _of_encoding(settings: Any) -> Iterator[tuple[str, str]]:
    group = "evaluation." if hasattr(settings, "evaluation") else ""
    tokens = settings.evaluation.batch_tokens if group else settings.batch_tokens
    if tokens > 1:
        tokens = tokens if torch.accelerator.is_available() else cpu.max_concurrent_tokens(tokens)  # as Encoder.encode has it
        yield f"{group}batch_tokens={tokens // 2}", "tokens that are encoded at once"
