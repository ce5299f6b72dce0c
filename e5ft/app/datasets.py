"""From the `data` group to rows, a dev set and evaluation sets."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from omegaconf import DictConfig, OmegaConf

from e5ft.app.configuration import PROJECT
from e5ft.data.remote import Fetched, is_url
from e5ft.data.settings import Columns
from e5ft.data.sources import join_rows
from e5ft.data.settings import Mix, Source
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, load_rows
from e5ft.errors import ConfigurationError
from e5ft.retrieval.beir import check_layout, has_split, set_folder
from e5ft.retrieval.sets import RetrievalSet, from_rows, load_beir

SAMPLE = PROJECT / "data" / "sample"
DEV_SPLIT = "dev"
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training run needs.

    Attributes:
        train: the training rows.
        dev: the set that chooses the best checkpoint; `planned_dev` bounds it.
        test: the set reported before and after, whole.
        keep: further sets reported before and after, whole: what training should not cost.
        chosen_on_test: whether dev and test are the same queries, so that the report says its scores are optimistic.
        sample: whether this is the shipped sample.
        label: the source, for people.
        read, rejected: rows read and not accepted.
        mix: how the sources of `train` are mixed; None where there is one source.
    """

    train: RowStore
    dev: RetrievalSet
    test: RetrievalSet
    keep: tuple[RetrievalSet, ...]
    chosen_on_test: bool
    sample: bool
    label: str
    read: int
    rejected: int
    mix: Mix | None = None


def load_training_data(config: DictConfig) -> TrainingData:
    """Rows and sets as the `data` group says; a dev set is split off when nothing else gives one."""
    data, cache = config.data, Path(config.cache_dir)
    mix = mix_of(config)
    sample = data.train_file is None and mix is None
    source = str(SAMPLE / "train.jsonl") if sample else data.train_file
    folders = keep_folders(data.keep_dir, data.eval_split, cache)  # before the rows are read, which may take minutes
    eval_dir = data.eval_dir or (str(SAMPLE / "eval") if sample and data.dev_file is None else None)
    if eval_dir is not None:
        eval_dir = set_folder(eval_dir, data.eval_split, cache)
    if mix is None:
        rows = load_rows(source, columns(data), cache, on_bad_row=data.on_bad_row, split=data.split)
    else:
        rows = _mixed(mix, config)
        source = f"a mix of {', '.join(mix.names)}"
    read, rejected = rows.read, rows.rejected
    rows = _limit(rows, data.max_train_rows, config.seed)
    if data.dev_file is not None:
        dev = from_rows(Path(data.dev_file).stem, load_rows(data.dev_file, columns(data), cache, on_bad_row=data.on_bad_row))
    elif eval_dir is not None and has_split(eval_dir, DEV_SPLIT):
        dev = load_set(eval_dir, DEV_SPLIT)
    else:
        rows, held_out = split_rows(rows, data.dev_share, config.seed)
        dev = from_rows("dev", held_out)
    test = dev if eval_dir is None else load_set(eval_dir, data.eval_split)
    same = eval_dir is None or (data.dev_file is None and data.eval_split == DEV_SPLIT)
    keep = load_keep_sets(folders, data.eval_split, test)
    label = "the shipped sample" if sample else source
    return TrainingData(rows, dev, test, keep, same, sample, label, read, rejected, mix)


def load_evaluation_set(config: DictConfig) -> RetrievalSet:
    """The set that eval.py ranks: data.eval_dir, or the rows of data.dev_file, or the sample's."""
    data, cache = config.data, Path(config.cache_dir)
    if data.eval_dir is not None and data.dev_file is not None:
        raise ConfigurationError("data.eval_dir and data.dev_file: name one of the two")
    if data.dev_file is not None:
        return from_rows(Path(data.dev_file).stem, load_rows(data.dev_file, columns(data), cache, on_bad_row=data.on_bad_row))
    return load_set(set_folder(data.eval_dir or SAMPLE / "eval", data.eval_split, cache), data.eval_split)


def keep_folders(given: object, split: str, cache: Path, field: str = "data.keep_dir") -> list[Path | Fetched]:
    """A list of folders, or one, or none, each fetched if it is a URL, and checked to hold an evaluation set with this split.

    Args:
        given: the value of the configuration's `field`.
        split: the judgements that are to be there.
        cache: folder of the caches.

    Raises:
        ConfigurationError: these are no names of folders.
        DataError: a folder, or its split, is not there.
    """
    folders = [] if given is None else list(given) if OmegaConf.is_list(given) or isinstance(given, list) else [given]
    for folder in folders:
        if not isinstance(folder, str) or not folder:
            raise ConfigurationError(
                f"{field}={given}: names of folders are needed; data.keep_dir=[DIR,DIR] takes several, [] none"
            )
    located = [set_folder(folder, split, cache) for folder in folders]
    for folder in located:
        check_layout(folder, split)
    return located


def load_keep_sets(folders: Sequence[Path | Fetched], split: str, target: RetrievalSet) -> tuple[RetrievalSet, ...]:
    """The sets of `keep_folders`. Their names are keys of the summary and folders of the run, so that no two may be equal.

    Raises:
        ConfigurationError: two of them, or one and the target, have one name.
        DataError: a file is faulty.
    """
    named = {target.name: "the target (data.eval_dir)"}
    for folder in folders:
        name = beir_name(folder, split)
        if name in named:
            raise ConfigurationError(
                f"data.keep_dir={folder}: it would be named {name}, as {named[name]} is; "
                "name a set once, and give one of two folders another name (a link to it will do)"
            )
        named[name] = folder
    return tuple(load_set(folder, split) for folder in folders)


def columns(data: DictConfig) -> Columns:
    """The column mapping of the `data` group."""
    values = OmegaConf.to_container(data.columns, resolve=True)
    return Columns(**{**values, "ignore": tuple(values["ignore"])})


def beir_name(folder: Path | Fetched, split: str) -> str:
    """The data set's name, not that of the folder `eval` that most keep theirs in: sample-test, ko-wiki-dev."""
    path = PurePosixPath(str(folder).partition("://")[2]) if is_url(str(folder)) else Path(os.path.abspath(folder))
    return f"{path.parent.name or path.name if path.name == 'eval' else path.name}-{split}"


def load_set(folder: Path | Fetched, split: str) -> RetrievalSet:
    """One folder in BEIR's layout, as `set_folder` gave it, whole."""
    place = folder if isinstance(folder, Fetched) else folder.absolute()
    return load_beir(place, split, name=beir_name(folder, split))


def mix_of(config: DictConfig) -> Mix | None:
    """What data=mix says; None for any other option of the group.

    Raises:
        ConfigurationError: no source, an unknown field, a value out of range, or a data.train_file beside the sources.
    """
    data = OmegaConf.to_container(config.data, resolve=True)
    if "mix" not in data:
        return None
    if data["train_file"] is not None:
        raise ConfigurationError(
            f"data.train_file={data['train_file']}: with data=mix every file is a source: 'data.sources={{NAME: FILE}}'"
        )
    if data["sources"] is not None and not isinstance(data["sources"], dict):
        raise ConfigurationError(f"data.sources={data['sources']!r}: names and files are needed, {{NAME: FILE}}")
    sources = tuple(_source(str(name), given, data["columns"]) for name, given in (data["sources"] or {}).items())
    _check_fields("data.mix", data["mix"], {"temperature", "one_source"})
    return Mix(sources, **data["mix"])


def _source(name: str, given: object, common: dict) -> Source:
    place = f"data.sources.{name}"
    given = {"train_file": given} if not isinstance(given, dict) else dict(given)
    fields = {field.name for field in dataclasses.fields(Source)} - {"name"}
    _check_fields(place, given, fields)
    own = given.pop("columns", None) or {}
    _check_fields(f"{place}.columns", own, set(common))
    mapping = {**common, **own}
    return Source(name, given.pop("train_file", None), Columns(**{**mapping, "ignore": tuple(mapping["ignore"])}), **given)


def _check_fields(place: str, given: object, known: set[str]) -> None:
    if not isinstance(given, dict):
        raise ConfigurationError(f"{place}={given!r}: fields are needed ({', '.join(sorted(known))})")
    for field in given:
        if field not in known:
            raise ConfigurationError(f"{place}.{field}={given[field]!r}: no such field; there are {', '.join(sorted(known))}")


def _mixed(mix: Mix, config: DictConfig) -> RowStore:
    """The rows of all sources, each capped by a seeded choice."""
    stores = [
        load_rows(s.train_file, s.columns, Path(config.cache_dir), on_bad_row=config.data.on_bad_row, split=s.split)
        for s in mix.sources
    ]
    return join_rows(mix, stores, config.seed)


def _limit(rows: RowStore, limit: int | None, seed: int) -> RowStore:
    if limit is None or limit >= len(rows.rows):
        return rows
    if limit < 1:
        raise ConfigurationError(f"data.max_train_rows={limit}: at least 1, or null for all")
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows.rows))[:limit]))
