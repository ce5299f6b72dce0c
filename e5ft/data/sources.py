"""Several sources train one model: how often each is drawn, under which prefixes, and their rows end to end."""

import dataclasses
import math
import re
from collections.abc import Sequence

import datasets
import numpy as np

from e5ft.data.rows import Columns
from e5ft.data.store import RowStore, seeded_choice
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.files import digest_of

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
        """Return the model's text format with this source's prefixes."""
        prefixes = {"query_prefix": self.query_prefix, "passage_prefix": self.passage_prefix}
        return dataclasses.replace(text, **{field: prefix for field, prefix in prefixes.items() if prefix is not None})


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
        """The source names, in order."""
        return tuple(source.name for source in self.sources)

    def shares(self, rows: Sequence[int]) -> np.ndarray:
        """Return how often each source is drawn: p_i in proportion to weight_i * rows_i ** (1 / temperature).

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
        """Return what of the mix makes a training what it is, as plain values (files and caps are in the digest of the rows)."""
        sources = {s.name: [s.weight, s.query_prefix, s.passage_prefix] for s in self.sources}
        return {"temperature": self.temperature, "one_source": self.one_source, "sources": sources}


def join_rows(mix: Mix, stores: Sequence[RowStore], seed: int) -> RowStore:
    """Join the rows of several sources end to end, still memory-mapped, with a column `source` that says which one.

    Args:
        mix: its sources' names and caps.
        stores: of each source, as `load_rows` gave it.
        seed: of the choice of a capped source's rows.

    Returns:
        One store. Its `source` names the sources, its `files` say where each comes from.
    """
    parts, chosen, start = [], [], 0
    for number, (source, store) in enumerate(zip(mix.sources, stores, strict=True)):
        count = len(store.rows)
        parts.append(store.rows.add_column("source", np.full(count, number, dtype=np.int64)))
        chosen.append(start + seeded_choice(count, source.cap, [seed, number]))
        start += count
    rows = RowStore(
        datasets.concatenate_datasets(parts),
        " + ".join(mix.names),
        digest_of("mix", *(store.digest for store in stores)),
        sum(store.read for store in stores),
        sum(store.rejected for store in stores),
        tuple(fault for store in stores for fault in store.faults),
        tuple(store.source for store in stores),
    )
    # Chosen here and not before: a column cannot be added to a choice without writing all of it again.
    return rows.select(np.concatenate(chosen)) if any(source.cap is not None for source in mix.sources) else rows


def _above_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
