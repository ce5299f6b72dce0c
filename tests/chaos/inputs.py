"""Hostile inputs of every kind, generated from a seed: rows, evaluation sets, settings, model folders.

python -m tests.chaos.inputs --count 20000 --seed 1             everything, 20 minutes on one core
python -m tests.chaos.inputs --count 20000 --seed 1 --part rows

Exit code 0 where nothing was lost, nothing hung and every ending was acceptance or a refusal in words; 1 otherwise, with the
first offenders in the folder that is named.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import commands, hostile_models, hostile_sets, row_checks
from tests.chaos.forking import warm_up
from tests.chaos.report import Report

PARTS = ("rows", "commands", "sets", "settings", "models")


def run(count: int, seed: int, folder: Path, parts: Sequence[str] = PARTS) -> Report:
    """Try hostile inputs.

    Args:
        count: files of rows; of the others a share of it, as each takes longer.
        seed: what is generated is a function of it and of `count`.
        folder: takes the first offenders.
        parts: of `PARTS`.

    Returns:
        Counts by kind, and what went wrong.
    """
    report, share = Report(folder), min(1.0, count / 20_000)
    if "rows" in parts:
        row_checks.run(count, seed, report)
    if set(parts) == {"rows"}:
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


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", choices=PARTS, action="append")
    options = parser.parse_args()
    warm_up()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hostile-inputs-"))
    report = run(options.count, options.seed, folder, options.part or PARTS)
    print("\n".join([*report.table(), *report.offences]))
    return int(bool(report.offences))


if __name__ == "__main__":
    raise SystemExit(main())
