"""W&B as a mirror of metrics.jsonl. Whatever happens inside wandb is told once and never ends or holds up a training."""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from netrc import netrc
from pathlib import Path
from urllib.parse import urlparse

from transformers import TrainerCallback

from e5ft import distributed
from e5ft.errors import ConfigurationError

log = logging.getLogger(__name__)

# What W&B may see. It would take anything it is given, and configurations can carry secrets.
_ALLOWED = ("name", "seed", "model", "data", "loss", "optimizer", "training", "evaluation")
_INIT, _FINISH = 30, 60  # seconds that wandb itself gives the server
_LOG = 30  # seconds; a line takes milliseconds
_GRACE = 15  # seconds more before a call is given up from outside: wandb does not keep to its own limits everywhere
_given_up = False


def given_up() -> bool:
    """Whether a call into wandb never came back, or a run failed in its middle: wandb's hooks at exit would hang or raise, too."""
    return _given_up


class WandbMirror(TrainerCallback):
    """Send what Trainer logs to a W&B run; the first failure is told and ends the mirror, later ones are silent.

    Every call into wandb runs on a thread of its own and is waited for so long and no longer. So a call that hangs holds
    nothing up, and what is raised inside can be told apart: SystemExit, KeyboardInterrupt and CancelledError on that thread
    are wandb's and end the mirror alone; a KeyboardInterrupt on the main thread is a person's (Ctrl-C, or "Stop run" in
    W&B's pages, which arrives as one) and passes.
    """

    def __init__(self):
        self._calls: queue.SimpleQueue | None = None
        self._run: object | None = None
        self._told = False

    def start(self, start: Callable[[], object]) -> None:
        """Begin a run.

        Args:
            start: imports wandb and returns its run.
        """
        self._calls = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._calls,), name="wandb-calls", daemon=True).start()
        self._run = self._call(start, _INIT + _GRACE, "did not start")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs."""
        if logs:
            values = {
                key.replace("eval_", "dev/", 1) if key.startswith("eval_") else f"train/{key}": v for key, v in logs.items()
            }
            self.send(values, state.global_step)

    def send(self, values: dict, step: int | None = None) -> None:
        """Log values, or give up on W&B for the rest of the run."""
        if self._run is not None and not self._told:
            run = self._run
            self._call(lambda: run.log(values, step=step), _LOG, "failed")

    def finish(self) -> None:
        """End the run in W&B, also after a failure: what it has can still be kept."""
        if self._run is not None and self._calls is not None:
            self._call(self._run.finish, _FINISH + _GRACE, "did not finish")
        if self._calls is not None:
            self._calls.put(None)
        self._calls = self._run = None

    def _call(self, function: Callable[[], object], seconds: float, what: str) -> object | None:
        global _given_up
        answer: queue.SimpleQueue = queue.SimpleQueue()
        self._calls.put((function, answer))
        try:
            value, error = answer.get(timeout=seconds)
        except queue.Empty:
            value, error = None, f"no answer in {seconds:g} s"
            _given_up, self._calls = True, None
        if error is not None:
            _given_up = _given_up or self._run is not None
            self._tell(what, error)
        return value

    def _tell(self, what: str, error: BaseException | str) -> None:
        if not self._told:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning(f"W&B {what} ({text}); going on without it. metrics.jsonl has everything.")
        self._told = True


def _work(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, answer = call
        try:
            answer.put((function(), None))
        except BaseException as error:  # also those that would end a thread without a word: see WandbMirror
            answer.put((None, error))


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
    mirror = WandbMirror()
    mode = wandb_mode(tracking)
    if mode != "off" and distributed.is_main():
        mirror.start(lambda: _start(tracking, config, folder, group, mode))
    try:
        yield mirror
    finally:
        mirror.finish()


def wandb_mode(tracking: dict) -> str:
    """online, offline or off, as the `tracking` group and the environment say.

    Raises:
        ConfigurationError: it says something else.
    """
    mode = tracking["wandb"]
    if mode is False:  # YAML reads a bare off as false
        mode = "off"
    if mode not in ("auto", "offline", "online", "off"):
        raise ConfigurationError(f"tracking.wandb={mode!r}: auto, offline, online or off is needed")
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    return "off" if mode == "disabled" else mode


def wandb_server() -> str:
    """The address of W&B's server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_wandb_key() -> bool:
    """Whether there is something to log in with: WANDB_API_KEY, an identity token, or `wandb login`'s entry in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlparse(wandb_server()).hostname or "") is not None
    except (OSError, ValueError, SyntaxError):
        return False


def _start(tracking: dict, config: dict, folder: Path, group: str | None, mode: str) -> object:
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
