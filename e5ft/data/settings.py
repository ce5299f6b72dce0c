"""Settings of rows, of sources that are mixed, and of what is evaluated on which data."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.settings import FilePath, Settings, SplitName, Word, build, number, whole

# Of rows; what each means: e5ft.data.layouts.
RowFormat = Literal[
    "auto",
    "standard",
    "named",
    "sentence_transformers",
    "labelled",
    "flagembedding",
    "tevatron",
    "simlm",
    "dpr",
    "msmarco",
    "clicks",
]
Noise = Literal["no_spaces", "nfd", "typos", "lower_case"]  # of queries: e5ft.data.noise
_NAME = re.compile(r"\w[\w.\-]*")


@dataclasses.dataclass(frozen=True)
class Columns(Settings):
    """Names of the columns in the user's file; None: the format's (`e5ft.data.layouts`).

    Attributes:
        query: one string.
        document: a string or a list of strings, each a passage that answers the query.
        hard_negative: a string, a list, null, or no such column at all; several names: their passages end to end.
        scores: a list of a teacher's scores, one for each document and then one for each hard negative; null, or no such
            column at all.
        ignore: columns that may be there and are not read; any other unknown column is a fault, since a misspelt
            `hard_negatives` would otherwise train without them.
    """

    PATH: ClassVar[str] = "data.columns"
    query: Word | None = None
    document: Word | None = None
    hard_negative: Word | tuple[Word, ...] | None = None
    scores: Word | None = None
    ignore: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse one name for two columns."""
        negatives = self.hard_negative if isinstance(self.hard_negative, tuple) else (self.hard_negative,)
        names = [name for name in (self.query, self.document, *negatives, self.scores) if name is not None]
        if len(set(names)) != len(names):
            raise ConfigurationError(
                f"data.columns: query, document, hard_negative and scores must have different names, not {tuple(names)}"
            )

    @property
    def mapped(self) -> bool:
        """Whether the query's or the document's column is named, so that none is found by its name alone."""
        return (self.query, self.document) != (None, None)


@dataclasses.dataclass(frozen=True)
class Augment(Settings):
    """Noise in training queries. (NFD is none for a model that reads NFC: both are the same tokens.)

    Attributes:
        share: of the distinct queries that are noised in an epoch.
        kinds: of noise, each as likely.
    """

    PATH: ClassVar[str] = "data.augment"
    share: number(least=0, most=1) = 0.0
    kinds: tuple[Literal["no_spaces", "typos", "lower_case"], ...] = ("no_spaces", "typos")

    def check(self) -> None:
        """Refuse a share of nothing, and a kind that is named twice."""
        if (self.share and not self.kinds) or len(set(self.kinds)) != len(self.kinds):
            self.refuse("kinds", "must be a list of at least one, each once, as [no_spaces,typos]")


@dataclasses.dataclass(frozen=True)
class Reading(Settings):
    """How rows are read, beyond the names of their columns.

    Attributes:
        format: of the rows; "auto": found by the names of the columns.
        split, config: of a hub data set, from the hub or in a folder; `config` is also the sheet of an Excel file.
        revision: of a hub data set.
        encoding: of text files; None: UTF-8, or what a byte order mark says.
        corpus_file: passages that rows name by id.
    """

    PATH: ClassVar[str] = "data"
    format: RowFormat = "auto"
    split: Word = "train"
    config: Word | None = None
    revision: Word | None = None
    encoding: Word | None = None
    corpus_file: FilePath | None = None

    @property
    def reading(self) -> "Reading":
        """How its rows are read, of settings that say more than that."""
        return Reading(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Reading)})


AS_IS = Reading()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(Reading):
    """One source of a mix, and how it is read.

    Attributes:
        name: of the source, in messages and logs.
        train_file: as `data.train_file`.
        columns: names in that file.
        weight: factor on how often the source is drawn.
        cap: at most so many of its rows, a seeded choice; None for all.
        query_prefix, passage_prefix: of this source's training rows; None for the model's own.
    """

    PATH: ClassVar[str] = "data.sources.NAME"
    name: str
    train_file: FilePath | tuple[FilePath, ...]
    columns: Columns
    weight: number(above=0) = 1.0
    cap: whole(1) | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None

    def check(self) -> None:
        """Refuse a name that no log line or folder could carry."""
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"data.sources.{self.name}: must be letters, digits, '-', '_' and '.' only")

    def text(self, text: TextSpec) -> TextSpec:
        """The model's text format with this source's prefixes."""
        prefixes = {"query_prefix": self.query_prefix, "passage_prefix": self.passage_prefix}
        return dataclasses.replace(text, **{field: value for field, value in prefixes.items() if value is not None})


@dataclasses.dataclass(frozen=True)
class Mix(Settings):
    """Which sources are mixed, and how.

    Attributes:
        sources: at least one, in the order in which the rows' column `source` counts them.
        temperature: 1 draws in proportion to the rows, a higher one draws small sources more often.
        one_source: every step holds rows of one source; False: rows of all sources meet in a step.
    """

    PATH: ClassVar[str] = "data.mix"
    sources: tuple[Source, ...]
    temperature: number(above=0) = 1.0
    one_source: bool = True

    def check(self) -> None:
        """Refuse a mix of nothing."""
        if not self.sources:
            raise ConfigurationError(
                "data.sources: must name at least one source, for instance 'data.sources={laws: {train_file: laws.jsonl}}'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources, in order."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Reading):
    """The `data` group: rows and how they are read, the dev set, evaluation sets.

    What they mean together: `e5ft.app.settings.plan`.

    Attributes:
        train_file: rows, of one file or several; None: the shipped sample, or the sources of `mix`.
        columns: names in the file.
        on_bad_row: whether faulty rows stop the run or are left out and counted.
        max_train_rows: a seeded choice of so many rows; None: all.
        negatives_per_query: hard negatives of a row in one epoch, rotated over the epochs; None: all.
        dev_file: rows that choose the best checkpoint.
        dev_share: of the rows, where neither `dev_file` nor a dev split is there.
        eval_dir, eval_split: the evaluation set in BEIR's layout, and which judgements of it.
        keep_dir: evaluation folders whose scores training must not lower.
        eval_corpus_size: passages ranked while training.
        mix: sources that are mixed; None: one source.
        augment: noise in the training queries.
    """

    PATH: ClassVar[str] = "data"
    train_file: FilePath | tuple[FilePath, ...] | None
    columns: Columns
    on_bad_row: Literal["fail", "skip"]
    max_train_rows: whole(1) | None
    negatives_per_query: whole(0) | None
    dev_file: FilePath | tuple[FilePath, ...] | None
    dev_share: number(above=0, most=0.5)
    eval_dir: FilePath | None
    eval_split: SplitName
    keep_dir: tuple[FilePath, ...] | FilePath | None
    eval_corpus_size: Literal["auto"] | whole(1)
    mix: Mix | None = None
    augment: Augment = Augment()

    def with_standard_rows(self, train_file: str, dev_file: str | None) -> "DataSettings":
        """The same settings for rows that e5ft wrote itself, in JSON lines under the standard names; the passages stay as they are."""
        encoding = None if self.corpus_file is None else self.encoding  # of the rows, too: UTF-8 beyond ASCII knows better
        reading = dataclasses.asdict(Reading(corpus_file=self.corpus_file, encoding=encoding))
        return dataclasses.replace(self, train_file=train_file, dev_file=dev_file, columns=Columns(), **reading)

    def check(self) -> None:
        """Make `keep_dir` a tuple, and refuse a file beside the sources of a mix."""
        folders = self.keep_dir
        object.__setattr__(self, "keep_dir", (folders,) if isinstance(folders, str) else tuple(folders or ()))
        if self.mix is not None and self.train_file is not None:
            self.refuse("train_file", "must be null with data=mix, where every file is a source: 'data.sources={NAME: FILE}'")


def data_settings(values: Mapping[str, Any]) -> DataSettings:
    """The `data` group as settings; the sources of a mix are named in `data.sources`.

    Raises:
        ConfigurationError: a field is unknown, or has a value that it cannot have.
    """
    values = dict(values)
    if "mix" not in values:
        return build(DataSettings, values)
    sources, common = values.pop("sources", None) or {}, values.get("columns")
    build(Columns, common)  # before any source is refused for what is wrong in all
    if not isinstance(sources, Mapping):
        raise ConfigurationError(f"data.sources={sources!r}: must be names and files, {{NAME: FILE}}")
    made = tuple(_source(str(name), given, common) for name, given in sources.items())
    mix = values.pop("mix")
    mix = build(Mix, {**mix, "sources": made} if isinstance(mix, Mapping) else mix)
    return dataclasses.replace(build(DataSettings, values), mix=mix)


def _source(name: str, given: object, common: Mapping[str, Any]) -> Source:
    fields = dict(given) if isinstance(given, Mapping) else {"train_file": given}
    columns = fields.pop("columns", None) or {}
    path = f"data.sources.{name}"
    mapped = build(Columns, {**common, **columns} if isinstance(columns, Mapping) else columns, f"{path}.columns")
    return build(Source, {"name": name, "columns": mapped, **fields}, path)
