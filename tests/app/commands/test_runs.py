"""`python -m e5ft runs`: the list of runs, with neither torch nor transformers."""

import json
import os
import subprocess
import sys

from e5ft.files import write_json
from tests.reporting.made_runs import make_run, make_sweep
from tests.test_cli import ENVIRONMENT, ROOT


def command(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """A command of the package, where importing torch or transformers is an error."""
    blocked = cwd / "blocked"
    blocked.mkdir(exist_ok=True)
    for library in ("torch", "transformers"):
        (blocked / f"{library}.py").write_text(f"raise AssertionError('{library} was imported')")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-m", "e5ft", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_runs_and_jobs_are_listed_the_newest_last_and_a_damaged_one_is_a_line(tmp_path):
    make_run(tmp_path / "outputs/가나")
    make_sweep(tmp_path / "multirun/s", waiting=5, failed=1)
    write_json(tmp_path / "outputs/b/status.json", {"state": "stopped", "error": "stopped by SIGTERM", "seconds": 1})
    (tmp_path / "outputs/c").mkdir()
    (tmp_path / "outputs/c/status.json").write_text("{")
    for number, name in enumerate(("outputs/c", "multirun/s/0", "outputs/가나", "multirun/s/1", "multirun/s/2", "outputs/b")):
        os.utime(tmp_path / name / "status.json", (1e9 + number, 1e9 + number))
    done = command("runs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert shown == ["outputs/c", "multirun/s/0", "outputs/가나", "multirun/s/1", "multirun/s/2", "outputs/b"]
    assert "damaged: status.json is no JSON" in done.stdout and "BETTER" in done.stdout and "stopped by SIGTERM" in done.stdout
    done = command("runs", "folders=[outputs]", "format=jsonl", cwd=tmp_path)
    assert [json.loads(line)["run"] for line in done.stdout.splitlines()] == ["outputs/c", "outputs/가나", "outputs/b"]


def test_where_there_is_none_it_says_so_and_a_wrong_word_is_refused(tmp_path):
    done = command("runs", cwd=tmp_path)
    assert done.stdout == "no run in outputs, multirun; python train.py makes one\n" and done.returncode == 0
    done = command("runs", "format=csv", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: format='csv': must be table or jsonl")
