"""A small, seeded share of the hostile inputs of `python -m tests.chaos.inputs`; and that the harness sees what it is there to see."""

import os
import random
import signal
import time

import pytest

from e5ft.data import rows as rows_module
from e5ft.errors import DataError
from tests.chaos import commands, hostile_models, hostile_sets, row_checks, row_files
from tests.chaos.children import in_child
from tests.chaos.inputs import run
from tests.chaos.report import Report


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world in which the scripts run, made once."""
    folder = tmp_path_factory.mktemp("world")
    commands.make_world(folder)
    return folder


def test_a_share_of_the_files_ends_well(tmp_path):
    report = run(120, 20251125, tmp_path, parts=["rows"])
    assert not report.failed, report.table()
    total = report.total
    assert total.tried >= 120 and total.accepted > 5 and total.refused > 20
    assert total.rows_read == total.rows_accepted + total.rows_rejected > 100


def test_a_share_of_the_damaged_files_through_the_command(world, tmp_path):
    report = Report(tmp_path)
    commands.run_rows(2, 20251125, report, world)
    assert not report.failed and report.total.tried == 2, report.table()


def test_a_share_of_the_hostile_settings_of_every_script(world, tmp_path):
    report = Report(tmp_path)
    commands.run_settings(20251125, 1, report, world, share=0.01)
    assert not report.failed and report.total.refused > 1, report.table()


def test_a_share_of_the_hostile_evaluation_sets(world, tmp_path):
    report = Report(tmp_path)
    hostile_sets.run_sets(60, 20251125, report, world)
    assert not report.failed, report.table()
    assert report.kind("evaluation sets").accepted > 5 < report.kind("evaluation sets").refused


def test_a_share_of_the_hostile_models(world, tmp_path):
    report = Report(tmp_path)
    hostile_models.run_models(20251125, report, world, share=0.1)
    assert not report.failed and report.total.refused > 5, report.table()


@pytest.mark.parametrize("name", ["own code, known type", "own code, unknown type", "pickle only", "an adapter alone"])
def test_no_code_of_a_model_folder_is_run(world, tmp_path, name):
    report = Report(tmp_path)
    hostile_models.check_model(name, world / "model", world, report)
    assert not report.failed, report.table()


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
        assert getattr(report.total, field) == 1 and report.failed
        assert list((tmp_path / broken.__name__).glob("rows-0/case.jsonl"))
    monkeypatch.setattr("e5ft.data.store.read_rows", losing)  # now the reader and the store agree, and the count does not
    monkeypatch.setattr(row_checks, "read_rows", losing)
    report = Report(tmp_path / "lost")
    (tmp_path / "new").mkdir()  # with a cache of its own
    path = row_files.write(tmp_path / "new", ".jsonl", path.read_bytes())
    row_checks.check_file(path, "skip", report, "rows")
    assert report.total.lost_rows == 1 and report.failed


def test_a_child_that_dies_or_stalls_is_seen(tmp_path):
    assert in_child(lambda: 3, tmp_path / "output", 10).code == 3
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "output", 10).code == -signal.SIGKILL
    assert in_child(lambda: time.sleep(60) or 0, tmp_path / "output", 0.3).hung
    ending = in_child(lambda: [][1], tmp_path / "output", 10)
    assert ending.code == 1 and "Traceback" in ending.output


@pytest.mark.parametrize(
    ("code", "output"), [(1, "error: something is wrong here"), (0, "Traceback ..."), (2, "error: "), (-9, "")]
)
def test_an_ending_that_is_no_refusal_in_words_is_an_offence(tmp_path, code, output):
    report = Report(tmp_path)
    commands.check_ending("kind", commands.Ended(code, output, 0.0), "what", report)
    assert report.total.tracebacks == 1 and report.failed


def test_what_is_generated_depends_on_the_seed_alone():
    assert [row_files.damaged(random.Random(f"1 {i}")) for i in range(20)] == [
        row_files.damaged(random.Random(f"1 {i}")) for i in range(20)
    ]


@pytest.mark.parametrize("suffix", row_files.SUFFIXES)
def test_the_files_that_are_damaged_are_good_before(suffix, tmp_path):
    report = Report(tmp_path)
    row_checks.check_file(row_files.write(tmp_path, suffix, row_files.good_files()[suffix]), "fail", report, "good")
    assert report.total.accepted == 1 and report.total.rows_accepted == 12 and not report.failed


def test_an_offender_can_be_read_again(tmp_path):
    report = Report(tmp_path)
    path = row_files.write(tmp_path, ".csv", b'query,document\nq,"d\n')
    report.keep("rows", "what", "detail", [path])
    kept = next((tmp_path / "rows-0").glob("case.csv"))
    with pytest.raises(DataError, match="nothing closes it"):
        list(rows_module.read_rows(str(kept), rows_module.Columns()))
