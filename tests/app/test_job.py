"""SIGTERM: one request however often it comes at once, and the end at the next."""

import os
import signal

import pytest

from e5ft.app import job
from e5ft.errors import ConfigurationError


@pytest.mark.parametrize(("later", "ended"), [(4.0, False), (6.0, True)])
def test_a_repeated_sigterm_is_one_request_and_a_later_one_the_end(monkeypatch, later, ended):
    asked, killed, clock = [], [], [100.0]
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(job.time, "monotonic", lambda: clock[0])
    try:
        job.stop_on_sigterm(lambda: asked.append(True))
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        handler(signal.SIGTERM, None)
        clock[0] += later
        handler(signal.SIGTERM, None)
        assert asked == [True]
        assert killed == ([(os.getpid(), signal.SIGTERM)] if ended else [])
        assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == ended
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("hangs", [True, False])
def test_a_hanging_wandb_does_not_hold_up_the_exit(monkeypatch, hangs):
    """Its hooks at exit would wait for the call that hangs: they are not run."""
    exits = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(job, "_ended_by", ConfigurationError("x"))
    monkeypatch.setattr(job.mirror, "given_up", lambda: hangs)
    monkeypatch.setattr(job.os, "_exit", exits.append)
    with pytest.raises(SystemExit) as error:
        job.run_script(lambda: None)
    assert error.value.code == 2 and exits == ([2] if hangs else [])
