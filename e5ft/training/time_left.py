"""How long a training will still take: estimated before its first step, then measured."""

import hashlib
import math
import os
import tempfile
import time
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import TrainerCallback

from e5ft.modeling.compact import compacted
from e5ft.training.evaluation_cost import EvaluationPlan, steps_of
from e5ft.training.fitting import StepCost

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder
    from e5ft.training.trainer import ContrastiveTrainer

_LOADS = 4  # that the export's check by a library is worth: it reads the model and embeds probes, for both roles (docs/log.md)
_WRITTEN = 2**24  # bytes by which saving is measured


def time_left(
    trainer: "ContrastiveTrainer", cost: StepCost, evaluation: EvaluationPlan | None, end_tokens: float, load_seconds: float
) -> "TimeLeft":
    """Estimate how long a training takes.

    Args:
        trainer: before `train()`.
        cost: of its steps.
        evaluation: what is evaluated while training; None: nothing.
        end_tokens: tokens that are embedded after training.
        load_seconds: to read the model, which the export does again.
    """
    args, epoch_steps = trainer.args, trainer.make_sampler().steps
    steps, speed = steps_of(args, epoch_steps), cost.encoded_per_second * args.world_size
    weights, trained = saved_weights(trainer.model)
    saving = _seconds_a_byte(Path(args.output_dir))
    seconds, every, base = {"step": cost.seconds}, {}, 0.0
    if evaluation is not None:
        seconds["evaluation"], every["evaluation"] = evaluation.tokens / speed, evaluation.every
        base = evaluation.base_tokens / speed
    between = {"steps": math.ceil(steps * args.save_steps) if args.save_steps < 1 else int(args.save_steps), "epoch": epoch_steps}
    if args.save_strategy.value in between:
        seconds["checkpoint"], every["checkpoint"] = saving * (4 * weights + 8 * trained), between[args.save_strategy.value]
    libraries = 1 + (util.find_spec("sentence_transformers") is not None)
    end = end_tokens / speed + _LOADS * libraries * load_seconds + saving * 4 * weights
    return TimeLeft(steps, seconds, every, base, end)


def saved_weights(encoder: "Encoder") -> tuple[int, int]:
    """Return how many numbers a checkpoint has of an encoder, a compact table's rest included, and how many are trained."""
    table = compacted(encoder)
    weights, trained = (sum(p.numel() for p in encoder.parameters() if p.requires_grad >= least) for least in (0, 1))
    return weights + (0 if table is None else table.rest.numel() - table.weight.numel()), trained


def _seconds_a_byte(folder: Path) -> float:
    """Measure how long a byte takes to be written, flushed and read; 0 where none can be."""
    data = np.random.default_rng(0).bytes(_WRITTEN)
    start = time.perf_counter()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            hashlib.file_digest(file, "sha256")
    except OSError:
        return 0.0
    return (time.perf_counter() - start) / _WRITTEN


class TimeLeft(TrainerCallback):
    """What is left of a run by its parts, from how long one of each takes.

    Before the first step these are the estimates given here. From then on they are means of what was measured; what was
    not measured yet is as much slower or faster than its estimate as the steps are.

    Args:
        steps: of the whole training.
        seconds: of one "step", one "evaluation" and one "checkpoint".
        every: steps from one evaluation, and from one checkpoint, to the next; absent where there is none. The last step has both.
        base: seconds of the evaluation before the first step; 0 where there is none.
        end: seconds of the scores after training, and of what is written then.
    """

    def __init__(self, steps: int, seconds: dict[str, float], every: dict[str, int], base: float = 0.0, end: float = 0.0):
        self.steps, self.estimates, self.every, self.base, self.end = steps, seconds, every, base, end
        self._spent, self._counts, self._mark = dict.fromkeys(seconds, 0.0), dict.fromkeys(seconds, 0), 0.0

    def parts(self, done: int, over: int) -> dict[str, float]:
        """Seconds left, by part.

        Args:
            done: steps that are over.
            over: steps that are over with their evaluation and checkpoint.
        """
        to_come = {name: max(0, -(-self.steps // every) - over // every) for name, every in self.every.items()}
        counts = {"step": self.steps - done, **to_come}
        slower = self._seconds("step") / self.estimates["step"] if self._counts["step"] else 1.0
        parts = {f"{name}s": count * self._seconds(name, slower) for name, count in counts.items()}
        if "evaluations" in parts and not done:
            parts["evaluations"] += self.base
        return {**parts, "scores after training": slower * self.end}

    def _seconds(self, name: str, slower: float = 1.0) -> float:
        return self._spent[name] / self._counts[name] if self._counts[name] else slower * self.estimates[name]

    def _over(self, name: str) -> None:
        now = time.monotonic()
        if name in self._spent:
            self._spent[name] += now - self._mark
            self._counts[name] += 1
        self._mark = now

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._mark = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Measure a step."""
        self._over("step")

    def on_evaluate(self, args, state, control, **kwargs):
        """Measure an evaluation; the base's is of another length."""
        self._over("evaluation" if state.global_step else "base")

    def on_save(self, args, state, control, **kwargs):
        """Measure a checkpoint."""
        self._over("checkpoint")
