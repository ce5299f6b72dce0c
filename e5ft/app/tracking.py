"""What a run leaves to look at: metrics.jsonl (the record), and lines or a bar on the terminal. W&B: mirror.py."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.app.telling.report import duration
from e5ft.errors import StorageError
from e5ft.files import write_text


class MetricsFile(TrainerCallback):
    """Append every logged step to metrics.jsonl, a line at a time, each on disk before training goes on.

    Args:
        path: the file.
        past: when going on from a checkpoint, what it says was logged before it: the file is written anew from that, for its
            later lines are of a past that did not happen, and a killed process may have left half of one. None: a new run.

    Raises:
        StorageError: a line could not be written. It is the record of truth, so that a run without it must end.
    """

    def __init__(self, path: Path, past: Sequence[dict] | None = None):
        self.path = path
        if distributed.is_main():
            with _stored(path):
                write_text(path, "".join(_line(entry["step"], entry) for entry in past or ()))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        if not state.is_world_process_zero or not logs:
            return
        with _stored(self.path), open(self.path, "ab", buffering=0) as file:
            _append(file, _line(state.global_step, logs).encode())


def _line(step: int, logs: Mapping[str, object]) -> str:
    values = {key: value for key, value in logs.items() if isinstance(value, int | float)}
    return json.dumps({"step": step, **values}) + "\n"


class Progress(TrainerCallback):
    """A bar on a terminal, plain lines elsewhere; evaluations as lines in both."""

    def __init__(self, metric: str):
        self.metric = metric
        self.bar = None
        self.started = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock and, on a terminal, the bar."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """One line a logged step and an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        key = f"eval_{self.metric}"
        if key in logs:
            self._say(
                f"  dev {self.metric} {logs[key]:.3f}"
                + (" (before training)" if state.global_step == 0 else f"  at step {state.global_step}")
            )
        elif "loss" in logs:
            seconds = time.monotonic() - self.started
            left = seconds / max(state.global_step - self.first_step, 1) * (state.max_steps - state.global_step)
            text = f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}"
            if self.bar is not None:
                self.bar.set_postfix_str(text)
            else:
                self._say(f"  step {state.global_step:,}/{state.max_steps:,}  {text}  {duration(left)} left")

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); it is the run's record. Make room, then go on with resume=true"
        ) from error


def _append(file: BinaryIO, line: bytes) -> None:
    """Write a whole line or none of it: a full disk takes the beginning of one before it refuses the rest."""
    size = os.fstat(file.fileno()).st_size
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(size)
        raise
