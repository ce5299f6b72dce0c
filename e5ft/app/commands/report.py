"""The report command: the page of a run or a multirun made again, or one that compares several runs; all from the record alone."""

from pathlib import Path

from e5ft.app.settings.groups import ReportSettings
from e5ft.app.telling.report import header_line, relative, say
from e5ft.reporting.compare_page import compare_runs
from e5ft.reporting.facts import locate
from e5ft.reporting.run_page import write_report
from e5ft.reporting.sweep_page import write_page
from e5ft.reporting.sweeps import jobs_of, read_sweep
from e5ft.retrieval.verdict import check_verdict


def report(settings: ReportSettings, read: None = None) -> None:
    """Make one page.

    Args:
        settings: of the command.
        read: nothing is read before.

    Raises:
        DataError: there is no such run, or it has no whole record.
        VerdictError: the page is written, and the verdict is not the one that `require` demands.
    """
    folders = [locate(name) for name in settings.runs]
    file = None if settings.output_file is None else Path(settings.output_file)
    if len(folders) > 1:
        page, word = compare_runs(folders, settings.language, file)
    elif jobs_of(folders[0]):
        sweep = read_sweep(folders[0])
        page, word = write_page(sweep, settings.language, file), sweep.verdict
    else:
        page, word = write_report(folders[0], settings.language, file)
    say(header_line("page", relative(page)))
    check_verdict(settings.require, word, relative(page))
