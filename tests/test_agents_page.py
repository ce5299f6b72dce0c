"""AGENTS.md is true: its commands compose, its make targets exist, its exit codes, verdict words and record are the code's."""

import dataclasses
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir

from e5ft.app.commands.summary import summarise
from e5ft.app.runs.script import COMMANDS
from e5ft.app.settings.build import shipped
from e5ft.errors import E5ftError
from e5ft.retrieval.comparison import Scores
from e5ft.retrieval.significance import LEVEL
from e5ft.retrieval.tables import FEW
from e5ft.retrieval.verdict import BETTER, COSTS, FEWEST, SAME, UNDECIDED, WORSE, KeepResult, overall_verdict, verdict_line
from tests.test_cli import ROOT

PAGE = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
LINES = [line for line in re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].splitlines() if " -m e5ft " in line]


@pytest.mark.parametrize("line", LINES, ids=[" ".join(line.split()[3:6]) for line in LINES])
def test_its_commands_compose(line):
    verb, *given = shlex.split(line, comments=True)[3:]
    given = [part.replace("=1,2,3", "=1") for part in given if part != "-m"]
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        compose(verb, given)


def test_it_shows_the_commands_that_an_experiment_takes():
    assert {line.split()[3] for line in LINES} >= {"train", "mine", "eval", "export", "check"} and {
        line.split()[3] for line in LINES
    } <= COMMANDS.keys()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"\bmake ([a-z-]+)", PAGE)} <= {*targets}


def test_its_exit_codes_are_the_errors():
    kinds = [E5ftError]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub not in kinds]
    codes = {kind.exit_code for kind in kinds if kind.__module__.startswith("e5ft.")}
    told = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    assert {int(code) for codes in told for code in codes.split(",")} == codes | {0, 130}


def test_its_verdict_is_the_line_that_a_training_ends_with():
    shown = re.search(r"```text\n(VERDICT: .*)\n```", PAGE)[1]
    figures = {"mean": 0.031, "low": 0.016, "high": 0.047, "p_value": 0.0002}
    verdict = overall_verdict(figures, 434, {}) | {"metric": "ndcg@10", "set": "sample-test", "against": "before"}
    assert verdict_line(verdict) == shown
    assert all(word in PAGE for word in (BETTER, SAME, WORSE, UNDECIDED, f", {COSTS}"))
    lost = KeepResult(100, -0.1, -0.2, -0.05, LEVEL, 0.01, True)
    assert f"{BETTER}, {COSTS} (" in verdict_line({**verdict, "costs_elsewhere": True, "keep": {"a": dataclasses.asdict(lost)}})
    assert f"{FEWEST} is the least" in PAGE and f"Below {FEW} queries" in PAGE


def test_the_fields_of_the_record_are_those_that_are_written():
    row = re.search(r"^\| `summary.json` \| (.*) \|$", PAGE, re.MULTILINE)[1]
    top, inner = re.sub(r"\(.*?\)", "", row), re.search(r"`scores` \((.*?)\)", row)[1]
    fields = re.findall(r"`(\w+)`", top)
    written = summarise.__code__.co_consts  # the keys are in the code as constants
    keys = {key for part in written for key in (part if isinstance(part, tuple) else (part,)) if isinstance(key, str)}
    assert len(fields) >= 8 and {*fields} <= keys
    assert {*re.findall(r"`(\w+)`", inner)} <= {field.name for field in dataclasses.fields(Scores)}
