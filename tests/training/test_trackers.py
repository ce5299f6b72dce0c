"""Further trackers: transformers' callbacks see what is logged and a record without secrets, and never end a run."""

import dataclasses
import logging
import sys
import types

import pytest
from transformers import TrainerCallback, TrainerState

from e5ft.app.runs.tracking import tracked
from e5ft.app.settings.groups import TrackingSettings
from e5ft.training import trackers
from e5ft.training.trackers import Closing

OFF = TrackingSettings("off", "p", None, (), ("tensorboard",))
ARGUMENTS = types.SimpleNamespace(output_dir="outputs/n", hub_token="canary", to_dict=lambda: {"hub_token": "canary"})


class Fake(TrainerCallback):
    """A callback of transformers' kind; `does` is called at the event that it names."""

    def __init__(self):
        self.seen, self.does = [], {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.note("begin", args.to_dict(), args.to_json_string(), args.project, args.run_name, args.output_dir)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.note("log", state.global_step, logs)

    def on_train_end(self, args, state, control, **kwargs):
        self.note("end")

    def note(self, event, *what):
        if event in self.does:
            raise self.does[event]
        self.seen.append((event, *what))


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(trackers, "get_reporting_integration_callbacks", lambda names: [lambda: made])
    monkeypatch.setattr(trackers, "_hung_or_failed", False)
    return made


def train_through(settings, record, folder):
    state = TrainerState(is_world_process_zero=True)
    with tracked(settings, record, folder, None) as callback:
        callback.on_train_begin(ARGUMENTS, state, None)
        for state.global_step in (1, 2):
            callback.on_log(ARGUMENTS, state, None, logs={"loss": 0.5, "text": "left out"})
        callback.on_train_end(ARGUMENTS, state, None)
        callback.end(
            Closing({"test/ndcg@10": 0.75, "keep/latest/hit@1": 0.5, "verdict": "left out"}, {"won": [["query"], ["가"]]})
        )


def test_what_is_logged_and_an_allowlist_of_the_configuration(fake, tmp_path):
    record = {"name": "n", "loss": {"temperature": 0.05, "of": {"deeper": 1}}, "secret_thing": "canary"}
    train_through(OFF, record, tmp_path / "n")
    (_, shown, text, *filed), *events = fake.seen
    assert shown == {"name": "n", "loss.temperature": 0.05, "loss.of.deeper": 1} and filed == ["p", "n", "outputs/n"]
    # The end comes after the figures of the end, not with Trainer's.
    closing = {"test_ndcg@10": 0.75, "keep/latest/hit@1": 0.5}
    assert events == [("log", 1, {"loss": 0.5}), ("log", 2, {"loss": 0.5}), ("log", 2, closing), ("end",)]
    assert "canary" not in text + str(fake.seen)


@pytest.mark.parametrize("error", [RuntimeError("no server"), SystemExit(1), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("event", ["begin", "log", "end"])
def test_what_a_tracker_raises_is_one_warning(fake, tmp_path, caplog, event, error):
    fake.does = {event: error}
    with caplog.at_level(logging.WARNING, "e5ft"):
        train_through(OFF, {}, tmp_path)
    assert [record.message.split()[0] for record in caplog.records] == ["tensorboard"]
    assert "metrics.jsonl has everything" in caplog.text


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_failed_job_is_failed_where_the_tracker_knows_of_it(fake, tmp_path, monkeypatch, name):
    ended = []
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(end_run=ended.append))
    with pytest.raises(ZeroDivisionError), tracked(dataclasses.replace(OFF, also=(name,)), {}, tmp_path, None) as callback:
        callback.on_train_begin(ARGUMENTS, TrainerState(), None)
        raise ZeroDivisionError
    assert ended == (["FAILED"] if name == "mlflow" else []) and fake.seen[-1] == ("end",)


def test_a_job_that_fails_before_training_begins_starts_no_tracker(fake, tmp_path):
    with pytest.raises(ZeroDivisionError), tracked(OFF, {}, tmp_path, None):
        raise ZeroDivisionError
    assert fake.seen == []


def test_what_transformers_itself_makes(tmp_path):
    """TensorBoard where it is installed: the files are in the run's folder."""
    pytest.importorskip("tensorboard")
    arguments = types.SimpleNamespace(output_dir=str(tmp_path))
    state = TrainerState(is_world_process_zero=True)
    with tracked(OFF, {"seed": 1}, tmp_path, None) as callback:
        callback.on_train_begin(arguments, state, None)
        callback.on_log(arguments, state, None, logs={"loss": 0.5})
    assert list(tmp_path.glob("runs/*/events.out.tfevents.*"))
