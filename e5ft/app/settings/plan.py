"""Which files and folders a job reads, and where its dev set comes from: decided once, before any row is read.

Training, mining, rounds and the doctor share `plan`, so that what training takes as its dev set is what mining holds out.
"""

import dataclasses
import os
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from e5ft.app.settings.build import shipped
from e5ft.data.remote import Fetched, is_url
from e5ft.data.settings import Columns, DataSettings, Mix, Reading
from e5ft.data.shards import display, find_shards, stem
from e5ft.errors import ConfigurationError
from e5ft.retrieval.beir import set_folder
from e5ft.retrieval.layouts import LAYOUT, find_files, splits_of

SAMPLE_ROWS, SAMPLE_SET = shipped("data/sample/train.jsonl"), shipped("data/sample/eval")
SHIPPED_KEEP = shipped("data/six_languages")  # data.keep_dir=[six_languages]
DEV_SPLIT = "dev"


@dataclasses.dataclass(frozen=True)
class RowsFile:
    """A file, URL or hub data set of rows, or several files; `name` is that of a mix's source."""

    file: str | tuple[str, ...]
    columns: Columns
    reading: Reading
    name: str | None = None

    @property
    def is_standard(self) -> bool:
        """Whether no setting is needed to read them."""
        return self.columns == Columns() and self.reading == Reading(corpus_file=self.reading.corpus_file)


@dataclasses.dataclass(frozen=True)
class BeirSplit:
    """One split's judgements in a folder of BEIR's layout; a URL's folder has been fetched."""

    folder: Path | Fetched
    split: str

    @property
    def name(self) -> str:
        """The data set's name, not that of the folder `eval` that most keep theirs in: sample-test, ko-wiki-dev."""
        url = str(self.folder)
        path = PurePosixPath(url.partition("://")[2]) if is_url(url) else Path(os.path.abspath(self.folder))
        return f"{path.parent.name or path.name if path.name == 'eval' else path.name}-{self.split}"


@dataclasses.dataclass(frozen=True)
class DevShare:
    """The dev set is split off the rows: a share of them, above 0 and at most 0.5, chosen by the seed."""

    share: float
    seed: int


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """What a job reads.

    Attributes:
        sources: the rows: one source, or those of a mix; a BEIR folder where mining reads `rows_dir`.
        dev: where the set comes from that chooses the best checkpoint; None where mining reads a BEIR folder without one.
        evaluation: the set reported before and after training; None: the dev set.
        keep: sets whose scores training must not lower; none in mining, which measures nothing.
        mix: how the sources are mixed; None where there is one source.
        sample: whether the rows are the shipped sample.
        display_name: the rows' name in messages.
    """

    sources: tuple[RowsFile | BeirSplit, ...]
    dev: RowsFile | BeirSplit | DevShare | None
    evaluation: BeirSplit | None
    keep: tuple[BeirSplit, ...]
    mix: Mix | None
    sample: bool
    display_name: str

    @property
    def held_out(self) -> tuple[RowsFile | BeirSplit | DevShare, ...]:
        """What must never become a negative. A dev split's passages are those of the evaluation folder."""
        parts = (self.evaluation, None if isinstance(self.dev, BeirSplit) else self.dev)
        return tuple(part for part in parts if part is not None)

    @property
    def corpus_files(self) -> dict[str, str | None]:
        """The files of passages that the rows come with, each once, and their encoding."""
        readings = [source.reading for source in (*self.sources, self.dev) if isinstance(source, RowsFile)]
        return {reading.corpus_file: reading.encoding for reading in readings if reading.corpus_file is not None}

    @property
    def several_files(self) -> bool:
        """Whether several sources of rows are read, so that what is said of one must name it."""
        return sum(isinstance(part, RowsFile) for part in (*self.sources, self.dev)) > 1

    @property
    def dev_is_test(self) -> bool:
        """Whether the queries that choose the checkpoint are those that are reported: the scores are then optimistic."""
        return self.evaluation is None or self.evaluation == self.dev


def plan(settings: Any) -> DataPlan:
    """Decide what a job reads; folders and files are looked for and URLs of folders fetched, but no row is read.

    Args:
        settings: of train.py or mine.py; `rows_dir` and `rows_split` are mine.py's alone.

    Raises:
        ConfigurationError: settings that contradict each other, or two sets of one name.
        DataError: a file, a folder or its split does not exist.
    """
    data, rows_dir, cache = settings.data, getattr(settings, "rows_dir", None), Path(settings.cache_dir)
    if rows_dir is not None and data.train_file is not None:
        raise ConfigurationError("rows_dir and data.train_file: name one of the two")
    _refuse_a_file(data)
    sample = data.train_file is None and data.mix is None and rows_dir is None
    sources = row_files(settings) if rows_dir is None else (locate_set(rows_dir, settings.rows_split, cache),)
    folder = SAMPLE_SET if data.eval_dir is None and sample and data.dev_file is None else data.eval_dir
    evaluation = None if folder is None else locate_set(folder, data.eval_split, cache)
    if data.dev_file is not None:
        dev = RowsFile(data.dev_file, data.columns, data.reading)
    elif evaluation is not None and DEV_SPLIT in splits_of(evaluation.folder):
        dev = BeirSplit(evaluation.folder, DEV_SPLIT)
    else:
        dev = DevShare(data.dev_share, settings.seed) if rows_dir is None else None
    target = evaluation.name if evaluation is not None else "dev" if data.dev_file is None else stem(data.dev_file)
    keep = () if hasattr(settings, "rows_dir") else locate_keep_sets(data.keep_dir, data.eval_split, cache, target)
    for part in (*sources, dev):
        if isinstance(part, RowsFile):
            find_shards(part.file, part.reading)
    if rows_dir is not None:
        display_name = f"{rows_dir} ({settings.rows_split})"
    else:
        display_name = (
            "the shipped sample" if sample else f"a mix of {', '.join(data.mix.names)}" if data.mix else display(data.train_file)
        )
    return DataPlan(sources, dev, evaluation, keep, data.mix, sample, display_name)


def row_files(settings: Any) -> tuple[RowsFile, ...]:
    """The sources of `data.train_file` or of the mix; the shipped sample where neither is named."""
    data = settings.data
    if data.mix is not None:
        return tuple(RowsFile(source.train_file, source.columns, source.reading, source.name) for source in data.mix.sources)
    return (RowsFile(data.train_file or str(SAMPLE_ROWS), data.columns, data.reading),)


def evaluation_source(settings: Any) -> RowsFile | BeirSplit:
    """What eval.py ranks: data.eval_dir, or the rows of data.dev_file, or the sample's set where no rows are named.

    Raises:
        ConfigurationError: both are named, or only rows to train on.
    """
    data = settings.data
    if data.eval_dir is not None and data.dev_file is not None:
        raise ConfigurationError("data.eval_dir and data.dev_file: name one of the two")
    _refuse_a_file(data)
    if data.eval_dir is None and data.dev_file is None and (data.train_file is not None or data.mix is not None):
        raise ConfigurationError(
            "data.dev_file: must name your test questions, as rows in the same columns (or data.eval_dir=DIR a BEIR folder); "
            "the rows of data.train_file are only ranked"
        )
    if data.dev_file is not None:
        return RowsFile(data.dev_file, data.columns, data.reading)
    return locate_set(data.eval_dir or SAMPLE_SET, data.eval_split, Path(settings.cache_dir))


def _refuse_a_file(data: DataSettings) -> None:
    if data.eval_dir is not None and not is_url(data.eval_dir) and Path(data.eval_dir).is_file():
        remedy = shlex.join([f"data.dev_file={data.eval_dir}"])
        data.refuse("eval_dir", f"must be a folder of {LAYOUT}; rows of queries and documents: {remedy}")


def locate_set(folder: str | os.PathLike, split: str, cache: Path) -> BeirSplit:
    """A split of an evaluation folder, fetched if it is a URL.

    Raises:
        DataError: the folder, one of its files or the split does not exist.
    """
    located = set_folder(folder, split, cache)
    find_files(located, split)
    return BeirSplit(located, split)


def locate_keep_sets(folders: Iterable[str], split: str, cache: Path, target: str | None = None) -> tuple[BeirSplit, ...]:
    """The keep sets. Their names are keys of the summary and folders of the run.

    Args:
        folders: the value of data.keep_dir; "six_languages" is the set that ships, "./six_languages" a folder of the user's.
        split: the split of each; of the set that ships "test", where it is not "dev".
        cache: folder of the caches.
        target: name of the target set; None where there is none.

    Raises:
        ConfigurationError: two of them, or one and the target, have one name.
        DataError: a folder, one of its files or the split does not exist.
    """
    sets, taken = [], {target: "the target (data.eval_dir)"}
    for folder in folders:
        ours = folder == SHIPPED_KEEP.name
        located = BeirSplit(SHIPPED_KEEP, split if split == DEV_SPLIT else "test") if ours else locate_set(folder, split, cache)
        if located.name in taken:
            raise ConfigurationError(
                f"data.keep_dir={folder}: it would be named {located.name}, as {taken[located.name]} is; "
                "name a set once, and give one of two folders another name (a link to it will do)"
                + "; E5's recipes name this one: data.keep_dir=[] leaves it out"
                * ours
            )
        taken[located.name] = folder
        sets.append(located)
    return tuple(sets)
