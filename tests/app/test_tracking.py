"""metrics.jsonl is the record; W&B mirrors it and never ends a run."""

import sys
import types

import pytest
from transformers import TrainerControl, TrainerState

from e5ft.app.tracking import MetricsFile, duration, wandb_run
from e5ft.errors import ConfigurationError

TRACKING = {"wandb": "offline", "project": "p", "entity": None, "tags": ["t"]}


class FakeRun:
    def __init__(self, fail=False):
        self.fail, self.logged, self.finished = fail, [], 0

    def log(self, values, step=None):
        if self.fail:
            raise RuntimeError("disk full")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def fake(monkeypatch):
    module = types.SimpleNamespace(run=FakeRun(), calls=[], error=None)
    module.Settings = lambda **values: values

    def init(**values):
        if module.error:
            raise module.error
        module.calls.append(values)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_mirror_of_what_is_logged(fake, tmp_path):
    config = {"name": "n", "loss": {"temperature": 1}, "secret_thing": "canary"}
    with wandb_run(TRACKING, config, tmp_path / "3", "sweep") as mirror:
        mirror.on_log(None, TrainerState(global_step=7), None, {"loss": 1.0})
        mirror.on_log(None, TrainerState(global_step=7), None, {"eval_ndcg@10": 0.5})
    assert fake.run.logged == [(7, {"train/loss": 1.0}), (7, {"dev/ndcg@10": 0.5})]
    assert fake.run.finished == 1
    call = fake.calls[0]
    assert call["group"] == "sweep" and call["name"] == "sweep-3" and call["mode"] == "offline"
    assert "canary" not in str(call)


@pytest.mark.parametrize("error", [RuntimeError("no key"), OSError("no space"), TimeoutError("unreachable")])
def test_a_failing_start_is_one_warning(fake, tmp_path, error, caplog):
    fake.error = error
    with wandb_run(TRACKING, {}, tmp_path, None) as mirror:
        mirror.on_log(None, TrainerState(global_step=1), None, {"loss": 1.0})
    assert len([r for r in caplog.records if "W&B" in r.message]) == 1


def test_a_failure_while_logging_is_one_warning(fake, tmp_path, caplog):
    fake.run.fail = True
    with wandb_run(TRACKING, {}, tmp_path, None) as mirror:
        for step in range(3):
            mirror.on_log(None, TrainerState(global_step=step), None, {"loss": 1.0})
    assert len([r for r in caplog.records if "W&B" in r.message]) == 1
    assert fake.run.finished == 1


def test_the_run_is_finished_when_the_job_crashes(fake, tmp_path):
    with pytest.raises(ZeroDivisionError), wandb_run(TRACKING, {}, tmp_path, None):
        raise ZeroDivisionError
    assert fake.run.finished == 1


def test_modes(fake, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for key, expected in ((None, "offline"), ("k", "online")):
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        with wandb_run({**TRACKING, "wandb": "auto"}, {}, tmp_path, None):
            pass
        assert fake.calls[-1]["mode"] == expected
    count = len(fake.calls)
    with wandb_run({**TRACKING, "wandb": "off"}, {}, tmp_path, None):
        pass
    assert len(fake.calls) == count
    with (
        pytest.raises(ConfigurationError, match="tracking.wandb='loud'"),
        wandb_run({**TRACKING, "wandb": "loud"}, {}, tmp_path, None),
    ):
        pass


def test_metrics_are_written_anew_from_the_checkpoints_past(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    state = TrainerState(is_world_process_zero=True)
    for step in (1, 2, 3):
        state.global_step = step
        first.on_log(None, state, TrainerControl(), {"loss": step / 2, "text": "left out"})
    whole = path.read_text()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    MetricsFile(path, past=[{"loss": 0.5, "step": 1, "text": "left out"}, {"loss": 1.0, "step": 2}])
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:2])
    MetricsFile(path)
    assert path.read_text() == ""


def test_duration():
    assert [duration(s) for s in (12.4, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 5 min"]
