"""Which rows meet in a step: a function of (seed, epoch, step) and nothing else."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from e5ft.errors import DataError

_WINDOW = 16  # steps that are sorted by length together: wide enough for even lengths, narrow enough to stay random


class DistributedStepSampler(Sampler):
    """Base of the samplers of whole steps: it assigns rows to processes and micro-batches. A subclass says what a step holds.

    Args:
        rows: number of training rows.
        micro_batch: rows of one forward pass on one process, B.
        accumulation: micro-batches of an optimizer step on one process, k.
        world_size, rank: processes, and which one this is.
        tokens: (rows,) tokens of each row. If given, a process's rows of a step are spread over its micro-batches so that
            these have similar numbers of tokens: the largest one determines the memory.

    Yields (from `__iter__`): lists of `(row, epoch)`, one list a micro-batch.

    Raises:
        DataError: fewer rows than one step.
    """

    def __init__(
        self,
        rows: int,
        micro_batch: int,
        accumulation: int = 1,
        *,
        world_size: int = 1,
        rank: int = 0,
        tokens: np.ndarray | None = None,
    ):
        self.rows, self.micro_batch, self.accumulation = rows, micro_batch, accumulation
        self.world_size, self.rank, self.tokens = world_size, rank, tokens
        self.step_rows = micro_batch * accumulation * world_size
        self.epoch = 0
        if rows < self.step_rows:
            raise DataError(f"{rows:,} training rows do not fill {self.one_step}")

    @property
    def one_step(self) -> str:
        """Description of a step and how to make it smaller, for messages."""
        fewer = "start fewer processes"
        if self.step_rows > self.world_size:
            fewer = "lower training.per_device_train_batch_size, or training.gradient_accumulation_steps=auto"
        return (
            f"one step of {self.step_rows:,} rows ({self.micro_batch} per device x {self.accumulation} accumulated x "
            f"{self.world_size} processes); {fewer}"
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.rows // self.step_rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for step in self.epoch_steps(epoch):
            # Reshaping keeps a step's rows the same however they are spread over processes and micro-batches.
            batches = step.reshape(self.accumulation, self.world_size, self.micro_batch)[:, self.rank]
            if self.tokens is not None:
                batches = balanced_partition(batches.ravel(), self.tokens, self.accumulation)
            for batch in batches:
                yield [(int(row), epoch) for row in batch]

    def epoch_steps(self, epoch: int) -> np.ndarray:
        """(steps, step_rows) row numbers of an epoch: a function of the sampler's arguments and the epoch alone."""
        raise NotImplementedError


class StepSampler(DistributedStepSampler):
    """A batch sampler that forms whole steps of rows and yields this process's micro-batches of them.

    Rows that do not fill a step are dropped for the epoch, so each step has the same number of negatives. Nothing is
    drawn from a global random state, so a resumed run sees what the uninterrupted one sees.

    Args:
        rows, micro_batch, accumulation, world_size, rank, tokens: as for `DistributedStepSampler`.
        seed: of the order.
        lengths: (rows,) tokens of each row. If given, rows of similar length meet in a step (training.group_by_length).
    """

    def __init__(
        self,
        rows: int,
        micro_batch: int,
        accumulation: int = 1,
        *,
        world_size: int = 1,
        rank: int = 0,
        tokens: np.ndarray | None = None,
        seed: int = 0,
        lengths: np.ndarray | None = None,
    ):
        super().__init__(rows, micro_batch, accumulation, world_size=world_size, rank=rank, tokens=tokens)
        self.seed, self.lengths = seed, lengths

    def epoch_steps(self, epoch: int) -> np.ndarray:
        """(steps, step_rows) row numbers of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.rows)[: self.steps * self.step_rows]
        if self.lengths is None:
            return order.reshape(self.steps, self.step_rows)
        window = _WINDOW * self.step_rows
        pieces = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([piece[np.argsort(self.lengths[piece], kind="stable")] for piece in pieces])
        return order.reshape(self.steps, self.step_rows)[generator.permutation(self.steps)]


def balanced_partition(rows: np.ndarray, tokens: np.ndarray, parts: int) -> np.ndarray:
    """Divide rows into parts of equal number and similar tokens: longest first, in serpentine order.

    If every row of one set is at most as long as the row of the same rank in another set, the largest part of the first
    has at most the tokens of the largest part of the second.

    Args:
        rows: (parts x B,) row numbers.
        tokens: tokens by row number.
        parts: number of parts.

    Returns:
        (parts, B) row numbers.
    """
    order = rows[np.argsort(-tokens[rows], kind="stable")].reshape(-1, parts)  # (B, parts)
    order[1::2] = order[1::2, ::-1].copy()
    return order.T
