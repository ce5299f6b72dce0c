"""The house stands as it was designed: import-linter's contracts, and what it cannot see."""

import subprocess
import sys

import pytest

from tests.test_cli import ENVIRONMENT, ROOT

MODULES = sorted(path.relative_to(ROOT / "e5ft") for path in (ROOT / "e5ft").rglob("*.py") if path.name != "__init__.py")
MOST_LINES = 360
TESTED_ELSEWHERE = {
    "__main__.py": "started below",
    "app/commands/summary.py": "what a training writes: tests/app/commands/test_train.py, test_ending.py",
    "app/settings/groups.py": "annotations, read by tests/app/settings/test_build.py",
    "app/settings/verbs.py": "likewise",
    "app/telling/data_checks.py": "checks that tests/app/telling/test_findings.py runs",
    "app/telling/machine.py": "checks that tests/app/telling/test_findings.py runs",
    "data/cells.py": "what cells hold, through read_rows: tests/data/test_looks.py",
    "data/column_names.py": "tables of names: tests/data/test_layouts.py",
    "data/making.py": "one row, through read_rows: tests/data/test_rows.py, tests/data/test_layouts.py",
    "data/row_formats.py": "the table: tests/data/test_layouts.py",
    "data/settings.py": "annotations: tests/test_settings.py tells how they are checked",
    "errors.py": "exit codes, each where it is raised",
    "gathering.py": "several processes: tests/test_distributed.py, tests/test_four_processes.py",
    "synthesis/settings.py": "annotations: tests/synthesis/test_generator.py, tests/app/commands/test_rows.py",
    "training/chunking.py": "how a loss is cut in pieces: tests/training/test_losses.py",
    "training/settings.py": "annotations, as data/settings.py",
}
SETTINGS = [f"e5ft.{str(path.with_suffix('')).replace('/', '.')}" for path in MODULES if "settings" in str(path)]


def test_imports_keep_the_contracts():
    code = "import sys, importlinter.cli; sys.exit(importlinter.cli.lint_imports(no_cache=True))"  # it disables all loggers
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_settings_know_neither_torch_nor_transformers():
    code = (
        "import sys, e5ft; assert not any(name.startswith('e5ft.') for name in sys.modules)\n"
        f"import e5ft.app.runs.script, {', '.join(SETTINGS)}\nassert not {{'torch', 'transformers'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, check=True)


@pytest.mark.parametrize(
    "argument", ["--help", "loss.temprature=1", "loss.temperature=-1", "data.dev_share=0.7", "training.max_steps=-5", "name=../x"]
)
@pytest.mark.parametrize("script", [("-m", "e5ft", "train"), (str(ROOT / "train.py"),)], ids=["e5ft", "train.py"])
def test_help_and_refusals_come_before_torch(script, argument, tmp_path):
    for library in ("torch", "transformers"):
        (tmp_path / f"{library}.py").write_text(f"raise AssertionError('{library} was imported')")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, *script, argument], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == (0 if argument == "--help" else 2) and "was imported" not in done.stderr, done.stderr


def test_no_file_is_long():
    assert [str(path) for path in MODULES if len((ROOT / "e5ft" / path).read_text().splitlines()) > MOST_LINES] == []


def test_every_module_has_a_test_file_of_its_name():
    without = {str(path) for path in MODULES if not (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()}
    assert without == TESTED_ELSEWHERE.keys()
