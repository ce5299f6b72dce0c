"""Hostile inputs of every kind, generated from a seed: rows, evaluation sets, settings, model folders; and sound rows in every dialect."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import commands, dialects, hostile_models, hostile_sets, row_checks
from tests.chaos.report import Report

PARTS = ("rows", "dialects", "commands", "sets", "settings", "models")


def run(count: int, seed: int, folder: Path, parts: Sequence[str] = PARTS) -> Report:
    """Try hostile inputs.

    Args:
        count: files of rows; of the others a share of it, as each takes longer, unless dialects are tried alone.
        seed: what is generated is a function of it and of `count`.
        folder: takes the first offenders.
        parts: of `PARTS`.

    Returns:
        Counts by kind, and what went wrong.
    """
    report, share = Report(folder), min(1.0, count / 20_000)
    if "rows" in parts:
        row_checks.run(count, seed, report)
    if "dialects" in parts:
        dialects.run(count if set(parts) == {"dialects"} else max(1, count // 100), seed, report)
    if set(parts) <= {"rows", "dialects"}:
        return report
    with tempfile.TemporaryDirectory() as scratch:
        world = commands.make_world(Path(scratch))
        if "commands" in parts:
            commands.run_rows(max(1, count // 200), seed, report, world)
        if "sets" in parts:
            hostile_sets.run_sets(max(1, count // 30), seed, report, world)
        if "models" in parts:
            hostile_models.run_models(seed, report, world, share=share)
        if "settings" in parts:
            commands.run_settings(seed, 1, report, world, share=share)
    return report
