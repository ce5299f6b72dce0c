"""Several sources in one training: how often each is drawn, under which prefixes, and which of its rows meet."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from e5ft.data.rows import Columns
from e5ft.data.sampler import DealtSteps
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError, DataError

_NAME = re.compile(r"\w[\w.\-]*")


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of a mix.

    Attributes:
        name: of the source, in messages and logs.
        train_file: a file or a hub data set's name.
        columns: names in that file.
        split: of a hub data set.
        weight: factor on how often the source is drawn, above 0.
        cap: at most so many of its rows, a seeded choice; None for all.
        query_prefix, passage_prefix: of this source's training rows; None for the model's own.
    """

    name: str
    train_file: str
    columns: Columns
    split: str = "train"
    weight: float = 1.0
    cap: int | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None

    def __post_init__(self):
        place = f"data.sources.{self.name}"
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"{place}: letters, digits, '-', '_' and '.' only in the name of a source")
        if not isinstance(self.train_file, str) or not self.train_file:
            raise ConfigurationError(f"{place}.train_file={self.train_file!r}: a file or a hub data set's name is needed")
        if not _above_zero(self.weight):
            raise ConfigurationError(f"{place}.weight={self.weight!r}: a number above 0 is needed; leave the source out instead")
        if self.cap is not None and (not isinstance(self.cap, int) or isinstance(self.cap, bool) or self.cap < 1):
            raise ConfigurationError(f"{place}.cap={self.cap!r}: a whole number of rows, at least 1, or null for all")
        for field in ("query_prefix", "passage_prefix"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{place}.{field}={value!r}: a string ('' for none), or null for the model's own")

    def text(self, text: TextSpec) -> TextSpec:
        """The model's contract with this source's prefixes."""
        given = {"query_prefix": self.query_prefix, "passage_prefix": self.passage_prefix}
        return dataclasses.replace(text, **{field: value for field, value in given.items() if value is not None})


@dataclasses.dataclass(frozen=True)
class Mix:
    """Which sources are mixed, and how.

    Attributes:
        sources: at least one, in the order in which the rows' column `source` counts them.
        temperature: above 0; 1 draws in proportion to the rows, a higher one draws small sources more often.
        one_source: every step holds rows of one source; False: rows of all sources meet in a step.
    """

    sources: tuple[Source, ...]
    temperature: float = 1.0
    one_source: bool = True

    def __post_init__(self):
        if not self.sources:
            raise ConfigurationError(
                "data.sources is empty: data=mix needs at least one, for instance 'data.sources={laws: {train_file: laws.jsonl}}'"
            )
        if not _above_zero(self.temperature):
            raise ConfigurationError(f"data.mix.temperature={self.temperature!r}: a number above 0 is needed (1: by rows alone)")
        if not isinstance(self.one_source, bool):
            raise ConfigurationError(f"data.mix.one_source={self.one_source!r}: true or false is needed")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, in order."""
        return tuple(source.name for source in self.sources)

    def shares(self, rows: Sequence[int]) -> np.ndarray:
        """How often each source is drawn: p_i in proportion to weight_i * rows_i ** (1 / temperature).

        Args:
            rows: number of rows of each source.

        Returns:
            (sources,) float64 that sum to 1.

        Source: Arivazhagan et al. 2019, Massively Multilingual Neural Machine Translation in the Wild, section 4
        (p_l ** (1 / T)); the same as alpha = 1 / T of XLM-R (Conneau et al. 2020) and mT5 (Xue et al. 2021), both
        alpha = 0.3. The weight stands outside the power, so that 2 means twice as often at any temperature.
        """
        weights = np.array([source.weight for source in self.sources])
        # Divided by the largest, so that a temperature near 0 overflows nothing.
        smoothed = weights * (np.asarray(rows) / max(rows)) ** (1 / self.temperature)
        return smoothed / smoothed.sum()

    def definition(self) -> dict:
        """What of it makes a training what it is, as plain values (files and caps: the digest of the rows)."""
        sources = {s.name: [s.weight, s.query_prefix, s.passage_prefix] for s in self.sources}
        return {"temperature": self.temperature, "one_source": self.one_source, "sources": sources}


class MixSampler(DealtSteps):
    """Whole steps from several sources; see `DealtSteps` for how a step is dealt out.

    In every epoch each source gets its share of the steps, or of the rows where sources meet in a step, up to one: a
    systematic sample (one random offset, equal distances) whose expectation is the share itself. No row of a source comes
    again before all of its rows have been shown, over the epochs too; an epoch has as many steps as all rows would fill.
    With one source a step no row stands twice in a step; where sources meet, one may, at the turn of a small source, and
    the identity masks keep it from being its own negative.

    Args:
        sources: (rows,) int, the source of each row.
        mix: how they are mixed.
        micro_batch, accumulation, world_size, rank: as for `DealtSteps`.
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
        seed: int = 0,
    ):
        super().__init__(len(sources), micro_batch, accumulation, world_size=world_size, rank=rank)
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


def _above_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
