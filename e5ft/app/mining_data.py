"""From mine.yaml to rows, candidates and held-out passages."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from e5ft.app.datasets import DEV_SPLIT, SAMPLE, columns
from e5ft.data.lines import BadLine, read_json_lines
from e5ft.data.remote import Fetched, is_url, local_file
from e5ft.data.rows import Row
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, load_rows
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import beir
from e5ft.retrieval.candidates import Problem, make_problem
from e5ft.retrieval.sets import load_beir

HELD_OUT = ("corpus", "judged")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Rows read from the source and not accepted, and passages held out."""

    read: int
    rejected: int
    held_out: int


@dataclasses.dataclass(frozen=True)
class MiningData:
    """What a mining job needs.

    Attributes:
        rows: to mine for, in the order of the problem's.
        problem: the same as numbers, with the candidates.
        label: the source, for people.
        held_out_label: where held-out passages come from; None: there are none.
        dropped: hard negatives that the rows had; the mined ones take their place.
        counts: of rows and passages.
    """

    rows: Iterable[Row]
    problem: Problem
    label: str
    held_out_label: str | None
    dropped: int
    counts: Counts


def load_mining_data(config: DictConfig) -> MiningData:
    """Rows, candidates and held-out passages as the configuration says.

    Raises:
        ConfigurationError: two sources of rows, a mix of them, or an unknown value of held_out.
        DataError: a file is faulty, or nothing is left to mine from.
    """
    if config.held_out not in HELD_OUT:
        raise ConfigurationError(f"held_out={config.held_out!r}: one of {', '.join(HELD_OUT)} is needed")
    _refuse_mix(config.data)
    cache = Path(config.cache_dir)
    corpus = None if config.corpus_file is None else read_corpus(local_file(config.corpus_file, cache))
    if config.rows_dir is not None:
        if config.data.train_file is not None:
            raise ConfigurationError("rows_dir and data.train_file: name one of the two")
        rows, own = _beir_rows(beir.set_folder(config.rows_dir, config.rows_split, cache), config.rows_split)
        everything, counts = rows, (len(rows), 0)
        corpus, label = own if corpus is None else corpus, f"{config.rows_dir} ({config.rows_split})"
    else:
        everything = load_rows(
            str(SAMPLE / "train.jsonl") if config.data.train_file is None else config.data.train_file,
            columns(config.data), cache, on_bad_row=config.data.on_bad_row, split=config.data.split,
        )  # fmt: skip
        counts = everything.read, everything.rejected
        rows, label = everything, "the shipped sample" if config.data.train_file is None else config.data.train_file
    rows = _limit(rows, config.data.max_train_rows, config.seed)
    held_out, names = _held_out(config)
    if isinstance(rows, RowStore) and _will_be_split(config):
        held_out |= _dev_documents(rows, config)
        names.append("the dev rows that train.py will set aside")
    problem = make_problem(rows, corpus, held_out, all_rows=everything)
    dropped = sum(len(row.negatives) for row in rows)
    return MiningData(rows, problem, label, " and ".join(names) or None, dropped, Counts(*counts, len(held_out)))


def _refuse_mix(data: DictConfig) -> None:
    """A mix has no train_file: without this, the shipped sample would be mined in its place."""
    if "mix" in data:
        raise ConfigurationError(
            f"data=mix (data.sources={data.sources}): mine.py reads one source; mine each with data.train_file=FILE and without "
            "data=mix, then name the mined files as the sources of train.py data=mix"
        )


def read_corpus(path: str | os.PathLike) -> Iterator[str]:
    """Texts of a .jsonl file of {"title" (may be absent), "text"}, as BEIR's corpus.jsonl; ids are not needed.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    for place, value in read_json_lines(path):
        try:
            if isinstance(value, BadLine):
                raise value
            yield beir.passage_text(place, value)
        except BadLine as fault:
            raise DataError(str(fault)) from None


def _beir_rows(folder: Path | Fetched, split: str) -> tuple[list[Row], Iterable[str]]:
    """A row for each query with a relevant passage, and the whole corpus."""
    found = load_beir(folder, split)
    place = found.passage_ids.positions_of(passage for judged in found.qrels.values() for passage in judged)
    rows = []
    for query_id, query in zip(found.query_ids, found.queries, strict=True):
        relevant = [passage for passage, relevance in found.qrels[query_id].items() if relevance > 0]
        if relevant:
            rows.append(Row(query, tuple(found.passages[place[passage]] for passage in relevant)))
    return rows, found.passages


def _held_out(config: DictConfig) -> tuple[set[int], list[str]]:
    """Identities of the passages of data.eval_dir and data.dev_file, and their names."""
    data, names, held_out = config.data, [], set()
    folder = data.eval_dir
    if folder is None and data.train_file is None and config.rows_dir is None and data.dev_file is None:
        folder = SAMPLE / "eval"  # what train.py evaluates the sample on
    if folder is not None:
        names.append("the sample's eval" if data.eval_dir is None else str(folder))
        held_out |= _held_out_of(beir.set_folder(folder, data.eval_split, Path(config.cache_dir)), config)
    if data.dev_file is not None:
        names.append(str(data.dev_file))
        rows = load_rows(data.dev_file, columns(data), Path(config.cache_dir), on_bad_row=data.on_bad_row)
        held_out |= {text_id(text) for row in rows for text in row.positives}
    return held_out, names


def _will_be_split(config: DictConfig) -> bool:
    """Whether train.py, with the same data group, will set dev rows aside."""
    data = config.data
    if data.dev_file is not None or data.train_file is None:  # the sample has a dev split
        return False
    if data.eval_dir is None:
        return True
    return not beir.has_split(beir.set_folder(data.eval_dir, data.eval_split, Path(config.cache_dir)), DEV_SPLIT)


def _dev_documents(rows: RowStore, config: DictConfig) -> set[int]:
    """Identities of the documents of those dev rows: train.py will split the mined rows as they are split here."""
    try:
        _, dev = split_rows(rows, config.data.dev_share, config.seed)
    except DataError:  # rows that cannot be split: train.py will say so
        return set()
    return {text_id(text) for row in dev for text in row.positives}


def _held_out_of(folder: Path | Fetched, config: DictConfig) -> set[int]:
    beir.check_layout(folder, config.data.eval_split)
    ids, texts = beir.read_texts(folder / "corpus.jsonl", beir.passage_text)
    if config.held_out == "corpus":
        return {text_id(text) for text in texts}
    # The split that is mined for is no held-out one, where train and test share a folder.
    own = config.rows_split if config.rows_dir is not None and _same(config.rows_dir, str(folder)) else None
    splits = [split for split in beir.splits_of(folder) if split != own]
    judged = (passage for split in splits for _, _, passage, _ in beir.read_qrels(folder / "qrels" / f"{split}.tsv"))
    return {text_id(texts[position]) for position in ids.positions_of(judged).values()}


def _same(first: str, second: str) -> bool:
    """Whether two names are one folder's."""
    if is_url(first) or is_url(second):
        return first.rstrip("/") == second.rstrip("/")
    return Path(first).resolve() == Path(second).resolve()


def _limit(rows: RowStore | Sequence[Row], limit: int | None, seed: int) -> RowStore | Sequence[Row]:
    """The same choice as train.py's."""
    count = len(rows.rows) if isinstance(rows, RowStore) else len(rows)
    if limit is None or limit >= count:
        return rows
    if limit < 1:
        raise ConfigurationError(f"data.max_train_rows={limit}: at least 1, or null for all")
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:limit])
    return rows.select(chosen) if isinstance(rows, RowStore) else [rows[int(i)] for i in chosen]
