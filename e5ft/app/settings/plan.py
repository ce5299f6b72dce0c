"""Which rows are trained on, which choose the best checkpoint, what is evaluated, and what must never become a negative.

Training, mining, rounds and the checks before a run all ask here: were one of them to answer otherwise, dev documents would
silently become training negatives.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e5ft.app.settings.build import shipped
from e5ft.data.settings import Columns, DataSettings, Mix
from e5ft.errors import ConfigurationError
from e5ft.retrieval.beir import check_layout, has_split, set_folder

if TYPE_CHECKING:
    from e5ft.data.remote import Fetched

SAMPLE_ROWS, SAMPLE_EVALUATION = "data/sample/train.jsonl", "data/sample/eval"  # for `shipped`
SAMPLE_NAME = "the shipped sample"
DEV_SPLIT = "dev"


@dataclasses.dataclass(frozen=True)
class RowsFile:
    """Rows to read.

    Attributes:
        file: a path, a URL or a hub data set's name.
        columns: names in it.
        split: of a hub data set.
    """

    file: str
    columns: Columns
    split: str = "train"


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Where everything comes from. Exactly one of `dev_file`, `dev_split` and `dev_share` says how the dev set is made.

    Attributes:
        sources: one, or those of `mix`; none where mine.py reads rows_dir.
        mix: how the sources are mixed; None where there is one.
        dev_file: rows that are the dev set.
        dev_split: whether the dev set is a split of the evaluation folder.
        dev_share: of the rows, set aside by the seed; None where the dev set comes from elsewhere.
        evaluation: the folder of the target set in BEIR's layout; None: the dev set is the target, too.
        keep: further folders, whose scores training must not lower.
        split: the judgements of `evaluation` and `keep`.
        is_sample: whether the rows are the shipped sample's.
        name: of the rows, in messages.
        seed: of the share, and of a limit of rows.
    """

    sources: tuple[RowsFile, ...]
    mix: Mix | None
    dev_file: RowsFile | None
    dev_split: bool
    dev_share: float | None
    evaluation: "Path | Fetched | None"
    keep: "tuple[Path | Fetched, ...]"
    split: str
    is_sample: bool
    name: str
    seed: int

    @property
    def dev_is_test(self) -> bool:
        """Whether the figures before and after are of the queries that choose the checkpoint, and a little optimistic."""
        return self.evaluation is None or (self.dev_split and self.split == DEV_SPLIT)


def plan(settings: Any) -> DataPlan:
    """Decide from the settings where everything comes from; rows are not read, but what names them must be there.

    Args:
        settings: of train.py or mine.py.

    Raises:
        ConfigurationError: settings that contradict each other.
        DataError: an evaluation folder, or its split, is not there.
    """
    data, cache = settings.data, Path(settings.cache_dir)
    rows_dir = getattr(settings, "rows_dir", None)
    if rows_dir is not None and data.train_file is not None:
        raise ConfigurationError("rows_dir and data.train_file: name one of the two")
    is_sample = data.train_file is None and data.mix is None and rows_dir is None
    sources = _sources(data, is_sample) if rows_dir is None else ()
    keep = tuple(checked_folder(folder, data.eval_split, cache) for folder in data.keep_dir)
    folder = data.eval_dir or (str(shipped(SAMPLE_EVALUATION)) if is_sample and data.dev_file is None else None)
    evaluation = None if folder is None else checked_folder(folder, data.eval_split, cache)
    dev_file = None if data.dev_file is None else RowsFile(data.dev_file, data.columns)
    dev_split = dev_file is None and evaluation is not None and has_split(evaluation, DEV_SPLIT)
    is_shared = dev_file is None and not dev_split and rows_dir is None
    name = SAMPLE_NAME if is_sample else data.train_file or (f"a mix of {', '.join(data.mix.names)}" if data.mix else rows_dir)
    return DataPlan(
        sources=sources,
        mix=data.mix,
        dev_file=dev_file,
        dev_split=dev_split,
        dev_share=data.dev_share if is_shared else None,
        evaluation=evaluation,
        keep=keep,
        split=data.eval_split,
        is_sample=is_sample,
        name=name,
        seed=settings.seed,
    )


def checked_folder(folder: str, split: str, cache: Path) -> "Path | Fetched":
    """An evaluation folder in BEIR's layout, fetched if it is a URL, and seen to hold the split.

    Raises:
        DataError: the folder, one of its files or its split is not there.
    """
    located = set_folder(folder, split, cache)
    check_layout(located, split)
    return located


def _sources(data: DataSettings, is_sample: bool) -> tuple[RowsFile, ...]:
    if data.mix is not None:
        return tuple(RowsFile(source.train_file, source.columns, source.split) for source in data.mix.sources)
    return (RowsFile(str(shipped(SAMPLE_ROWS)), Columns()) if is_sample else RowsFile(data.train_file, data.columns, data.split),)
