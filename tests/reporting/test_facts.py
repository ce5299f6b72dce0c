"""What a folder says of a run, whatever state the folder is in."""

import os
import socket

import pytest

from e5ft.errors import DataError
from e5ft.files import write_json
from e5ft.reporting.facts import facts_of, find_runs, locate
from e5ft.reporting.listing import line_of
from tests.conftest import damage
from tests.reporting.made_runs import make_run, make_sweep


def test_a_finished_run_says_what_was_trained_on_what_and_what_it_scores(tmp_path):
    summary = make_run(tmp_path / "a", skill=0.6)
    facts = facts_of(tmp_path / "a")
    assert facts.finished and facts.metric == "ndcg@10" and facts.difference == summary["differences"]["ndcg@10"]
    assert (facts.model, facts.data, facts.weights, facts.verdict) == ("e5-small", "faq.jsonl", "step 40", "BETTER")
    assert facts.dev_score == summary["best"]["score"] and facts.start == {"ndcg@10": 0.31} and facts.seconds == 75.5


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ({"step": 0, "alpha": 1.0}, "base"),
        ({"step": 1200}, "step 1,200"),
        ({"step": 40, "alpha": 0.5}, "step 40, alpha 0.5"),
        ({"step": 40, "alpha": 0.0}, "base"),
    ],
)
def test_which_weights_were_taken(tmp_path, best, words):
    make_run(tmp_path / "a", best={"score": 0.5, **best})
    assert facts_of(tmp_path / "a").weights == words


@pytest.mark.parametrize("file", ["summary.json", "status.json"])
@pytest.mark.parametrize("harm", ["zeroed", "half", "empty"])
def test_a_damaged_record_is_named_and_never_an_error(tmp_path, file, harm):
    make_run(tmp_path / "a")
    damage(tmp_path / "a" / file, harm)
    facts = facts_of(tmp_path / "a")
    assert facts.state == "damaged" and file in facts.error and "\n" not in facts.error


@pytest.mark.parametrize("record", [{}, [], {"scores": {}}, {"scores": {"after": {"metrics": {"ndcg@10": 1.0}}}}])
def test_a_summary_that_lacks_something_is_damaged(tmp_path, record):
    make_run(tmp_path / "a")
    write_json(tmp_path / "a/summary.json", record)
    assert facts_of(tmp_path / "a").state == "damaged"


@pytest.mark.parametrize("part", ["scores", "differences", "test_set"])
def test_a_summary_without_what_a_line_shows_is_damaged(tmp_path, part):
    summary = make_run(tmp_path / "a")
    harmed = {"scores": {**summary["scores"], "bm25": {"label": "x"}}, "differences": {"ndcg@10": {"mean": 1.0}}}
    summary.pop("test_set") if part == "test_set" else summary.update({part: harmed[part]})
    write_json(tmp_path / "a/summary.json", summary)
    facts = facts_of(tmp_path / "a")
    assert facts.state == "damaged" and "lacks" in facts.error and line_of(facts)["after"] is None


def test_a_process_that_cannot_be_is_damaged(tmp_path):
    write_json(tmp_path / "a/status.json", {"state": "running", "pid": 10**30, "host": socket.gethostname()})
    assert facts_of(tmp_path / "a").state == "damaged"


def test_a_folder_that_cannot_be_read_is_damaged(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "a/config.yaml").write_text("a: [1\nb: {")
    assert facts_of(tmp_path / "a").state == "damaged"
    assert facts_of(tmp_path / "nowhere").state == "damaged"


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    own, gone = os.getpid(), 2**22 + 1  # above the largest id that Linux gives
    for pid, host, state in (
        (own, socket.gethostname(), "running"),
        (gone, socket.gethostname(), "killed"),
        (gone, "x", "running"),
    ):
        write_json(tmp_path / "a/status.json", {"state": "running", "pid": pid, "host": host, "seconds": 0.0})
        assert facts_of(tmp_path / "a").state == state


def test_a_failed_run_says_why_in_a_line_and_how_far_it_came(tmp_path):
    write_json(tmp_path / "a/status.json", {"state": "failed", "error": "no rows\nsecond line", "seconds": 2.0})
    (tmp_path / "a/metrics.jsonl").write_text('{"step": 7, "loss": 1}\n{"step": 8, "lo')
    facts = facts_of(tmp_path / "a")
    assert (facts.state, facts.error, facts.step, facts.summary) == ("failed", "no rows", 7, {})


def test_of_rounds_the_one_that_was_taken_speaks(tmp_path):
    for number, skill in ((1, 0.4), (2, 0.6)):
        make_run(tmp_path / f"r/round-{number}", skill=skill)
    write_json(tmp_path / "r/status.json", {"state": "finished", "seconds": 9.0})
    verdict = {"word": "WORSE", "costs_elsewhere": False}
    write_json(tmp_path / "r/rounds.json", {"best": 2, "verdict": verdict, "rounds": [{}, {}]})
    facts = facts_of(tmp_path / "r")
    assert facts.weights == "round 2, step 40" and facts.verdict == "WORSE"
    assert facts.summary["scores"] == facts_of(tmp_path / "r/round-2").summary["scores"]


def test_runs_and_jobs_are_found_and_nothing_else(tmp_path):
    make_run(tmp_path / "outputs/b")
    make_run(tmp_path / "outputs/a")
    make_sweep(tmp_path / "multirun/s")
    write_json(tmp_path / "outputs/mined/m/mining.json", {})
    (tmp_path / "outputs/latest").symlink_to("a")
    (tmp_path / "outputs/file").touch()
    found = [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path / "outputs", tmp_path / "multirun"])]
    assert found == ["outputs/a", "outputs/b", *(f"multirun/s/{number}" for number in range(7))]  # job 7 has not begun
    assert list(find_runs([tmp_path / "multirun/s"])) == [tmp_path / f"multirun/s/{number}" for number in range(7)]
    assert list(find_runs([tmp_path / "outputs/a", tmp_path / "nowhere"])) == [tmp_path / "outputs/a"]


def test_a_run_is_named_by_folder_or_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "outputs/가")
    make_sweep(tmp_path / "multirun/s")
    (tmp_path / "outputs/latest").symlink_to("가")
    assert str(locate("가")) == str(locate("outputs/가")) == "outputs/가" and str(locate("s")) == "multirun/s"
    assert locate("latest") == tmp_path / "outputs/가" and str(locate("s/2")) == "multirun/s/2"
    with pytest.raises(DataError, match="^runs=nobody: no run is there"):
        locate("nobody")
