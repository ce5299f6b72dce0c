"""Trackers on threads that keep them from ending or holding up a training; some by transformers' own reporting callbacks."""

import dataclasses
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils.generic import flatten_dict

log = logging.getLogger("e5ft")
START, FINISH = 30, 60  # seconds that a tracker itself gives its server
_LOG = 30  # seconds; a line takes milliseconds
_GRACE = 15  # seconds more before a call is given up from outside: wandb does not keep to its own limits everywhere
_hung_or_failed = False


def hung_or_failed() -> bool:
    """Whether a call into a tracker never came back, or a run failed in its middle: its hooks at exit would hang or raise, too."""
    return _hung_or_failed


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
        return self._call(make, START + _GRACE, "did not start", began=False)

    def do(self, function: Callable[[], object]) -> None:
        """Call, unless a call failed before."""
        if not self.failed:
            self._call(function, _LOG, "failed")

    def finish(self, function: Callable[[], object] | None) -> None:
        """End the run, also after a failure: what it has can still be kept. None: there is no run."""
        if function is not None and self._calls is not None:
            self._call(function, FINISH + _GRACE, "did not finish")
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


@dataclasses.dataclass(frozen=True)
class Closing:
    """What the end of a run says, as far as a tracker can show it.

    Attributes:
        figures: name -> number or text.
        tables: name -> rows, the head first; a column holds texts or numbers, and None.
        page: a file to look at; None: there is none.
    """

    figures: Mapping[str, float | str]
    tables: Mapping[str, Sequence[Sequence]]
    page: Path | None = None


class ShownArguments:
    """TrainingArguments as a tracker sees them: what it records of them is the run's configuration, without secrets.

    Args:
        arguments: of the run.
        record: what may be shown of the configuration, as plain values.
        project, run_name: under which a tracker files the run.
    """

    def __init__(self, arguments: TrainingArguments, record: dict, project: str, run_name: str):
        self._arguments, self.project, self.run_name = arguments, project, run_name
        self._record = flatten_dict(record)

    def to_dict(self) -> dict:
        """The record, one level deep: {"loss.temperature": 0.05}."""
        return dict(self._record)

    def to_json_string(self) -> str:
        """The record as JSON."""
        return json.dumps(self._record, indent=2, ensure_ascii=False)

    def __getattr__(self, name: str) -> object:
        return getattr(self._arguments, name)


class FurtherTracker(TrainerCallback):
    """One of transformers' reporting callbacks, called on a thread that outlasts what it raises.

    Args:
        name: what transformers calls it: tensorboard, mlflow, trackio.
        thread: where it is called.
        shown: record, project and run's name, as of `ShownArguments`.
    """

    def __init__(self, name: str, thread: TrackerThread, shown: tuple[dict, str, str]):
        self._name, self._thread, self._shown = name, thread, shown
        self._callback, self._given = None, ()

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin the tracker's run."""
        self._given = (ShownArguments(args, *self._shown), state, control)
        if self._name == "mlflow":
            os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", self._shown[1])
        self._callback = self._thread.start(self._start)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by Trainer with what it logs; no model, which the callbacks would only describe."""
        if self._callback is not None and logs:
            values = {key: value for key, value in logs.items() if isinstance(value, int | float)}
            self._thread.do(lambda: self._callback.on_log(*self._given, logs=values))

    def end(self, closing: Closing) -> None:
        """Log the figures of the end."""
        self.on_log(None, None, None, {re.sub("^test/", "test_", name): value for name, value in closing.figures.items()})

    def finish(self, code: int) -> None:
        """End the tracker's run, as failed where it knows of that."""
        self._thread.finish(None if self._callback is None else lambda: self._end(code))

    def _start(self) -> TrainerCallback:
        callback = get_reporting_integration_callbacks([self._name])[0]()
        callback.on_train_begin(*self._given, model=None)
        return callback

    def _end(self, code: int) -> None:
        if code and self._name == "mlflow":
            import mlflow

            mlflow.end_run("FAILED")
        self._callback.on_train_end(*self._given, model=None)


class Trackers(TrainerCallback):
    """All mirrors of a run as one callback; Trainer's end of training is not theirs, which comes after the last figures."""

    def __init__(self, mirrors: Sequence[TrainerCallback]):
        self._mirrors = mirrors

    def on_train_begin(self, *given, **kwargs):
        """Begin what begins with the training."""
        for mirror in self._mirrors:
            mirror.on_train_begin(*given, **kwargs)

    def on_log(self, *given, **kwargs):
        """Called by Trainer with what it logs."""
        for mirror in self._mirrors:
            mirror.on_log(*given, **kwargs)

    def end(self, closing: Closing) -> None:
        """Send what the run's end says."""
        for mirror in self._mirrors:
            mirror.end(closing)
