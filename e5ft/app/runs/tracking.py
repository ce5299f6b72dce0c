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
from e5ft.training.trackers import FurtherTracker, Trackers

log = logging.getLogger("e5ft")

# What trackers may see. They would take anything they are given, and configurations can carry secrets.
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
    """Whether a call into a tracker never came back, or a run failed in its middle: its hooks at exit would hang or raise, too."""
    return _hung_or_failed


def _record(values: dict) -> dict:
    return {key: values[key] for key in _ALLOWED if key in values}


def _run_name(folder: Path, group: str | None) -> str:
    return folder.name if group is None else f"{group}-{folder.name}"


def exit_code_of(error: BaseException | None) -> int:
    """The exit code of a job that ended so, as the trackers are told it."""
    return 0 if error is None else getattr(error, "exit_code", 1)


class TrackerThread:
    """Calls into a tracker, on a thread of its own, each waited for so long and no longer; the first failure is said.

    So a call that hangs holds nothing up, and what is raised inside can be told apart: SystemExit, KeyboardInterrupt and
    CancelledError on that thread are the tracker's and end it alone; a KeyboardInterrupt on the main thread is a person's
    (Ctrl-C, or "Stop run" in W&B's pages, which arrives as one) and passes.

    Args:
        name: of the tracker, for the warning.
    """

    def __init__(self, name: str):
        self.name, self.failed = name, False
        self._calls: queue.SimpleQueue | None = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._calls,), name=f"{name}-calls", daemon=True).start()

    def start(self, make: Callable[[], object]) -> object | None:
        """Import the tracker and begin a run; None where that fails."""
        return self._call(make, _INIT + _GRACE, "did not start", began=False)

    def do(self, function: Callable[[], object]) -> None:
        """Call, unless a call failed before."""
        if not self.failed:
            self._call(function, _LOG, "failed")

    def finish(self, function: Callable[[], object] | None) -> None:
        """End the run, also after a failure: what it has can still be kept. None: there is no run."""
        if function is not None and self._calls is not None:
            self._call(function, _FINISH + _GRACE, "did not finish")
        if self._calls is not None:
            self._calls.put(None)

    def _call(self, function: Callable[[], object], seconds: float, what: str, *, began: bool = True) -> object | None:
        global _hung_or_failed
        answer: queue.SimpleQueue = queue.SimpleQueue()
        self._calls.put((function, answer))
        try:
            value, error = answer.get(timeout=seconds)
        except queue.Empty:
            value, error = None, f"no answer in {seconds:g} s"
            _hung_or_failed, self._calls = True, None
        if error is not None:
            _hung_or_failed = _hung_or_failed or began
            if not self.failed:
                text = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning(f"{self.name} {what} ({text}); continuing without it. metrics.jsonl has everything.")
            self.failed = True
        return value


def _work(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, answer = call
        try:
            answer.put((function(), None))
        except BaseException as error:  # also those that would end a thread without a word: see TrackerThread
            answer.put((None, error))


class WandbMirror(TrainerCallback):
    """Send what Trainer logs to a W&B run; after the first failure no more.

    Args:
        make_run: imports wandb and returns its run; None: there is none.
    """

    def __init__(self, make_run: Callable[[], object] | None):
        self._thread = None if make_run is None else TrackerThread("W&B")
        self._run = None if make_run is None else self._thread.start(make_run)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        values = {k.replace("eval_", "dev/", 1) if k.startswith("eval_") else f"train/{k}": v for k, v in (logs or {}).items()}
        if values:
            self.send(values, state.global_step)

    def send(self, values: dict, step: int | None = None) -> None:
        """Log values, or give up on W&B for the rest of the run."""
        if self._run is not None:
            self._thread.do(lambda: self._run.log(values, step=step))

    def finish(self, code: int) -> None:
        """End the run in W&B with the job's exit code: one above 0 is a failed run there."""
        if self._thread is not None:
            self._thread.finish(None if self._run is None else lambda: self._run.finish(exit_code=code))


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
    mode = tracking.mode
    tracked = mode != "off" and distributed.is_main()
    mirror = WandbMirror((lambda: _start(tracking, values, folder, group, mode)) if tracked else None)
    with contextlib.ExitStack() as end:
        end.push(lambda _, error, __: mirror.finish(exit_code_of(error)))
        yield mirror


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
        name=_run_name(folder, group),
        group=group,
        dir=str(folder),
        config=_record(values),
        mode=mode,
        reinit="finish_previous",
        settings=settings,
    )


@contextlib.contextmanager
def tracked(tracking: TrackingSettings, values: dict, folder: Path, group: str | None) -> Iterator[Trackers]:
    """W&B and the further trackers of one job, finished at the end with its exit code.

    Args:
        tracking, values, folder, group: as of `wandb_run`.

    Yields:
        One callback for all.
    """
    shown = _record(values), tracking.project, _run_name(folder, group)
    with wandb_run(tracking, values, folder, group) as mirror, contextlib.ExitStack() as ends:
        others = [FurtherTracker(each, TrackerThread(each), shown) for each in tracking.also if distributed.is_main()]
        for other in others:
            ends.push(lambda _, error, __, finish=other.finish: finish(exit_code_of(error)))
        yield Trackers([mirror, *others])
