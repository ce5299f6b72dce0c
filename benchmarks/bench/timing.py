"""Functions timed in turn."""

import time
from collections.abc import Callable, Mapping


def in_turns(contenders: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Call each once to warm up and then all in turn, the order reversed every time.

    Returns:
        {"wall", "cpu"}: contender -> seconds of each repetition; CPU seconds of all threads.
    """
    for call in contenders.values():
        call()
    times = {kind: {name: [] for name in contenders} for kind in ("wall", "cpu")}
    for repetition in range(repetitions):
        names = list(contenders)
        for name in names if repetition % 2 == 0 else reversed(names):
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            times["wall"][name].append(time.perf_counter() - wall)
            times["cpu"][name].append(time.process_time() - cpu)
    return times
