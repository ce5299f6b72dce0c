"""SIGTERM: one request however often it comes at once, and the end at the next."""

import os
import signal
import sys

import pytest

from e5ft.app import job


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


@pytest.mark.parametrize("began", [False, True])
def test_what_is_raised_while_composing_is_about_the_overrides(monkeypatch, capsys, began):
    """Hydra raises a ValueError for `model=1.5`; once the job has begun, an error that is none of ours keeps its traceback."""

    def main():
        monkeypatch.setattr(job, "_began", began)
        raise ValueError("Config group override must be a string or a list. Got float")

    monkeypatch.setattr(job, "_began", False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # run_script sets it
    monkeypatch.setattr(sys, "argv", ["train.py", "model=1.5", "optimizer.lr=1"])
    with pytest.raises(ValueError if began else SystemExit) as caught:
        job.run_script(main)
    if not began:
        error = capsys.readouterr().err
        assert (
            caught.value.code == 2 and error.startswith("error: ") and "look at model=1.5. " in error and "Traceback" not in error
        )
