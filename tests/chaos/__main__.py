"""`make chaos`: injected faults and hostile input, and a table of what came of them.

python -m tests.chaos [--quick] [--only kills damage silent inputs secrets] [--workers 2] [--output outputs/chaos]
python -m tests.chaos --only inputs --inputs rows --count 2000 --seed 7

Exit code 0 where every fault was survived, nothing was lost, nothing hung and every ending was acceptance or a refusal in words.
"""

import argparse
import concurrent.futures
import datetime
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.chaos import damage, inputs, kills, secrets, silent
from tests.chaos.forking import warm_up
from tests.chaos.report import table


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break it in every known way, and look.")
    parser.add_argument("--quick", action="store_true", help="every 40th fault, a share of the others; minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, default=2, help="processes that inject faults at the same time")
    parser.add_argument("--output", type=Path, default=Path("outputs/chaos"))
    parser.add_argument("--inputs", nargs="+", choices=inputs.PARTS, default=list(inputs.PARTS), help="kinds of hostile input")
    parser.add_argument("--count", type=int, help="hostile files of rows; of the other inputs a share (20000; 400 if --quick)")
    parser.add_argument("--seed", type=int, default=1, help="of the hostile inputs and of the quick choice")
    options = parser.parse_args()
    # Children that are killed leave semaphores to the tracker, which takes them away and would tell of each.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    output, start = options.output.resolve(), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    lines, offences = [], []
    for part in options.only:
        part_lines, part_offences = PARTS[part](options, output)
        lines += [*part_lines, ""]
        offences += part_offences
    minutes = (time.monotonic() - start) / 60
    command = "make chaos" + (f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else "")
    text = "\n".join([f"{datetime.date.today().isoformat()}, `{command}`, {minutes:.0f} min", "", *lines])
    (output / "chaos.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{output}/chaos.md", *(f"FAULT {line}" for line in offences), sep="\n")
    return int(bool(offences))


def _kills(options: argparse.Namespace, output: Path) -> tuple[list[str], list[str]]:
    chosen = list(kills.faults())[:: 40 if options.quick else 1]
    outcomes = list(_in_workers(kills.Laboratory.try_out, chosen, options.workers, output))
    killed = [outcome for outcome in outcomes if outcome.fault.kind == kills.KILL]
    points = {(outcome.fault.place.name, kills.phase(outcome.fault)) for outcome in killed}
    lines = [*_kinds(["fault", "injected", "survived", "bit-identical"], outcomes, lambda o: o.fault.kind), ""]
    lines += [f"{len(points)} kill points (place and phase), {len(killed)} kills; a cell: resumed bit-identical of killed.", ""]
    lines += [*_cells("place", killed, lambda o: o.fault.place.name, lambda o: kills.phase(o.fault)), ""]
    lines += _cells("setting", killed, lambda o: o.setting, lambda o: "kills")
    return lines, [f"{o.setting}: {o.fault.name}: {o.detail}" for o in outcomes if not o.identical]


def _kinds(head: list[str], outcomes: list[kills.Outcome], kind_of: Callable) -> list[str]:
    kinds = {kind: [o for o in outcomes if kind_of(o) == kind] for kind in map(kind_of, outcomes)}
    rows = ([kind, len(same), sum(o.survived for o in same), sum(o.identical for o in same)] for kind, same in kinds.items())
    return table(head, rows)


def _cells(head: str, outcomes: list[kills.Outcome], row_of: Callable, column_of: Callable) -> list[str]:
    order = [*kills.PHASES.values(), "kills"]
    columns, rows = sorted(set(map(column_of, outcomes)), key=order.index), []
    for row in dict.fromkeys(map(row_of, outcomes)):
        cells = [[o.identical for o in outcomes if (row_of(o), column_of(o)) == (row, column)] for column in columns]
        rows.append([row, *(f"{sum(cell)}/{len(cell)}" if cell else "" for cell in cells)])
    return table([head, *columns], rows)


def _damage(options: argparse.Namespace, output: Path) -> tuple[list[str], list[str]]:
    kinds = [*damage.KINDS, damage.EVERY]
    chosen = [(setting, kind) for setting in ("k = 1", "k = 4, sparse") for kind in kinds][:: 8 if options.quick else 1]
    outcomes = list(_in_workers(damage.try_out, chosen, options.workers, output))
    lines = _kinds(["damaged checkpoint", "tried", "named", "bit-identical after it"], outcomes, lambda o: o.fault)
    return lines, [f"{o.fault}: {o.detail}" for o in outcomes if not (o.survived and o.identical)]


def _silent(options: argparse.Namespace, output: Path) -> tuple[list[str], list[str]]:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=warm_up) as pool:
        outcomes = pool.submit(silent.run, output / "silent", options.seed, options.quick).result()
    return silent.lines(outcomes), [f"{o.kind}: {o.name}: {o.detail}" for o in outcomes if not o.noticed]


def _inputs(options: argparse.Namespace, output: Path) -> tuple[list[str], list[str]]:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=warm_up) as pool:
        count = options.count or (400 if options.quick else 20_000)
        report = pool.submit(inputs.run, count, options.seed, output / "inputs", options.inputs).result()
    return report.table(), report.offences


def _secrets(options: argparse.Namespace, output: Path) -> tuple[list[str], list[str]]:
    report = secrets.run(quick=options.quick)
    head = ["canary secrets: commands", "files searched", "secrets found"]
    return table(head, [[report.tried, f"{report.files:,}", len(report.leaks)]]), [*report.leaks, *report.unexpected]


PARTS = {"kills": _kills, "damage": _damage, "silent": _silent, "inputs": _inputs, "secrets": _secrets}


def _in_workers(function: Callable, arguments: Sequence[tuple], workers: int, output: Path) -> Iterator:
    """The results of a function of a laboratory for each tuple of arguments, in order; each worker has a laboratory of its own."""
    context, start = multiprocessing.get_context("spawn"), time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=warm_up) as pool:
        calls = pool.map(functools.partial(kills.in_laboratory, output / "runs", function), arguments)
        for number, result in enumerate(calls, start=1):
            if number % 10 == 0 or number == len(arguments):
                print(f"[{time.monotonic() - start:5.0f} s] {number} of {len(arguments)}", flush=True)
            yield result


if __name__ == "__main__":
    sys.exit(main())
