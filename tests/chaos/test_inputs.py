"""A small, seeded share of the hostile inputs of `python -m tests.chaos.inputs`; and that the harness sees what it is there to see."""

import os
import random
import signal
import time

import pytest

from e5ft.data import rows as rows_module
from e5ft.errors import DataError
from tests.chaos import commands, dialects, hostile_models, hostile_sets, row_checks, row_files
from tests.chaos.forking import Ended, in_children
from tests.chaos.inputs import run
from tests.chaos.report import Report


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world in which the scripts run, made once."""
    return commands.make_world(tmp_path_factory.mktemp("world"))


def test_a_share_of_the_files_ends_well(tmp_path):
    report = run(120, 20251125, tmp_path, parts=["rows"])
    assert report.offences == []
    total = report.total
    assert total["tried"] >= 120 and total["accepted"] > 5 and total["refused"] > 20
    assert total["rows_read"] == total["rows_accepted"] + total["rows_rejected"] > 100


def test_rows_in_every_dialect_come_back_equal_or_are_refused(tmp_path):
    """Most come back: what is refused are pandas' orient=values and labels that say nothing."""
    report = run(42, 20261128, tmp_path, parts=["dialects"])
    assert report.offences == []
    assert report.total["tried"] == 42 and report.total["accepted"] >= 36
    assert all(counts["accepted"] for counts in report.kinds.values())


def test_a_dialect_that_comes_back_as_other_rows_is_an_offence(tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "expected", lambda row: (row["query"] + " ", (row["document"],), ()))
    report = run(3, 1, tmp_path, parts=["dialects"])
    assert report.total["tracebacks"] == len(report.offences) == 3


def test_a_share_of_the_damaged_files_through_the_command(world, tmp_path):
    report = Report(tmp_path)
    commands.run_rows(2, 20251125, report, world)
    assert report.offences == [] and report.total["tried"] == 2


def test_a_share_of_the_hostile_settings_of_every_script(world, tmp_path):
    report = Report(tmp_path)
    commands.run_settings(20251125, 1, report, world, share=0.01)
    assert report.offences == [] and report.total["refused"] > 1


def test_a_share_of_the_hostile_evaluation_sets(world, tmp_path):
    report = Report(tmp_path)
    hostile_sets.run_sets(60, 20251125, report, world)
    assert report.offences == []
    assert report.total["accepted"] > 5 < report.total["refused"]


def test_a_share_of_the_hostile_models(world, tmp_path):
    report = Report(tmp_path)
    hostile_models.run_models(20251125, report, world, share=0.1)
    assert report.offences == [] and report.total["refused"] > 5


@pytest.mark.parametrize("name", ["own code, known type", "own code, unknown type", "pickle only", "an adapter alone"])
def test_no_code_of_a_model_folder_is_run(world, tmp_path, name):
    report = Report(tmp_path)
    hostile_models.check_model(name, world, report)
    assert report.offences == []


# -- the harness itself ------------------------------------------------------------------------------------------------------


def test_a_lost_row_a_traceback_and_a_hang_are_seen_and_kept(tmp_path, monkeypatch):
    path = row_files.write(tmp_path, ".jsonl", row_files.good_files()[".jsonl"])

    def losing(*arguments):
        yield from list(rows_module.read_rows(*arguments))[1:]

    def raising(*arguments):
        raise KeyError("query")

    def hanging(*arguments):
        time.sleep(5)
        yield from ()

    for broken, field in ((losing, "tracebacks"), (raising, "tracebacks"), (hanging, "hangs")):
        report = Report(tmp_path / broken.__name__)
        monkeypatch.setattr(row_checks, "read_rows", broken)
        row_checks.check_file(path, "skip", report, "rows", seconds=0.5)
        assert report.total[field] == 1
        assert list((tmp_path / broken.__name__).glob("rows-0/case.jsonl"))
    monkeypatch.setattr("e5ft.data.store.read_rows", losing)  # now the reader and the store agree, and the count does not
    monkeypatch.setattr(row_checks, "read_rows", losing)
    report = Report(tmp_path / "lost")
    (tmp_path / "new").mkdir()  # with a cache of its own
    path = row_files.write(tmp_path / "new", ".jsonl", path.read_bytes())
    row_checks.check_file(path, "skip", report, "rows")
    assert report.total["lost_rows"] == 1 and report.offences


def test_a_child_that_dies_or_stalls_is_seen(tmp_path):
    def end(function, seconds=10):
        [ended] = in_children({tmp_path / "output": function}, seconds)
        return ended

    assert end(lambda: 3).code == 3
    assert end(lambda: os.kill(os.getpid(), signal.SIGKILL)).code == -signal.SIGKILL
    assert end(lambda: time.sleep(60) or 0, 0.3).code is None
    ended = end(lambda: [][1])
    assert ended.code == 1 and "Traceback" in ended.output


@pytest.mark.parametrize(
    ("code", "output"), [(1, "error: something is wrong here"), (0, "Traceback ..."), (2, "error: "), (-9, ""), (None, "")]
)
def test_an_ending_that_is_no_refusal_in_words_is_an_offence(tmp_path, code, output):
    report = Report(tmp_path)
    report.check_ending("kind", Ended(code, output), "what")
    assert report.total["hangs" if code is None else "tracebacks"] == len(report.offences) == 1


def test_what_is_generated_depends_on_the_seed_alone():
    assert [row_files.damaged(random.Random(f"1 {i}")) for i in range(20)] == [
        row_files.damaged(random.Random(f"1 {i}")) for i in range(20)
    ]


@pytest.mark.parametrize("suffix", row_files.SUFFIXES)
def test_the_files_that_are_damaged_are_good_before(suffix, tmp_path):
    report = Report(tmp_path)
    row_checks.check_file(row_files.write(tmp_path, suffix, row_files.good_files()[suffix]), "fail", report, "good")
    assert report.total["accepted"] == 1 and report.total["rows_accepted"] == 12 and report.offences == []


def test_an_offender_can_be_read_again(tmp_path):
    report = Report(tmp_path)
    path = row_files.write(tmp_path, ".csv", b'query,document\nq,"d\n')
    report.keep("rows", "what", "detail", [path])
    kept = next((tmp_path / "rows-0").glob("case.csv"))
    with pytest.raises(DataError, match="nothing closes it"):
        list(rows_module.read_rows(str(kept), rows_module.Columns()))
