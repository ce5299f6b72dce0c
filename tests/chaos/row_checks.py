"""What must hold of every file of rows, whatever is in it, and the campaigns over generated ones."""

import logging
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from e5ft.data.lines import BadLine
from e5ft.data.rows import read_rows
from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.errors import DataError
from tests.chaos import row_files
from tests.chaos.forking import in_children
from tests.chaos.report import SECONDS, Report

BATCH = 500  # files of one child


def records(path: Path) -> int | None:
    """How many records a file holds, counted without the reader; None where only a parser could say."""
    content = path.read_bytes()
    if b"\0" in content or path.suffix == ".parquet":  # UTF-16, perhaps
        return None
    lines = content.split(b"\n")
    if path.suffix in (".jsonl", ".json"):
        whole = len([line for line in lines if line.strip()]) != 1 and lines[0].strip()[:2] in (b"[", b"{", b"[{")
        return None if whole else sum(bool(line.strip()) for line in lines)
    if b'"' in content or any(len(line) > 100_000 for line in lines):
        return None
    head, *rows = re.split(r"\r\n|\r|\n", content.decode("utf-8", "surrogateescape"))
    separator = "," if path.suffix == ".csv" else "\t"
    others = set(",;\t|") - {separator}
    return None if others & set(head) else sum(any(cell.strip() for cell in row.split(separator)) for row in rows)


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

    def check() -> str:
        return _check(path, mode, report, kind, records(path) if expected is None else expected)

    report.check(kind, check, f"on_bad_row={mode}", [path], seconds)


def _check(path: Path, mode: str, report: Report, kind: str, expected: int | None) -> str:
    read = accepted = 0
    store = refused = error = None
    try:
        for location, value in read_rows(str(path), Columns()):
            read += 1
            accepted += not isinstance(value, BadLine)
            if isinstance(value, BadLine):
                _check_message(str(value), f"{location}: ")
                assert re.fullmatch(re.escape(f"{path}:") + r"[1-9][0-9]*( \(row [1-9][0-9]*\))?", str(location)), location
    except DataError as raised:
        _check_message(str(raised), f"{path}:")
        refused = raised
    try:
        store = load_rows(str(path), Columns(), path.parent / "cache", on_bad_row=mode)
    except DataError as raised:
        error = raised
    if refused is not None:
        assert store is None, "refused by the reader, accepted by the store"
        lost = expected if path.suffix == ".jsonl" and "holds no rows" in str(refused) else 0
    else:
        report.kinds[kind].update(rows_read=read, rows_accepted=accepted, rows_rejected=read - accepted)
        good = accepted > 0 and (mode == "skip" or accepted == read)
        assert good == (store is not None), f"{accepted} of {read} rows are good, mode {mode}, yet: {error or 'accepted'}"
        lost = 0 if expected is None else expected - read
        assert lost >= 0, f"{read} rows read of {expected}"
        if store is None:
            _check_message(str(error), f"{read - accepted:,} of {read:,} rows cannot be used:")
        else:
            assert (store.read, store.rejected, len(store.rows), len(list(store))) == (read, read - accepted, accepted, accepted)
    if lost:
        report.kinds[kind]["lost_rows"] += lost
        report.keep(kind, f"{lost} rows lost", mode, [path])
    return "refused" if store is None else "accepted"


def _check_message(text: str, start: str) -> None:
    text.encode("utf-8")
    assert text.startswith(start), f"{text!r} does not begin with {start!r}"
    assert all(character.isprintable() or character == "\n" for character in text), f"control characters: {text!r}"


# -- campaigns ---------------------------------------------------------------------------------------------------------------


def structured(strategy, suffix: str) -> Callable[[int, int, Path, Report], None]:
    """A campaign over a strategy of contents and their numbers of rows, None where that is not known."""

    def run(count: int, number: int, folder: Path, report: Report) -> None:
        modes, quiet = random.Random(number), dict(database=None, deadline=None, suppress_health_check=list(HealthCheck))

        @seed(number)
        @settings(max_examples=count, phases=[Phase.generate], **quiet)
        @given(strategy)
        def case(drawn):
            path = row_files.write(folder, suffix, drawn[0])
            check_file(path, modes.choice(["skip", "fail"]), report, f"structured {suffix}", drawn[1])

        case()

    return run


def damaged(count: int, number: int, folder: Path, report: Report) -> None:
    """A campaign over damaged real files of every kind."""
    for case in range(count):
        generator = random.Random(f"{number} {case}")
        suffix, content = row_files.damaged(generator)
        check_file(row_files.write(folder, suffix, content), generator.choice(["skip", "fail"]), report, f"damaged {suffix}")


CAMPAIGNS = {  # share of the files, and what makes them
    "structured .jsonl": (0.3, structured(row_files.JSON_FILES, ".jsonl")),
    "structured .csv": (0.12, structured(row_files.tables(","), ".csv")),
    "structured .tsv": (0.04, structured(row_files.tables("\t"), ".tsv")),
    "structured .parquet": (0.08, structured(row_files.parquet_files(), ".parquet")),
    "damaged": (0.46, damaged),
}


def run(count: int, number: int, report: Report) -> None:
    """All campaigns, each batch in a child of its own.

    Args:
        count: files in all.
        number: the seed.
        report: takes what comes of them.
    """
    row_files.good_files()
    for name, (share, campaign) in CAMPAIGNS.items():
        left = max(1, round(share * count))
        for part in range(-(-left // BATCH)):
            _in_child(campaign, name, min(BATCH, left - part * BATCH), number * 1000 + part, report)


def _in_child(campaign, name: str, count: int, number: int, report: Report) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def work() -> int:
            logging.disable(logging.WARNING)  # thousands of files with bad rows left out, as asked
            os.fsync = lambda descriptor: None  # what is not there after a power cut does not matter here
            part = Report(report.folder / f"{name}-{number}".replace(" ", "-"))
            campaign(count, number, folder, part)
            (folder / "report.json").write_text(part.to_json(), encoding="utf-8")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return 0

        [ended] = in_children({folder / "output.txt": work}, SECONDS + count)
        if ended.code == 0:
            report.add_json((folder / "report.json").read_text(encoding="utf-8"))
        else:  # it died, or hung where no alarm is heard: its last file lies there still
            report.check_ending(name, ended, "a batch", sorted(folder.glob("case*")), codes=())
