"""--help of every command: what it is for, the settings one needs, examples that compose, where the rest stands; on one screen."""

import re
import shlex
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from e5ft.app.runs.script import COMMANDS
from e5ft.app.settings.build import field_names, purpose, shipped
from tests.test_cli import ENVIRONMENT, ROOT

LINES, WIDTH = 24, 125


def header(verb: str) -> str:
    return OmegaConf.load(shipped(f"conf/{verb}.yaml")).hydra.help.header


def printed(config) -> str:
    """As Hydra prints it: header and footer in the template, without Hydra's own lists."""
    assert "$" not in config.hydra.help.template
    return config.hydra.help.template


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_fits_a_screen_and_begins_with_what_the_command_is_for(verb):
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        lines = printed(compose(verb, return_hydra_config=True)).splitlines()
    assert lines[0] == purpose(verb) and lines[0].endswith(".") and lines[0].count(".") == 1
    assert len(lines) <= LINES and max(map(len, lines)) <= WIDTH
    assert "docs/configuration.md" in lines[-1] and "--cfg job" in lines[-1]


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_settings_that_help_shows_are_settings_of_the_command(verb):
    shown = re.findall(r"^  ([\w.]+)= {2,}\S", header(verb), re.MULTILINE)
    named = re.findall(
        r"(?<![\w./])([a-z_]+(?:\.[a-z_]+)*)=(?!=)", re.sub(r"^.*python -m e5ft.*$", "", header(verb), flags=re.MULTILINE)
    )
    assert min(5, len(field_names(verb))) <= len(shown) <= 6 and {*shown} <= {*named}
    known = {*field_names(verb), *(path.name for path in shipped("conf").iterdir() if path.is_dir())}
    assert {*named} <= known, {*named} - known


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_examples_of_help_compose(verb):
    commands = re.findall(r"python -m e5ft (.+?)(?: {2,}.*)?$", header(verb), re.MULTILINE)
    assert sum(command.split()[0] == verb for command in commands) >= 2
    for command in commands:
        other, *given = [part for part in shlex.split(command) if part not in ("-m", "...")]
        given = [part.replace("=1,2,3", "=1") for part in given]  # of a multirun the first
        with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            compose(other, given)


def test_help_is_what_the_command_prints():
    done = subprocess.run(
        [sys.executable, "-m", "e5ft", "mine", "--help"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        assert done.stdout.rstrip() == printed(compose("mine", return_hydra_config=True)).rstrip() and done.stderr == ""
