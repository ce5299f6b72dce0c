"""The locks pin, by hash, everything that the requirements ask for, and name no place of anybody's machine."""

import importlib.util
import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; ([^\\\n]+[^\\\n ]))?((?: \\\n +--hash=sha256:[0-9a-f]{64})*)")


def entries(name: str) -> dict[str, tuple[Version, int]]:
    """Package -> version and number of hashes; anything but such entries and comments is a fault."""
    text = "".join(line for line in (ROOT / name).read_text().splitlines(keepends=True) if not line.lstrip().startswith("#"))
    assert ENTRY.sub("", text).strip() == "", "a line that is no pinned package"
    return {match[1]: (Version(match[2]), match[4].count("--hash=")) for match in ENTRY.finditer(text)}


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line.split(" #")[0]) for line in lines if line and not line.startswith(("#", "-r"))]


def locked() -> dict[str, Version]:
    files = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock")
    return {package: version for file in files for package, (version, _) in entries(file).items()}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-tools.lock"])
def test_every_entry_has_a_version_and_a_hash(name):
    hashes = {package: count for package, (_, count) in entries(name).items()}
    assert all(hashes.values()) and len(hashes) > 10


def test_torch_alone_is_locked_by_version_only_and_brings_no_cuda():
    assert entries("requirements-torch.lock").keys() == {"torch"}
    assert not [name for name in locked() if re.search("nvidia|cuda|triton", name)]


def test_the_tools_are_locked():
    pins = entries("requirements-tools.lock")
    assert all(pins[requirement.name][0] in requirement.specifier for requirement in requirements("requirements-tools.txt"))


def test_the_floors_that_security_needs():
    """CVE-2026-24747 (torch) and CVE-2026-4372 (transformers)."""
    assert locked()["torch"] >= Version("2.10") and locked()["transformers"] >= Version("5.3")


def test_what_the_requirements_need_is_locked():
    """The requirements, and what the packages installed for them need here; torch's CUDA packages are its own affair."""
    pins, seen = locked(), set()
    waiting = [*requirements("requirements.txt"), *requirements("requirements-dev.txt")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if re.search("nvidia|cuda|triton", name):
            continue
        assert requirement.specifier.contains(pins[name], prereleases=True), requirement
        for extra in {"", *requirement.extras} - {extra for other, extra in seen if other == name}:
            seen.add((name, extra))
            needs = map(Requirement, metadata.requires(name) or ())
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    assert len(seen) > 50


def test_the_dev_lock_adds_and_never_contradicts():
    assert not entries("requirements.lock").keys() & entries("requirements-dev.lock").keys()


def test_what_the_resolver_knows_of_torch_is_of_the_locked_version():
    assert f'version = "{locked()["torch"]}"' in (ROOT / "pyproject.toml").read_text()


# -- make audit-deps -------------------------------------------------------------------------------------------------------


def audit(tmp_path, program: str) -> int:
    """The exit code of the audit, where pip-audit is a program of ours."""
    specification = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (tmp_path / "fake.py").write_text(program)
    return module.main(["one.lock", "two.lock"], [sys.executable, str(tmp_path / "fake.py")])


def test_an_audit_without_network_is_one_line_and_no_success(tmp_path, capsys):
    assert audit(tmp_path, "raise ConnectionError('no route')") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err == "error: one.lock: nothing was audited, osv.dev did not answer: ConnectionError: no route\n"


def test_an_audit_of_nothing_is_no_success(tmp_path):
    assert audit(tmp_path, """print('{"dependencies": []}')""") == 2


@pytest.mark.parametrize("faults", [[], [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]])
def test_an_audit_prints_what_is_known(tmp_path, capsys, faults):
    answer = json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": faults}]})
    assert audit(tmp_path, f"print({answer!r})") == (1 if faults else 0)
    assert ("a 1: PYSEC-1, CVE-1; fixed in 2" in capsys.readouterr().out) == bool(faults)
