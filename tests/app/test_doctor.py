"""The doctor: a line a check, 0 or 2, and nothing left behind."""

import os

import pytest
from e5ft.app.finding import fault, note, ok

from e5ft.app import doctor
from e5ft.app.configuration import run_dir, sweep_dir
from e5ft.errors import ConfigurationError


def checks(monkeypatch, **found):
    def giving(finding):
        def check(config):
            if isinstance(finding, Exception):
                raise finding
            return finding

        return check

    monkeypatch.setattr(doctor, "CHECKS", {name: giving(finding) for name, finding in found.items()})


def test_lines_are_aligned_and_name_the_remedy(monkeypatch, capsys):
    checks(monkeypatch, python=ok("3.12"), precision=note("slow", "training.bf16=false"))
    doctor.examine(None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok     python       3.12", "note   precision    slow; training.bf16=false", "a run can start"]


def test_a_fault_is_exit_code_2_and_the_other_checks_still_run(monkeypatch, capsys):
    refused = ConfigurationError("model.path=x:\nno such folder")
    checks(
        monkeypatch, model=refused, memory=ConfigurationError(str(refused)), data=ZeroDivisionError("by zero"), disk=ok("room")
    )
    with pytest.raises(ConfigurationError, match="model, memory, data above") as error:
        doctor.examine(None)
    assert error.value.exit_code == 2
    assert capsys.readouterr().out.splitlines() == [
        "fault  model        model.path=x: no such folder",
        "fault  memory       as above",
        "fault  data         ZeroDivisionError: by zero",
        "ok     disk         room",
    ]


def test_faults_alone_stop_a_run(monkeypatch):
    checks(monkeypatch, a=note("x", "y"))
    doctor.examine(None)
    checks(monkeypatch, a=fault("x"))
    with pytest.raises(ConfigurationError):
        doctor.examine(None)


def test_the_quickstart_could_start_and_nothing_is_left_behind(composed, tmp_path, capsys, monkeypatch):
    """Every real check, on the machine that runs the tests: none may crash or see a fault in the defaults."""
    monkeypatch.delenv("WANDB_MODE", raising=False)  # transformers prints a line where it is set
    doctor.examine(composed("train", "doctor=true", "tracking=off", "training.use_cpu=true", "evaluation.bm25=bigrams"))
    lines = capsys.readouterr().out.splitlines()
    assert [line[7:].split()[0] for line in lines[:-1]] == list(doctor.CHECKS) and lines[-1] == "a run can start", lines
    assert os.listdir(tmp_path) == []


def test_hydra_makes_no_folder_for_the_doctor():
    assert run_dir("x", True) == "." and run_dir("x", False) == run_dir("x") == "outputs/x"
    with pytest.raises(ConfigurationError, match="doctor='maybe'"):
        run_dir("x", "maybe")
    with pytest.raises(ConfigurationError, match="leave --multirun out"):
        sweep_dir("x", True)
