"""What a run leaves to look at: metrics.jsonl (the record), lines or a bar on the terminal, and W&B as a mirror.

Whatever happens inside wandb is said once and never ends or holds up a training.
"""

import contextlib
import json
import logging
import math
import numbers
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.app.settings.groups import TrackingSettings, has_wandb_key
from e5ft.app.telling.report import duration
from e5ft.errors import StorageError
from e5ft.files import write_text

log = logging.getLogger("e5ft")

# What W&B may see. It would take anything it is given, and configurations can carry secrets.
_ALLOWED = (
    *("name", "seed", "model", "data", "loss", "step", "matryoshka", "keep"),
    *("optimizer", "training", "evaluation"),
)
_INIT, _FINISH = 30, 60  # seconds that wandb itself gives the server
_LOG = 30  # seconds; a line takes milliseconds
_GRACE = 15  # seconds more before a call is given up from outside: wandb does not keep to its own limits everywhere
_hung_or_failed = False


class MetricsFile(TrainerCallback):
    """Append every logged step to metrics.jsonl, a line at a time, each on disk before training continues.

    Args:
        path: the file.
        logged_before: on resuming, what the checkpoint says was logged before it: the file is written again from that, for its
            later lines are of a past that did not happen, and a killed process may have left half of one. None: a new run.

    Raises:
        StorageError: a line could not be written. It is the run's record, so that a run without it must end.
    """

    def __init__(self, path: Path, logged_before: Sequence[dict] | None = None):
        self.path = path
        if distributed.is_main():
            with _stored(path):
                write_text(path, "".join(_line(entry["step"], entry) for entry in logged_before or ()))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        if state.is_world_process_zero and logs:
            with _stored(self.path), open(self.path, "ab", buffering=0) as file:
                _append(file, _line(state.global_step, logs).encode())


class ProgressLines(TrainerCallback):
    """A bar on a terminal, plain lines elsewhere; evaluations as lines in both.

    Args:
        metric: of the dev set, without "eval_".
    """

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
        """Print one line a logged step and an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        key = f"eval_{self.metric}"
        if key in logs:
            when = " (before training)" if state.global_step == 0 else f"  at step {state.global_step}"
            self._print(f"  dev {self.metric} {logs[key]:.3f}{when}")
        elif "loss" in logs:
            seconds = time.monotonic() - self.started
            left = seconds / max(state.global_step - self.first_step, 1) * (state.max_steps - state.global_step)
            text = f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}"
            if self.bar is not None:
                self.bar.set_postfix_str(text)
            else:
                self._print(f"  step {state.global_step:,}/{state.max_steps:,}  {text}  {duration(left)} left")

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _print(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)


def _line(step: int, logs: dict) -> str:
    values = {"step": step, **{key: value for key, value in logs.items() if isinstance(value, numbers.Real)}}  # NumPy's, too
    values = {key: int(value) if isinstance(value, numbers.Integral) else float(value) for key, value in values.items()}
    # JSON has neither NaN nor an infinity.
    return json.dumps({key: value if math.isfinite(value) else None for key, value in values.items()}, allow_nan=False) + "\n"


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"{path}: cannot be written ({reason}); it is the run's record. Make room, then resume=true"
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


# -- W&B -------------------------------------------------------------------------------------------------------------------


def hung_or_failed() -> bool:
    """Whether a call into wandb never came back, or a run failed in its middle: its hooks at exit would hang or raise, too."""
    return _hung_or_failed


class WandbMirror(TrainerCallback):
    """Send what Trainer logs to a W&B run; the first failure is said and ends the mirror, later ones are silent.

    Every call into wandb runs on a thread of its own and is waited for so long and no longer. So a call that hangs holds
    nothing up, and what is raised inside can be told apart: SystemExit, KeyboardInterrupt and CancelledError on that thread
    are wandb's and end the mirror alone; a KeyboardInterrupt on the main thread is a person's (Ctrl-C, or "Stop run" in
    W&B's pages, which arrives as one) and passes.
    """

    def __init__(self):
        self._calls: queue.SimpleQueue | None = None
        self._run: object | None = None
        self._warned = False

    def start(self, make_run: Callable[[], object]) -> None:
        """Begin a run.

        Args:
            make_run: imports wandb and returns its run.
        """
        self._calls = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._calls,), name="wandb-calls", daemon=True).start()
        self._run = self._call(make_run, _INIT + _GRACE, "did not start")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        values = {k.replace("eval_", "dev/", 1) if k.startswith("eval_") else f"train/{k}": v for k, v in (logs or {}).items()}
        if values:
            self.send(values, state.global_step)

    def send(self, values: dict, step: int | None = None) -> None:
        """Log values, or give up on W&B for the rest of the run."""
        if self._run is not None and not self._warned:
            run = self._run
            self._call(lambda: run.log(values, step=step), _LOG, "failed")

    def finish(self, exit_code: int = 0) -> None:
        """End the run in W&B, also after a failure: what it has can still be kept.

        Args:
            exit_code: other than 0 marks the run as failed.
        """
        if self._run is not None and self._calls is not None:
            run = self._run
            self._call(lambda: run.finish(exit_code=exit_code), _FINISH + _GRACE, "did not finish")
        if self._calls is not None:
            self._calls.put(None)
        self._calls = self._run = None

    def _call(self, function: Callable[[], object], seconds: float, what: str) -> object | None:
        global _hung_or_failed
        answer: queue.SimpleQueue = queue.SimpleQueue()
        self._calls.put((function, answer))
        try:
            value, error = answer.get(timeout=seconds)
        except queue.Empty:
            value, error = None, f"no answer in {seconds:g} s"
            _hung_or_failed, self._calls = True, None
        if error is not None:
            _hung_or_failed = _hung_or_failed or self._run is not None
            if not self._warned:
                text = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning(f"W&B {what} ({text}); continuing without it. metrics.jsonl has everything.")
            self._warned = True
        return value


def _work(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, answer = call
        try:
            answer.put((function(), None))
        except BaseException as error:  # also those that would end a thread without a word: see WandbMirror
            answer.put((None, error))


@contextlib.contextmanager
def wandb_run(tracking: TrackingSettings, values: dict, folder: Path, group: str | None) -> Iterator[WandbMirror]:
    """A W&B run for one job, finished at the end: two jobs of one process would otherwise share it (wandb#1314).

    Args:
        tracking: whether and where.
        values: the whole configuration as plain values; only an allowlist of its groups is sent.
        folder: where W&B keeps its files.
        group: the sweep that the run belongs to.

    Yields:
        A mirror, which does nothing when W&B is off or cannot start.
    """
    mirror, mode = WandbMirror(), tracking.mode
    if mode != "off" and distributed.is_main():
        mirror.start(lambda: _start(tracking, values, folder, group, mode))
    try:
        yield mirror
    except BaseException:
        mirror.finish(exit_code=1)
        raise
    mirror.finish()


def _start(tracking: TrackingSettings, values: dict, folder: Path, group: str | None, mode: str) -> object:
    if mode == "online" and not has_wandb_key():  # wandb would ask on the terminal, and wait
        raise RuntimeError("no API key: `wandb login`, WANDB_API_KEY=..., or tracking.wandb=offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,  # it would record the command line, with whatever secret stands on it
        x_disable_stats=True,
        init_timeout=_INIT,
        finish_timeout=_FINISH,  # without it finish() retries for hours when the server is gone
        finish_timeout_raises=True,
    )
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        tags=list(tracking.tags),
        name=folder.name if group is None else f"{group}-{folder.name}",
        group=group,
        dir=str(folder),
        config={key: values[key] for key in _ALLOWED if key in values},
        mode=mode,
        reinit="finish_previous",
        settings=settings,
    )
