"""What every script does at its end."""

import pytest

from e5ft.app import job
from e5ft.errors import ConfigurationError


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
