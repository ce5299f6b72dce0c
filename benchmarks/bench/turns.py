"""Contenders that take turns step by step, each in its own real training loop.

Every loop runs in a thread of its own and one at a time: at the end of a step it hands over and waits. So each pays for
warming up once, all meet the same state of the machine, and nothing of the loops is imitated.
"""

import threading
import time
from collections.abc import Callable, Mapping

from transformers import TrainerCallback


class Turns:
    """Who may run.

    Args:
        names: the contenders in their order.
    """

    def __init__(self, names):
        self.names, self.current, self.failure = list(names), 0, None
        self.changed = threading.Condition()

    def wait(self, name: str) -> None:
        """Return when it is this contender's turn."""
        with self.changed:
            self.changed.wait_for(lambda: self.failure is not None or self.names[self.current] == name)
        if self.failure is not None:
            raise RuntimeError("another contender failed") from self.failure

    def hand_over(self, failure: BaseException | None = None) -> None:
        """Let the next one run, or, with a failure, end all of them."""
        with self.changed:
            self.failure = self.failure or failure
            self.current = (self.current + 1) % len(self.names)
            self.changed.notify_all()


class Clock(TrainerCallback):
    """Times whole steps, data loading included: from the end of a step (the turn's beginning) to the end of the next.

    Attributes:
        wall, cpu: seconds of each step after the first `warmup` ones.
        losses: those that the trainer logged, one a step.
    """

    def __init__(self, name: str, turns: Turns, warmup: int):
        self.name, self.turns, self.warmup = name, turns, warmup
        self.wall, self.cpu, self.losses, self._start = [], [], [], None

    def on_step_end(self, args, state, control, **kwargs):
        """Note the step; give the turn away and take it again."""
        now = time.perf_counter(), time.process_time()
        if self._start is not None and state.global_step > self.warmup:
            self.wall.append(now[0] - self._start[0])
            self.cpu.append(now[1] - self._start[1])
        if state.global_step < state.max_steps:
            self.turns.hand_over()
            self.turns.wait(self.name)
        self._start = time.perf_counter(), time.process_time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep the losses."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def run_in_turns(makers: Mapping[str, Callable[[Clock], object]], warmup: int) -> dict[str, Clock]:
    """Train every contender's trainer, step by step in turn.

    Args:
        makers: name -> a function that builds a trainer with this callback; all must run the same number of steps.
        warmup: first steps that are not timed; at least 1.
    """
    turns = Turns(makers)
    clocks = {name: Clock(name, turns, warmup) for name in makers}
    trainers = {name: make(clocks[name]) for name, make in makers.items()}

    def run(name: str) -> None:
        try:
            turns.wait(name)
            trainers[name].train()
            turns.hand_over()
        except BaseException as error:  # handed to the main thread, which raises it
            turns.hand_over(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if turns.failure is not None:
        raise turns.failure
    return clocks
