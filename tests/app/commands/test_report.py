"""`python -m e5ft report`: a page made again from the record alone, runs compared, and an exit code that a pipeline can gate on.

And `python -m e5ft runs`, the list of runs; both with neither torch nor transformers.
"""

import json
import os
import subprocess
import sys

import pytest

from e5ft.app.commands.report import report
from e5ft.app.settings.verbs import ReportSettings
from e5ft.errors import ConfigurationError, DataError, VerdictError
from e5ft.files import read_json, write_json
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


def settings(*runs, **given) -> ReportSettings:
    return ReportSettings(**{"runs": runs, "language": "auto", "output_file": None, "require": None, **given})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "outputs/a", skill=0.4)
    make_run(tmp_path / "outputs/b", skill=0.6, seed=3)
    make_sweep(tmp_path / "multirun/s")
    return tmp_path


def test_a_pipeline_can_gate_on_the_last_run_against_the_first(here):
    done = command("report", "runs=[a,b]", "require=better", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "  page        outputs/compare-a-b.html\n", "")
    done = command("report", "runs=[b,a]", "require=better", cwd=here)
    assert done.returncode == 7 and done.stderr.startswith("error: require=better: the verdict is WORSE; ")
    assert (here / "outputs/compare-b-a.html").is_file() and done.stderr.count("\n") == 1


def test_one_run_one_multirun_and_several_each_have_their_page(here, capsys):
    for runs, place in (
        (["a"], "outputs/a/report.html"),
        (["s"], "multirun/s/report.html"),
        (["a", "s"], "outputs/compare-a-s_3.html"),
    ):
        report(settings(*runs, require="better"))
        assert capsys.readouterr().out == f"  page        {place}\n" and (here / place).read_text().endswith("</html>")
    report(settings("a", output_file="x/나.html", language="en"))
    assert 'lang="en"' in (here / "x/나.html").read_text()


def test_the_recorded_verdict_decides_for_a_run_and_the_best_job_s_for_a_multirun(here):
    for file, name in ((here / "outputs/a/summary.json", "a"), (here / "multirun/s/3/summary.json", "s")):
        record = read_json(file)
        write_json(file, {**record, "verdict": {**record["verdict"], "word": "NO DIFFERENCE"}})
        with pytest.raises(VerdictError, match="the verdict is NO DIFFERENCE") as raised:
            report(settings(name, require="better"))
        assert raised.value.exit_code == 7
        report(settings(name))


def test_what_is_not_there_not_finished_or_of_an_older_version_is_one_line(here):
    write_json(here / "outputs/c/status.json", {"state": "failed", "error": "no rows", "seconds": 1})
    (here / "outputs/d").mkdir()
    write_json(here / "outputs/d/summary.json", {"scores": {}, "differences": {}, "test_set": "s"})
    make_run(here / "outputs/e")
    (here / "outputs/e/eval/faq-test/base/run.trec").write_text("q000 Q0 p")
    for runs in (["nobody"], ["c"], ["a", "c"], ["d"], ["a", "d"], ["e"]):
        with pytest.raises(DataError) as raised:
            report(settings(*runs))
        assert "\n" not in str(raised.value) and runs[-1] in str(raised.value)


def test_a_run_is_not_compared_with_itself(here):
    for other in ("a", "outputs/a", "outputs/a/"):
        with pytest.raises(ConfigurationError, match="^runs=.*must name different runs"):
            report(settings("a", other))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runs": None}, "^runs=.*must name a run"),
        ({"output_file": "page.txt"}, "^output_file='page.txt': must end in .html"),
        ({"language": "fr"}, "^language='fr': must be auto, ko or en"),
    ],
)
def test_what_cannot_be_asked(given, message):
    with pytest.raises(ConfigurationError, match=message):
        settings(**{"runs": ("a",), **given})


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
