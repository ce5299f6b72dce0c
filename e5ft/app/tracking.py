"""What a run leaves to look at: metrics.jsonl (the record), lines or a bar on the terminal, and W&B as a mirror."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from netrc import netrc
from pathlib import Path

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.errors import ConfigurationError
from e5ft.files import write_text

log = logging.getLogger(__name__)

# What W&B may see. It would take anything it is given, and configurations can carry secrets.
_ALLOWED = ("name", "seed", "model", "data", "loss", "optimizer", "training", "evaluation")


class MetricsFile(TrainerCallback):
    """Append every logged step to metrics.jsonl, a line at a time, each on disk before training goes on.

    Args:
        path: the file.
        past: when going on from a checkpoint, what it says was logged before it: the file is written anew from that, for its
            later lines are of a past that did not happen, and a killed process may have left half of one. None: a new run.
    """

    def __init__(self, path: Path, past: Sequence[dict] | None = None):
        self.path = path
        if distributed.is_main():
            write_text(path, "".join(_line(entry["step"], entry) for entry in past or ()))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        if not state.is_world_process_zero or not logs:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(state.global_step, logs))
            file.flush()
            os.fsync(file.fileno())


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


class WandbMirror(TrainerCallback):
    """Send what Trainer logs to a W&B run; a failure inside wandb is told once and ends the mirror, never the training."""

    def __init__(self, run: object):
        self.run = run

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        if logs:
            values = {
                key.replace("eval_", "dev/", 1) if key.startswith("eval_") else f"train/{key}": v for key, v in logs.items()
            }
            self.send(values, state.global_step)

    def send(self, values: dict, step: int | None = None) -> None:
        """Log values, or give up on W&B for the rest of the run."""
        if self.run is None:
            return
        try:
            self.run.log(values, step=step)
        except Exception as error:
            log.warning(f"W&B failed ({error}); going on without it. metrics.jsonl has everything.")
            self.run = None


@contextlib.contextmanager
def wandb_run(tracking: dict, config: dict, folder: Path, group: str | None) -> Iterator[WandbMirror]:
    """A W&B run for one job, finished at the end: two jobs of one process would otherwise share it (wandb#1314).

    Args:
        tracking: the `tracking` group.
        config: the whole configuration; only an allowlist of its groups is sent.
        folder: where W&B keeps its files.
        group: the sweep that the run belongs to.

    Yields:
        A mirror, which does nothing when W&B is off or cannot start.
    """
    run = None
    mode = _mode(tracking)
    if mode != "off" and distributed.is_main():
        try:
            run = _start(tracking, config, folder, group, mode)
        except Exception as error:
            log.warning(f"W&B did not start ({error}); going on without it. metrics.jsonl has everything.")
    mirror = WandbMirror(run)
    try:
        yield mirror
    finally:
        if run is not None:
            try:
                run.finish()
            except Exception as error:
                log.warning(f"W&B did not finish ({error}); metrics.jsonl has everything.")


def _mode(tracking: dict) -> str:
    mode = tracking["wandb"]
    if mode is False:  # YAML reads a bare off as false
        mode = "off"
    if mode not in ("auto", "offline", "online", "off"):
        raise ConfigurationError(f"tracking.wandb={mode!r}: auto, offline, online or off is needed")
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    return "off" if mode == "disabled" else mode


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (OSError, ValueError, SyntaxError):
        return False


def _start(tracking: dict, config: dict, folder: Path, group: str | None, mode: str) -> object:
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
        init_timeout=30,
    )
    return wandb.init(
        project=tracking["project"],
        entity=tracking["entity"],
        tags=list(tracking["tags"]),
        name=folder.name if group is None else f"{group}-{folder.name}",
        group=group,
        dir=str(folder),
        config={key: config[key] for key in _ALLOWED if key in config},
        mode=mode,
        reinit="finish_previous",
        settings=settings,
    )


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
