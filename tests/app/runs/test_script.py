"""What every script does around its command: overrides made readable, errors made one line and an exit code."""

import errno
import re
import sys
import types

import pytest
from hydra._internal.utils import get_args
from hydra.types import RunMode

from e5ft.app.runs import script
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.training import trackers
from tests.test_cli import ROOT


@pytest.mark.parametrize("hangs", [True, False])
def test_a_hanging_wandb_does_not_hold_up_the_exit(monkeypatch, hangs):
    """Its hooks at exit would wait for the call that hangs: they are not run."""
    exits = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(script, "_ended_by", ConfigurationError("x"))
    monkeypatch.setattr(trackers, "hung_or_failed", lambda: hangs)
    monkeypatch.setattr(script.os, "_exit", exits.append)
    monkeypatch.setattr(script.hydra, "main", lambda **_: lambda job: lambda: None)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as error:
        script.run("train")
    assert error.value.code == 2 and exits == ([2] if hangs else [])


@pytest.mark.parametrize(
    ("given", "info"), [(["--info"], "all"), (["--info", "-m", "seed=1"], "all"), (["seed=1", "-i", "defaults"], "defaults")]
)
def test_a_flag_whose_value_may_be_absent(given, info):
    read = get_args(script._for_hydra(given))
    assert read.info == info and set(read.overrides) - {"seed=1"} == {"hydra.output_subdir=null"}


@pytest.mark.parametrize(
    "given",
    [
        ["seed=1", "--config-dir", "own"],
        ["--config-dir", "own", "seed=1"],
        ["~lora", "-m", "--config-dir=own"],
        ["seed=1", "--config-dir", "own", "name=x", "resume=true"],  # as the line that resumes a run
        ["--config-path", "conf2", "seed=1"],
        ["seed=1", "-cp=conf2"],
        ["-cp", "conf2"],
        ["--config-path=/conf2"],
        ["--config-path=pkg://conf2"],
    ],
)
def test_flags_may_stand_before_or_behind_overrides_and_paths_are_of_the_working_directory(monkeypatch, tmp_path, given):
    """Run up to Hydra's own parser."""
    read = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(script.hydra, "main", lambda **_: lambda job: lambda: read.append(get_args()))
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    script.run("train")
    assert set(read[0].overrides) == {
        *(each for each in given if each in ("seed=1", "~lora", "name=x", "resume=true")),
        "hydra.output_subdir=null",
    }
    expected = {"conf2": str(tmp_path / "conf2"), "/conf2": "/conf2", "pkg://conf2": "pkg://conf2"}
    asked = next((path for path in expected if given[-1].endswith(f"={path}") or path in given), None)
    assert read[0].config_path == expected.get(asked) and read[0].config_dir == (None if asked else "own")


@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, "Read-only file system", "outputs/z"), "outputs/z: cannot be written (Read-only file system); "),
        (OSError(errno.ENOSPC, "No space left on device"), "outputs or output_dir: cannot be written (the disk is full); "),
    ],
)
def test_a_place_that_cannot_be_written_is_named(monkeypatch, capsys, began, error, message):
    """Hydra makes the run's folder before a job begins; what eval.py and mine.py write comes after."""

    def refused(*_):
        raise error

    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(script, "_began", False)
    monkeypatch.setattr(script, "_ended_by", None)
    monkeypatch.setattr(script, "_checked", refused)
    monkeypatch.setattr(script.HydraConfig, "get", lambda: types.SimpleNamespace(mode=RunMode.RUN))
    monkeypatch.setattr(script.hydra, "main", lambda **_: lambda job: (lambda: job({})) if began else refused)
    monkeypatch.setattr(sys, "argv", ["eval.py"])
    with pytest.raises(SystemExit) as ended:
        script.run("eval")
    assert ended.value.code == 6 and capsys.readouterr().err.startswith(f"error: {message}make room there, or start in ")


@pytest.mark.parametrize("began", [False, True])
def test_what_is_raised_while_composing_is_about_the_overrides(monkeypatch, capsys, began):
    """Hydra raises a ValueError for `model=1.5`; once the job has begun, an error that is none of ours keeps its traceback."""

    def main():
        monkeypatch.setattr(script, "_began", began)
        raise ValueError("Config group override must be a string or a list. Got float")

    monkeypatch.setattr(script, "_began", False)
    monkeypatch.setattr(script.hydra, "main", lambda **_: lambda job: main)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # run_script sets it
    monkeypatch.setattr(sys, "argv", ["train.py", "model=1.5", "optimizer.lr=1"])
    with pytest.raises(ValueError if began else SystemExit) as caught:
        script.run("train")
    if not began:
        error = capsys.readouterr().err
        assert (
            caught.value.code == 2 and error.startswith("error: ") and "look at model=1.5. " in error and "Traceback" not in error
        )


@pytest.mark.parametrize(
    ("verb", "argument", "new"),
    [
        ("train", "loss.guide=DIR", "step.guide=DIR"),
        ("train", "+loss.keep_weight=0.1,0.2", "keep.weight=0.1,0.2"),
        ("export", "merge.split=dev", "data.eval_split=dev"),
        ("mine", "output_file=a/rows.jsonl", "output_dir=a"),
    ],
)
def test_a_setting_that_has_moved_works_and_its_new_name_is_said(monkeypatch, capsys, verb, argument, new):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    assert script.renamed(verb, argument) == new
    assert f"is {new.partition('=')[0]} now" in capsys.readouterr().err


def test_what_has_not_moved_stays(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x.py", "--config-dir", "mine"])
    assert script.renamed("train", "loss.negatives=5") == "loss.negatives=5"  # a loss of the user's own
    assert script.renamed("eval", "loss.guide=x") == "loss.guide=x" and capsys.readouterr().err == ""
    with pytest.raises(ConfigurationError, match="output_file=a/b.jsonl: has moved; name a folder, output_dir=DIR"):
        script.renamed("mine", "output_file=a/b.jsonl")


@pytest.mark.parametrize("verb", ["eval", "export"])
def test_what_runs_in_one_process_is_not_told_to_take_a_name_under_torchrun(monkeypatch, capsys, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", "model.path=x"])
    with pytest.raises(SystemExit) as ended:
        script.run(verb)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {verb} under torchrun: it runs in one process; start it with python\n"


def test_the_table_of_exit_codes_has_every_error():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    table = page.partition("### Exit codes")[2].partition("###")[0]
    kinds = [E5ftError]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub not in kinds]
    codes = {kind.exit_code for kind in kinds if kind.__module__.startswith("e5ft.")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes | {0, 130} and len(codes) == 10
