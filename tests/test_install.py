"""`pip install .` gives a package that works away from the clone: the wheel in an environment of its own, all four verbs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.app.conftest import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run `e5ft ...` in an empty folder; what the wheel depends on is taken from this environment, the package is not."""
    folder = tmp_path_factory.mktemp("install")
    for name in ("e5ft", "conf", "data"):  # setuptools builds in the folder of the sources
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*wheel, folder / "source"], check=True, cwd=folder)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    site = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True).stdout
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site.strip()]
    subprocess.run([*install, *folder.glob("e5ft-*.whl")], check=True)
    (Path(site.strip()) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (folder / "work").mkdir()

    def run(*arguments: str) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = [python, "-m", "e5ft", *arguments]
        done = subprocess.run(command, cwd=folder / "work", capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run, folder / "work"


def test_all_verbs_run_away_from_the_clone(installed):
    run, work = installed
    short = ("tracking=off", "training.max_steps=2", "evaluation.bm25=null", *TINY)
    run("train", "name=a", *short)
    assert (work / "outputs/a/model/config.json").is_file()
    run("eval", "model.path=outputs/a/model", "evaluation.intervals=10", "output_dir=measured")
    run("mine", "model.path=outputs/a/model", "name=m", "filters.percent=null")
    run("export", "model.path=outputs/a/model", "output_dir=exported")
    assert (work / "measured/sample-test/model/metrics.json").is_file() and (work / "outputs/mined/m/rows.jsonl").is_file()
    (work / "mine/loss").mkdir(parents=True)
    (work / "mine/loss/cold.yaml").write_text("defaults: [infonce, _self_]\ntemperature: 0.07\n")
    table = run("train", "-m", "--config-dir", "mine", "name=s", "loss=cold", "seed=1,2", *short)
    assert "2 runs" in table and (work / "multirun/s/sweep.csv").is_file()
    assert {path.name for path in work.iterdir()} == {"outputs", "cache", "measured", "exported", "mine", "multirun"}


def test_the_page_of_serve_is_in_the_package(installed):
    places = {path.name for path in (installed[1].parent / "env").rglob("e5ft/serving/page.*")}
    assert {"page.html", "page.css"} <= places


def test_pins_are_what_the_package_allows():
    import tomllib

    from packaging.requirements import Requirement

    allowed = {
        r.name: r for r in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    }
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {r.name: r for r in map(Requirement, lines)}
    assert pins.keys() == allowed.keys()
    for name, pin in pins.items():
        versions = [s.version for s in pin.specifier if s.operator in ("==", ">=")]
        assert versions and all(allowed[name].specifier.contains(version) for version in versions), name
