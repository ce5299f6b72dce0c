"""What is left of a run: its parts counted, estimated first and then measured."""

from types import SimpleNamespace

import pytest

from e5ft.training import time_left as module
from e5ft.training.evaluation_cost import EvaluationPlan
from e5ft.training.fitting import StepCost
from e5ft.training.time_left import TimeLeft, saved_weights, time_left
from tests.training.conftest import evaluated, make_trainer


def after(left: TimeLeft, monkeypatch, *events: tuple[str, int, float]) -> TimeLeft:
    """Let (event, step, seconds that it took) happen."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    left.on_train_begin(None, SimpleNamespace(global_step=0), None)
    for event, step, seconds in events:
        clock[0] += seconds
        getattr(left, f"on_{event}")(None, SimpleNamespace(global_step=step), None)
    return left


@pytest.fixture
def left():
    """10 steps, evaluated after 4, 8 and 10, saved after 5 and 10."""
    seconds, every = {"step": 10.0, "evaluation": 3.0, "checkpoint": 2.0}, {"evaluation": 4, "checkpoint": 5}
    return TimeLeft(10, seconds, every, base=1.0, end=20.0)


def test_before_the_first_step_the_parts_are_the_estimates(left):
    assert left.parts(0, 0) == {"steps": 100, "evaluations": 10, "checkpoints": 4, "scores after training": 20}
    # Resumed from the checkpoint of step 5: two evaluations and one checkpoint are still to come, and not the base's.
    assert left.parts(5, 5) == {"steps": 50, "evaluations": 6, "checkpoints": 2, "scores after training": 20}
    # Logged at step 5, which is then saved; at the last step, which is then evaluated and saved.
    assert left.parts(5, 4) == {"steps": 50, "evaluations": 6, "checkpoints": 4, "scores after training": 20}
    assert left.parts(10, 9) == {"steps": 0, "evaluations": 3, "checkpoints": 2, "scores after training": 20}


def test_what_was_measured_replaces_the_estimates_and_corrects_the_others(left, monkeypatch):
    after(left, monkeypatch, ("evaluate", 0, 7.0), ("step_end", 1, 18.0), ("step_end", 2, 22.0))
    # Steps take twice as long as was thought: so will the rest. The base's evaluation counts for no other.
    assert left.parts(2, 2) == {"steps": 160, "evaluations": 18, "checkpoints": 8, "scores after training": 40}
    after(left, monkeypatch, ("step_end", 3, 20.0), ("step_end", 4, 20.0), ("evaluate", 4, 4.0), ("save", 4, 1.0))
    assert left.parts(4, 4) == {"steps": 120, "evaluations": 8, "checkpoints": 2, "scores after training": 40}


def test_without_evaluation_and_checkpoints_there_are_steps_and_the_end():
    assert TimeLeft(3, {"step": 2.0}, {}, end=1.0).parts(0, 0) == {"steps": 6, "scores after training": 1}


@pytest.mark.parametrize(
    ("arguments", "checkpoints"),
    [
        ({"save_strategy": "steps", "save_steps": 3}, 3),
        ({"save_strategy": "steps", "save_steps": 0.1}, 7),
        ({"save_strategy": "epoch"}, 2),  # 100 rows are 6 steps of 16
        ({"save_strategy": "no"}, 0),
    ],
)
def test_a_run_s_parts_are_counted_from_its_arguments(rows_file, tmp_path, monkeypatch, arguments, checkpoints):
    monkeypatch.setattr(module, "_seconds_a_byte", lambda _: 1e-3)
    monkeypatch.setattr(module.util, "find_spec", lambda name: None)  # transformers alone checks the export
    trainer = make_trainer(rows_file, tmp_path, batch=8, accumulation=2, steps=7, **arguments)
    plan = EvaluationPlan(4, 2, 100, 200, tokens=500.0, base_tokens=100.0, share=0.1)
    parts = time_left(trainer, StepCost(2.0, 100.0, None), plan, end_tokens=1000.0, load_seconds=3.0).parts(0, 0)
    weights = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert saved_weights(trainer.model) == (weights, weights)
    assert parts["steps"] == 14.0 and parts["evaluations"] == 4 * 5.0 + 1.0
    assert parts.get("checkpoints", 0.0) == pytest.approx(checkpoints * 12e-3 * weights)  # weights and two moments
    assert parts["scores after training"] == pytest.approx(10 + 4 * 3 + 4e-3 * weights)  # and the model, written and checked


def test_trainer_tells_what_is_to_be_measured(rows_file, tmp_path):
    """Three steps, each evaluated and saved: all are over in the end, and nothing is left but the scores."""
    left = TimeLeft(3, {"step": 1.0, "evaluation": 1.0, "checkpoint": 1.0}, {"evaluation": 1, "checkpoint": 1})
    evaluated(rows_file, tmp_path, [0.1, 0.2, 0.3, 0.4], callbacks=[left])
    assert left._counts == {"step": 3, "evaluation": 3, "checkpoint": 3} and all(left._spent.values())
    assert sum(left.parts(3, 3).values()) == 0


def test_writing_is_measured_where_one_can_write(tmp_path):
    assert 0 < module._seconds_a_byte(tmp_path) < 1e-6 and not list(tmp_path.iterdir())
    assert module._seconds_a_byte(tmp_path / "absent") == 0
