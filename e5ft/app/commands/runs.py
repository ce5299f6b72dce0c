"""The runs command: what was trained, on what, and what came of it, a line a run."""

from pathlib import Path

from e5ft.app.settings.verbs import RunsSettings
from e5ft.app.telling.report import say
from e5ft.reporting.facts import facts_of, find_runs
from e5ft.reporting.listing import json_lines, line_of, table


def runs(settings: RunsSettings, read: None = None) -> None:
    """Print the runs, the newest last.

    Args:
        settings: of the command.
        read: nothing is read before.
    """
    found = sorted((facts_of(folder) for folder in find_runs(list(map(Path, settings.folders)))), key=lambda facts: facts.date)
    lines = list(map(line_of, found))
    if settings.format == "jsonl":
        return say(json_lines(lines)) if lines else None
    say(table(lines) if lines else f"no run in {', '.join(settings.folders)}; python train.py makes one")
