"""Several faults at a time: processes that import everything once, and fork a child for every run."""

import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.chaos import children, damage, kills

_laboratory: kills.Laboratory | None = None


def in_workers(function: Callable, wanted: Sequence[tuple], workers: int, folder: Path) -> Iterator:
    """The results of `try_fault` or `try_damage` for each of `wanted`, in order; progress is printed.

    Args:
        function: one of the two.
        wanted: their arguments.
        workers: processes.
        folder: each has a laboratory of its own below it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (str(folder),)) as pool:
        start = time.monotonic()
        for number, result in enumerate(pool.map(function, wanted), start=1):
            if number % 10 == 0 or number == len(wanted):
                print(f"[{time.monotonic() - start:5.0f} s] {number} of {len(wanted)}", flush=True)
            yield result


def _begin(folder: str) -> None:
    global _laboratory
    children.warm_up()
    _laboratory = kills.Laboratory(Path(folder) / multiprocessing.current_process().name)


def try_fault(given: tuple) -> kills.Outcome:
    """In a worker: (setting, fault)."""
    return _laboratory.try_out(*given)


def try_damage(given: tuple) -> damage.Damage:
    """In a worker: (setting, kind)."""
    return damage.try_out(_laboratory, *given)


def hostile_inputs(count: int, folder: Path):
    """The report of `tests.chaos.inputs`, from a process of its own that has imported everything before it forks."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), children.warm_up) as pool:
        return pool.submit(_hostile_inputs, count, folder).result()


def _hostile_inputs(count: int, folder: Path):
    from tests.chaos import inputs

    return inputs.run(count, 1, folder)
