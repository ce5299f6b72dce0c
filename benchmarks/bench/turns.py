"""A clock inside a real training loop that hands over to the other contenders after every step."""

import resource
import time

from transformers import TrainerCallback

from benchmarks.bench.flops import wait
from benchmarks.bench.processes import hand_over

# First steps that are not timed: they touch memory for the first time, which costs a virtual machine up to 1.5 s a GB.
WARMUP = 2


class Clock(TrainerCallback):
    """Times whole steps after the first `WARMUP`, data loading included: from the turn's beginning, right after a step, to the end of the next.

    Attributes:
        wall, cpu, user: seconds of each timed step; CPU seconds of all threads, and those without the kernel's share.
        losses: those that the trainer logged, one a step.
    """

    def __init__(self):
        self.wall, self.cpu, self.user, self.losses = [], [], [], []
        self._start = (0.0, 0.0, 0.0)

    def on_train_begin(self, args, state, control, **kwargs):
        """Give the turn away: what came before was setting up."""
        self._pass_on()

    def on_step_end(self, args, state, control, **kwargs):
        """Note the step; give the turn away and take it again."""
        wait()
        now = _now()
        if state.global_step > WARMUP:
            self.wall.append(now[0] - self._start[0])
            self.cpu.append(now[1] - self._start[1])
            self.user.append(now[2] - self._start[2])
        self._pass_on()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep the losses."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def record(self) -> dict:
        """For JSON."""
        return {"wall": self.wall, "cpu": self.cpu, "user": self.user, "losses": self.losses}

    def _pass_on(self) -> None:
        hand_over()
        self._start = _now()


def _now() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
