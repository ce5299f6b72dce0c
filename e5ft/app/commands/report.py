"""From the record alone: the report command, a page of one run or of several, and the runs command, a line a run.

The page of a run or a multirun is made again, or one that compares several runs.
"""

from collections.abc import Sequence
from pathlib import Path

from e5ft.app.settings.verbs import ReportSettings, RunsSettings
from e5ft.app.telling.report import header_line, relative, say
from e5ft.errors import DataError
from e5ft.files import write_text
from e5ft.reporting.compare_page import compare_runs
from e5ft.reporting.facts import facts_of, find_runs, locate
from e5ft.reporting.listing import json_lines, line_of, table
from e5ft.reporting.run_page import PAGE, run_page
from e5ft.reporting.sweep_page import write_page
from e5ft.reporting.sweeps import jobs_of, of_rounds, read_sweep
from e5ft.retrieval.verdict import check_verdict


def report(settings: ReportSettings) -> None:
    """Make one page.

    Raises:
        DataError: there is no such run, or it has no whole record.
        VerdictError: the page is written, and the verdict is not the one that `require` demands.
    """
    file = None if settings.output_file is None else Path(settings.output_file)
    try:
        folders = [locate(name) for name in settings.runs]
        if len({folder.resolve() for folder in folders}) < len(folders):
            settings.refuse("runs", "must name different runs")
        page, word = _written(folders, settings.language, file)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"runs={','.join(settings.runs)}: a record is damaged or of an older version ({error!r})") from error
    say(header_line("page", relative(page)))
    check_verdict(settings.require, word, relative(page))


def runs(settings: RunsSettings) -> None:
    """Print what was trained, on what, and what came of it, the newest run last."""
    found = sorted((facts_of(folder) for folder in find_runs(list(map(Path, settings.folders)))), key=lambda facts: facts.date)
    lines = list(map(line_of, found))
    if settings.format == "jsonl":
        return say(json_lines(lines)) if lines else None
    say(table(lines) if lines else f"no run in {', '.join(settings.folders)}; python train.py makes one")


def _written(folders: Sequence[Path], language: str, file: Path | None) -> tuple[Path, str]:
    """Write the page; the file, and the word of its verdict."""
    if len(folders) > 1:
        return compare_runs(folders, language, file)
    if jobs_of(folders[0]):
        sweep = read_sweep(folders[0])
        return write_page(sweep, language, file), sweep.verdict
    facts, page = facts_of(folders[0]), file or folders[0] / PAGE
    write_text(page, run_page(of_rounds(facts), language))
    return page, facts.summary.get("verdict", {}).get("word", "")
