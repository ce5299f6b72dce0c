"""Trackers by transformers' own reporting callbacks, shown a record without secrets and kept from ending a training."""

import json
import os
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils.generic import flatten_dict


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
        thread: `start`, `do` and `finish` call a function there, and say the first failure.
        shown: record, project and run's name, as of `ShownArguments`.
    """

    def __init__(self, name: str, thread: Any, shown: tuple[dict, str, str]):
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

    def send(self, values: dict) -> None:
        """Log the figures of the end."""
        self.on_log(None, None, None, {name.replace("test/", "test_", 1): value for name, value in values.items()})

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

    def send(self, values: dict) -> None:
        """Log the figures of the end."""
        for mirror in self._mirrors:
            mirror.send(values)
