"""Signals: one request however often it comes at once, the end at the next, but never amid a checkpoint."""

import os
import signal
import types

import pytest
import torch
from transformers import TrainerControl

from e5ft.app.runs import stopping
from e5ft.app.runs.stopping import SIGNALS, StopAtStepEnd, stopping_at_once
from e5ft.errors import TerminatedError

ARGS = types.SimpleNamespace(device=torch.device("cpu"))


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize(("later", "saving", "ended"), [(4.0, False, False), (6.0, False, True), (6.0, True, False)])
def test_a_repeated_signal_is_one_request_and_a_later_one_the_end(monkeypatch, first, later, saving, ended):
    killed, clock = [], [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGTERM)
    with StopAtStepEnd(lambda: saving) as stop:
        signal.raise_signal(first)
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        clock[0] += later
        signal.raise_signal(first)
        assert killed == ([(os.getpid(), signal.SIGTERM)] if ended else [])
        control = TrainerControl()
        stop.on_step_end(ARGS, None, control)
        assert control.should_save and control.should_training_stop and stop.stopped == first.name
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_a_signal_nothing_stops():
    with StopAtStepEnd(lambda: False) as stop:
        control = TrainerControl()
        stop.on_step_end(ARGS, None, control)
        stop.on_save(ARGS, None, control)
        assert not control.should_save and not control.should_training_stop and stop.stopped is None


def test_a_signal_after_the_last_step_is_for_what_comes_next():
    with pytest.raises(TerminatedError, match="SIGTERM"), stopping_at_once("run"):
        with StopAtStepEnd(lambda: False):
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal was lost")


def test_a_signal_amid_a_save_stops_without_another_step():
    with StopAtStepEnd(lambda: True) as stop:
        signal.raise_signal(signal.SIGUSR1)
        control = TrainerControl()
        stop.on_save(ARGS, None, control)
        assert control.should_training_stop and not control.should_save and stop.stopped == "SIGUSR1"


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_training_a_signal_ends_the_job_with_a_status(number):
    before = signal.getsignal(number)
    with pytest.raises(TerminatedError, match=f"{number.name}.*name=run resume=true"), stopping_at_once("run"):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
