"""What a run leaves to look at: metrics.jsonl (the record), lines or a bar on the terminal, and W&B as a mirror.

Whatever happens inside wandb is said once and never ends or holds up a training.
"""

import contextlib
import json
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.app.settings.groups import TrackingSettings, has_wandb_key
from e5ft.errors import StorageError
from e5ft.files import write_text
from e5ft.formatting import duration
from e5ft.training.time_left import TimeLeft
from e5ft.training.trackers import FINISH, START, Closing, FurtherTracker, Trackers, TrackerThread

# What trackers may see. They would take anything they are given, and configurations can carry secrets.
_ALLOWED = (
    *("name", "seed", "model", "data", "loss", "step", "matryoshka", "keep"),
    *("optimizer", "training", "evaluation"),
)


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

    Attributes:
        left: what is still to do, set before training.
    """

    def __init__(self, metric: str):
        self.metric = metric
        self.left: TimeLeft | None = None
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        """On a terminal, start the bar."""
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
            # A step is logged before it is evaluated and saved.
            left = () if self.left is None else self.left.parts(state.global_step, state.global_step - 1).values()
            text = f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}  {duration(sum(left))} left"
            if self.bar is not None:
                self.bar.set_postfix_str(text)
            else:
                self._print(f"  step {state.global_step:,}/{state.max_steps:,}  {text}")

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


class WandbMirror(TrainerCallback):
    """Send what Trainer logs to a W&B run; after the first failure no more.

    Args:
        make_run: imports wandb and returns its run.
    """

    def __init__(self, make_run: Callable[[], object]):
        self._thread = TrackerThread("W&B")
        self._run = self._thread.start(make_run)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        values = {k.replace("eval_", "dev/", 1) if k.startswith("eval_") else f"train/{k}": v for k, v in (logs or {}).items()}
        if values:
            self.send(values, state.global_step)

    def send(self, values: dict, step: int | None = None) -> None:
        """Log values, or give up on W&B for the rest of the run."""
        if self._run is not None:
            self._thread.do(lambda: self._run.log(values, step=step))

    def end(self, closing: Closing) -> None:
        """Send the figures of the end, which W&B keeps as the run's summary, the tables, and the page as an artifact."""
        numbers_only = {name: value for name, value in closing.figures.items() if not isinstance(value, str)}
        self.send(numbers_only)
        if self._run is not None:
            self._thread.do(lambda: _send_closing(self._run, closing))

    def finish(self, code: int) -> None:
        """End the run in W&B with the job's exit code: one above 0 is a failed run there."""
        self._thread.finish(None if self._run is None else lambda: self._run.finish(exit_code=code))


@contextlib.contextmanager
def tracked(tracking: TrackingSettings, values: dict, folder: Path, group: str | None) -> Iterator[Trackers]:
    """W&B and the further trackers of one job, finished at its end: two jobs of one process would share a run (wandb#1314).

    Args:
        tracking: whether and where.
        values: the whole configuration as plain values; only an allowlist of its groups is sent.
        folder: the run's, where W&B keeps its files.
        group: the sweep that the run belongs to.

    Yields:
        One callback for all; it does nothing where trackers are off or cannot start.
    """
    mirrors, name = [], folder.name if group is None else f"{group}-{folder.name}"
    if distributed.is_main():
        record = {key: values[key] for key in _ALLOWED if key in values}
        if tracking.mode != "off":
            mirrors.append(WandbMirror(lambda: _start(tracking, record, folder, group, name)))
        mirrors += [FurtherTracker(each, TrackerThread(each), (record, tracking.project, name)) for each in tracking.also]
    code = 0
    try:
        yield Trackers(mirrors)
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        raise
    finally:
        for mirror in mirrors:
            mirror.finish(code)


def _send_closing(run: object, closing: Closing) -> None:
    import wandb

    run.summary.update({name: value for name, value in closing.figures.items() if isinstance(value, str)})
    for name, (head, *rows) in closing.tables.items():
        run.log({f"tables/{name}": wandb.Table(columns=head, data=rows)})
    if closing.page is not None:
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_file(str(closing.page))
        run.log_artifact(artifact)


def _start(tracking: TrackingSettings, record: dict, folder: Path, group: str | None, name: str) -> object:
    if tracking.mode == "online" and not has_wandb_key():  # wandb would ask on the terminal, and wait
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
        init_timeout=START,
        finish_timeout=FINISH,  # without it finish() retries for hours when the server is gone
        finish_timeout_raises=True,
    )
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        tags=list(tracking.tags),
        name=name,
        group=group,
        dir=str(folder),
        config=record,
        mode=tracking.mode,
        reinit="finish_previous",
        settings=settings,
    )
