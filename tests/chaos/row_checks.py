"""What must hold of every file of rows, whatever is in it, and the campaigns over generated ones."""

import contextlib
import logging
import os
import random
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from e5ft.data.lines import BadLine
from e5ft.data.rows import read_rows
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.errors import DataError
from tests.chaos import row_files
from tests.chaos.children import in_child
from tests.chaos.report import Report

SECONDS = 20  # a file; none takes one
BATCH = 500  # files of one child


class Hang(BaseException):
    """A file took longer than SECONDS."""


@contextlib.contextmanager
def deadline(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `Hang` when the block takes longer."""

    def ring(number, frame):
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def records(path: Path) -> int | None:
    """How many records a file holds, counted without the reader; None where only a parser could say."""
    content = path.read_bytes()
    if path.suffix in (".jsonl", ".json"):
        return sum(bool(line.strip()) for line in content.split(b"\n"))
    if path.suffix in (".csv", ".tsv") and b'"' not in content and all(len(line) < 100_000 for line in content.split(b"\n")):
        return sum(bool(line) for line in re.split(rb"\r\n|\r|\n", content)[1:])
    return None


def check_file(path: Path, mode: str, report: Report, kind: str, expected: int | None = None, seconds: float = SECONDS) -> None:
    """Read one file as train.py would, and count how it ended.

    Args:
        path: the file.
        mode: `data.on_bad_row`.
        report: takes the counts and the file, if it is an offender.
        kind: of input.
        expected: records in the file, where its maker knows.
        seconds: after which it counts as hanging.
    """
    counts = report.kind(kind)
    counts.tried += 1
    try:
        with deadline(seconds):
            complaint = _check(path, mode, counts, records(path) if expected is None else expected)
    except Hang as error:
        counts.hangs += 1
        report.keep(kind, "hang", f"{mode}: {error}", [path])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        counts.tracebacks += 1
        report.keep(kind, f"traceback: {type(error).__name__}", f"{mode}\n{traceback.format_exc()}", [path])
    else:
        if complaint:
            report.keep(kind, complaint, mode, [path])


def _check(path: Path, mode: str, counts, expected: int | None) -> str | None:
    read = accepted = 0
    refusal = None
    try:
        for place, value in read_rows(str(path), Columns()):
            read += 1
            if isinstance(value, BadLine):
                _check_message(str(value), f"{place}: ")
                assert re.fullmatch(re.escape(f"{path}:") + "[1-9][0-9]*", str(place)), place
            else:
                accepted += 1
    except DataError as error:
        _check_message(str(error), f"{path}:")
        refusal = error
    store, error = _loaded(path, mode)
    if refusal is not None:
        counts.refused += 1
        assert error is not None and store is None, "refused by the reader, accepted by the store"
        return _lost(counts, expected or 0) if path.suffix == ".jsonl" and expected and "holds no rows" in str(refusal) else None
    counts.rows_read += read
    counts.rows_accepted += accepted
    counts.rows_rejected += read - accepted
    good = accepted > 0 and (mode == "skip" or accepted == read)
    assert good == (store is not None), f"{accepted} of {read} rows are good, mode {mode}, yet: {error or 'accepted'}"
    if store is None:
        counts.refused += 1
        _check_message(str(error), f"{read - accepted:,} of {read:,} rows cannot be used:")
    else:
        counts.accepted += 1
        assert (store.read, store.rejected, len(store.rows)) == (read, read - accepted, accepted)
        list(store)
    if expected is not None and read < expected:
        return _lost(counts, expected - read)
    assert expected is None or read == expected, f"{read} rows read of {expected}"
    return None


def _loaded(path: Path, mode: str):
    try:
        return load_rows(str(path), Columns(), path.parent / "cache", on_bad_row=mode), None
    except DataError as error:
        return None, error


def _lost(counts, rows: int) -> str:
    counts.lost_rows += rows
    return f"{rows} rows lost"


def _check_message(text: str, start: str) -> None:
    text.encode("utf-8")
    assert text.startswith(start), f"{text!r} does not begin with {start!r}"
    assert all(character.isprintable() or character == "\n" for character in text), f"control characters: {text!r}"


# -- campaigns ---------------------------------------------------------------------------------------------------------------


def structured(strategy, suffix: str, kind: str) -> Callable[[int, int, Path, Report], None]:
    """A campaign over a strategy of contents, or of (content, number of rows)."""

    def run(count: int, number: int, folder: Path, report: Report) -> None:
        modes = random.Random(number)

        @seed(number)
        @settings(
            max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        @given(strategy)
        def case(drawn):
            content, expected = drawn if isinstance(drawn, tuple) else (drawn, None)
            check_file(row_files.write(folder, suffix, content), modes.choice(["skip", "fail"]), report, kind, expected)

        case()

    return run


def damaged(count: int, number: int, folder: Path, report: Report) -> None:
    """A campaign over damaged real files of every kind."""
    for case in range(count):
        generator = random.Random(f"{number} {case}")
        suffix, content = row_files.damaged(generator)
        check_file(row_files.write(folder, suffix, content), generator.choice(["skip", "fail"]), report, f"damaged {suffix}")


CAMPAIGNS = {  # share of the files, and what makes them
    "structured .jsonl": (0.3, structured(row_files.JSON_FILES, ".jsonl", "structured .jsonl")),
    "structured .csv": (0.12, structured(row_files.tables(","), ".csv", "structured .csv")),
    "structured .tsv": (0.04, structured(row_files.tables("\t"), ".tsv", "structured .tsv")),
    "structured .parquet": (0.08, structured(row_files.parquet_files(), ".parquet", "structured .parquet")),
    "damaged": (0.46, damaged),
}


def run(count: int, number: int, report: Report, batch: int = BATCH) -> None:
    """All campaigns, each batch in a child of its own.

    Args:
        count: files in all.
        number: the seed.
        report: takes what is found.
        batch: files of one child.
    """
    row_files.good_files()
    for name, (share, campaign) in CAMPAIGNS.items():
        left = max(1, round(share * count))
        for part in range(-(-left // batch)):
            _in_child(campaign, name, min(batch, left - part * batch), number * 1000 + part, report)


def _in_child(campaign, name: str, count: int, number: int, report: Report) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def work() -> int:
            logging.disable(logging.WARNING)  # thousands of files with bad rows left out, as asked
            os.fsync = lambda descriptor: None  # what is not there after a power cut does not matter here
            found = Report(report.folder / f"{name}-{number}".replace(" ", "-"))
            campaign(count, number, folder, found)
            (folder / "report.json").write_text(found.to_json(), encoding="utf-8")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return 0

        ending = in_child(work, folder / "output.txt", SECONDS + count)
        if ending.code == 0:
            report.merge(Report.from_json(report.folder, (folder / "report.json").read_text(encoding="utf-8")))
            return
        counts = report.kind(name)  # the process died, or hung where no alarm is heard: its last file lies there still
        counts.tried += 1
        counts.hangs, counts.tracebacks = counts.hangs + ending.hung, counts.tracebacks + (not ending.hung)
        report.keep(name, "hang" if ending.hung else f"ended with {ending.code}", ending.output, sorted(folder.glob("case*")))
