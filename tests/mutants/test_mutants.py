"""The mutation test sees what it is there to see."""

import dataclasses

import pytest

from tests.mutants import __main__ as command
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.runner import Run, run

SOURCE = '''"""A docstring: 1 < 2."""


@cache(size=1)
def clamp(value: int | None, low: int = 0) -> bool:
    """Not 1 + 1."""
    if value < low and not value:
        raise ValueError(f"{value + 1}: must be above {1}")
    log.warning("%d", value + 1)
    for part in value[low:]:
        part.clear(max(part, 2), strict=True, key=None)
        break
    return value >= low
'''


def test_the_mutants_of_a_source():
    made = {(m.operator, m.new.strip()) for m in mutants_of("e5ft/tiny.py", SOURCE)}
    assert made == {
        ("constant", "def clamp(value: int | None, low: int = 1) -> bool:"),
        ("condition negated", "if not (value < low and not value):"),
        ("and/or", "if value < low or not value:"),
        ("comparison", "if value <= low and not value:"),
        ("unary dropped", "if value < low and value:"),
        ("bound dropped", "for part in value[:]:"),
        ("statement deleted", "pass"),
        ("min/max, any/all", "part.clear(min(part, 2), strict=True, key=None)"),
        ("constant", "part.clear(max(part, 3), strict=True, key=None)"),
        ("keyword removed", "part.clear(max(part, 2), strict=True)"),
        ("jump", "continue"),
        ("comparison", "return value > low"),
        ("return negated", "return not (value >= low)"),
    }


def test_a_mutant_finds_its_lines_wherever_they_moved_in_its_function():
    source = "def one():\n    a = 1\n    a = 1\n\n\ndef two():\n    a = 1\n"
    second = next(m for m in mutants_of("e5ft/tiny.py", source) if m.function == "one" and m.occurrence == 1)
    assert second.apply(f"b = 0\n\n\n{source}") == f"b = 0\n\n\n{source}".replace("1\n\n", "2\n\n", 1)
    assert second.apply(source.replace("one", "none")) is None and second.apply("def one():\n    a = 1\n") is None


def test_the_list_has_two_hundred_and_few_of_them_are_called_equivalent():
    mutants = command.listed()
    assert len({dataclasses.replace(mutant, equivalent="") for mutant in mutants}) == len(mutants) == command.COUNT
    assert {mutant.file.removeprefix("e5ft/") for mutant in mutants} <= command.TESTS.keys()
    assert sum(bool(mutant.equivalent) for mutant in mutants) <= command.EQUIVALENT * command.COUNT
    assert all((command.ROOT / "tests" / name).is_file() for names in command.TESTS.values() for name in names)


@pytest.fixture
def tree(tmp_path):
    """A module with a test that does not look at its second function."""
    for name, text in {
        "e5ft/__init__.py": "",
        "e5ft/tiny.py": "def double(a):\n    return a * 2\n\n\ndef unseen(a):\n    return a + 1\n",
        "tests/test_tiny.py": "from e5ft.tiny import double\n\n\ndef test_double():\n    assert double(3) == 6\n",
    }.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


def test_what_a_test_notices_is_killed_and_the_rest_survives(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    seen = Mutant("e5ft/tiny.py", "double", "arithmetic", "    return a * 2", "    return a / 2")
    unseen = Mutant("e5ft/tiny.py", "unseen", "arithmetic", "    return a + 1", "    return a - 1")
    ends = [run(Run(tree, tmp_path, ("tests/test_tiny.py",), mutant, 60)) for mutant in (seen, unseen)]
    assert [(code, by) for code, _, by in ends] == [(1, "FAILED tests/test_tiny.py::test_double"), (0, "")]
    assert (tree / "e5ft/tiny.py").read_text().startswith("def double(a):\n    return a * 2")
