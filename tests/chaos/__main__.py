"""`make chaos`: injected faults and hostile input, and a table of what came of them.

python -m tests.chaos [--quick] [--only kills damage inputs secrets] [--workers 2] [--output outputs/chaos]
"""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.chaos import damage, kills, secrets
from tests.chaos.workers import hostile_inputs, in_workers, try_damage, try_fault

PARTS = ("kills", "damage", "inputs", "secrets")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break it in every known way, and look.")
    parser.add_argument("--quick", action="store_true", help="every 40th fault, a share of the inputs; two minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, default=2, help="processes that inject faults at the same time")
    parser.add_argument("--output", type=Path, default=Path("outputs/chaos"))
    given = parser.parse_args()
    # Children that are killed leave semaphores to the tracker, which takes them away and would tell of each.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    output, start = given.output.resolve(), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    report, faults = [], 0
    for part in given.only:
        lines, failed = globals()[f"_{part}"](given.quick, given.workers, output)
        report += lines
        faults += failed
    minutes = (time.monotonic() - start) / 60
    command = "make chaos" + (f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else "")
    head = [f"{datetime.date.today().isoformat()}, `{command}`, {minutes:.0f} min", ""]
    text = "\n".join(head + report) + "\n"
    (output / "chaos.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{output}/chaos.md" + (f"; {faults} FAULTS, see above and below it" if faults else ""))
    return 1 if faults else 0


def _kills(quick: bool, workers: int, output: Path) -> tuple[list[str], int]:
    wanted = list(kills.faults())[:: 40 if quick else 1]
    outcomes = list(in_workers(try_fault, wanted, workers, output / "runs"))
    lines = ["| fault | injected | survived | bit-identical |", "|---|---:|---:|---:|"]
    for kind in dict.fromkeys(o.fault.kind for o in outcomes):
        found = [o for o in outcomes if o.fault.kind == kind]
        lines.append(f"| {kind} | {len(found)} | {sum(o.survived for o in found)} | {sum(o.identical for o in found)} |")
    lines += ["", *_points([o for o in outcomes if o.fault.kind == kills.KILL])]
    return lines, _tell(f"{o.setting}: {o.fault.name}: {o.detail}" for o in outcomes if not o.identical)


def _points(outcomes: list[kills.Outcome]) -> list[str]:
    """The kill points: a named place times a phase, and how many of its kills were resumed bit-identical; by setting, too."""
    phases = [phase for phase in kills.PHASES.values() if any(kills.phase(o.fault) == phase for o in outcomes)]
    points = {(o.fault.place.name, kills.phase(o.fault)) for o in outcomes}
    lines = [f"{len(points)} kill points (place and phase), {len(outcomes)} kills; a cell: resumed bit-identical of killed.", ""]
    lines += _table("place", phases, outcomes, lambda o: o.fault.place.name, lambda o: kills.phase(o.fault))
    return [*lines, "", *_table("setting", ["kills"], outcomes, lambda o: o.setting, lambda o: "kills"), ""]


def _table(head: str, columns: list[str], outcomes: list[kills.Outcome], row_of: Callable, column_of: Callable) -> list[str]:
    lines = [f"| {head} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in dict.fromkeys(map(row_of, outcomes)):
        cells = []
        for column in columns:
            here = [o for o in outcomes if (row_of(o), column_of(o)) == (row, column)]
            cells.append(f"{sum(o.identical for o in here)}/{len(here)}" if here else "")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def _damage(quick: bool, workers: int, output: Path) -> tuple[list[str], int]:
    kinds = [*damage.KINDS, damage.EVERY]
    wanted = [(setting, kind) for setting in ("k = 1", "k = 4, sparse") for kind in kinds][:: 8 if quick else 1]
    found = list(in_workers(try_damage, wanted, workers, output / "runs"))
    lines = ["| damaged checkpoint | tried | named | bit-identical after it |", "|---|---:|---:|---:|"]
    for kind in dict.fromkeys(one.kind for one in found):
        here = [one for one in found if one.kind == kind]
        lines.append(f"| {kind} | {len(here)} | {sum(one.named for one in here)} | {sum(one.identical for one in here)} |")
    return [*lines, ""], _tell(f"{one.kind}: {one.detail}" for one in found if not (one.named and one.identical))


def _inputs(quick: bool, workers: int, output: Path) -> tuple[list[str], int]:
    report = hostile_inputs(400 if quick else 20_000, output / "inputs")
    lines = ["| hostile input | tried | accepted | refused | rows read | lost rows | tracebacks | hangs |", "|---|" + "---:|" * 7]
    for name, found in [*report.kinds.items(), ("all", report.total)]:
        figures = (
            found.tried, found.accepted, found.refused, found.rows_read, found.lost_rows, found.tracebacks, found.hangs
        )  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    failed = _tell(report.offences)
    return [*lines, ""], failed or int(report.failed)


def _secrets(quick: bool, workers: int, output: Path) -> tuple[list[str], int]:
    found = secrets.run(quick=quick)
    lines = ["| canary secrets: commands | files searched | secrets found |", "|---:|---:|---:|"]
    lines.append(f"| {found.tried} | {found.files:,} | {len(found.found)} |")
    return [*lines, ""], _tell([*found.found, *found.unexpected])


def _tell(failures: Iterable[str]) -> int:
    lines = list(failures)
    for line in lines:
        print(f"FAULT {line}", file=sys.stderr)
    return len(lines)


if __name__ == "__main__":
    sys.exit(main())
