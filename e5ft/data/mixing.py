"""Which rows of several sources meet in a step, and how often each source is drawn."""

import math

import numpy as np

from e5ft.data.sampler import DistributedStepSampler
from e5ft.data.settings import Mix
from e5ft.errors import DataError


class MixSampler(DistributedStepSampler):
    """Whole steps from several sources; see `DistributedStepSampler` for how a step is spread over processes.

    In every epoch each source gets its share of the steps, or of the rows where sources meet in a step, up to one: a
    systematic sample (one random offset, equal distances) whose expectation is the share itself. No row of a source comes
    again before all of its rows have been shown, over the epochs too; an epoch has as many steps as all rows would fill.
    With one source a step no row appears twice in a step; where sources meet, one may, at the turn of a small source, and
    the identity masks keep it from being its own negative.

    Args:
        sources: (rows,) int, the source of each row.
        mix: how they are mixed.
        micro_batch, accumulation, world_size, rank, tokens: as for `DistributedStepSampler`.
        seed: of the order.

    Raises:
        DataError: fewer rows than one step; a source without rows, or, with one source a step, with fewer than one step.

    Source: Madow 1949, On the Theory of Systematic Sampling II (unequal probabilities).
    """

    def __init__(
        self,
        sources: np.ndarray,
        mix: Mix,
        micro_batch: int,
        accumulation: int = 1,
        *,
        world_size: int = 1,
        rank: int = 0,
        tokens: np.ndarray | None = None,
        seed: int = 0,
    ):
        super().__init__(len(sources), micro_batch, accumulation, world_size=world_size, rank=rank, tokens=tokens)
        self.mix, self.seed = mix, seed
        self.source_rows = [np.flatnonzero(sources == number) for number in range(len(mix.sources))]
        self.unit = self.step_rows if mix.one_source else 1  # rows that are drawn from one source together
        for name, rows in zip(mix.names, self.source_rows, strict=True):
            if len(rows) == 0:
                raise DataError(f"data.sources.{name}: none of its rows is left for training; leave the source out")
            if len(rows) < self.unit:
                raise DataError(
                    f"data.sources.{name}: its {len(rows):,} training rows do not fill {self.one_step}, "
                    "or let sources meet in a step: data.mix.one_source=false"
                )
        self.shares = mix.shares([len(rows) for rows in self.source_rows])

    def epoch_steps(self, epoch: int) -> np.ndarray:
        """(steps, step_rows) row numbers of an epoch."""
        begin = sum((self._units(earlier) for earlier in range(epoch)), np.zeros(len(self.shares), dtype=np.int64))
        order = self._order(epoch)
        rows = np.empty((len(order), self.unit), dtype=np.int64)
        for source, (first, count) in enumerate(zip(begin, self._units(epoch), strict=True)):
            rows[order == source] = self._drawn(source, first * self.unit, count * self.unit).reshape(count, self.unit)
        return rows.reshape(self.steps, self.step_rows)

    def drawn_shares(self, steps: int) -> dict[str, float]:
        """Each source's share of the rows of the first `steps` steps of a training, on all processes together.

        From the plan, not from what this process saw: right for any number of processes and after a resume.
        """
        epoch, rest = divmod(steps, self.steps)
        begun = self._order(epoch)[: rest * self.step_rows // self.unit]
        units = sum((self._units(earlier) for earlier in range(epoch)), np.bincount(begun, minlength=len(self.shares)))
        return {name: float(share) for name, share in zip(self.mix.names, units / units.sum(), strict=True)}

    def _units(self, epoch: int) -> np.ndarray:
        """(sources,) int64: how many steps (or rows) of an epoch each source gets."""
        total = self.steps * self.step_rows // self.unit
        edges = np.minimum(np.cumsum(self.shares) * total, total)
        edges[-1] = total  # whatever the sum's last bits say
        offset = np.random.default_rng([self.seed, epoch]).random()
        return np.diff(np.ceil(edges - offset), prepend=0).astype(np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        """The source of each step (or row) of an epoch."""
        order = np.repeat(np.arange(len(self.shares)), self._units(epoch))
        return np.random.default_rng([self.seed, epoch, 1]).permutation(order)

    def _drawn(self, source: int, start: int, count: int) -> np.ndarray:
        """(count,) row numbers: a piece of the endless sequence of passes through a source."""
        rows = self.source_rows[source]
        first, last = start // len(rows), (start + count - 1) // len(rows)
        clean = self.unit // math.gcd(len(rows), self.unit)  # passes until one begins with a step again
        passes, order = [np.empty(0, dtype=np.int64)], None
        for number in range(first - first % clean, last + 1):
            order = self._pass(source, number, order)
            if number >= first:
                passes.append(order)
        return rows[np.concatenate(passes)[start - first * len(rows) :][:count]]

    def _pass(self, source: int, number: int, previous: np.ndarray | None) -> np.ndarray:
        """The order of one pass; a step that it shares with the previous pass holds no row of both."""
        size = len(self.source_rows[source])
        order = np.random.default_rng([self.seed, source, 2 + number]).permutation(size)
        begun = number * size % self.unit
        if begun:
            head = order[: self.unit]
            again = np.isin(head, previous[-begun:])
            order[: self.unit] = np.concatenate([head[~again], head[again]])
        return order
