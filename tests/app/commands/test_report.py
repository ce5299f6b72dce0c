"""`python -m e5ft report`: a page made again from the record alone, runs compared, and an exit code that a pipeline can gate on."""

import pytest

from e5ft.app.commands.report import report
from e5ft.app.settings.verbs import ReportSettings
from e5ft.errors import ConfigurationError, DataError, VerdictError
from e5ft.files import read_json, write_json
from tests.app.commands.test_runs import command
from tests.reporting.made_runs import make_run, make_sweep


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
