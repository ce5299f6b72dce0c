"""From a plan to rows, a dev set, evaluation sets and mining candidates."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from e5ft.app.settings.plan import BeirSplit, DataPlan, DevShare, RowsFile, evaluation_source
from e5ft.data.lines import BadLine, read_json_lines
from e5ft.data.remote import Fetched, local_file
from e5ft.data.rows import Row
from e5ft.data.settings import Mix
from e5ft.data.sources import join_rows
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, limited_rows, load_rows
from e5ft.data.stored_texts import StoredTexts
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import beir
from e5ft.retrieval.candidates import MiningIndex, make_index
from e5ft.retrieval.overlap import Overlap, overlaps
from e5ft.retrieval.sets import RetrievalSet, from_rows, load_beir


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training run needs.

    Attributes:
        rows: all rows, of which the dev rows may be split off.
        train: the training rows.
        dev: the set that chooses the best checkpoint; `planned_dev` bounds it.
        test: the set reported before and after, whole.
        keep: further sets reported before and after, whole, whose scores training must not lower.
        dev_is_test: whether dev and test are the same queries, so that the report says its scores are optimistic.
        sample: whether this is the shipped sample.
        label: the display name of the source.
        read, rejected: rows read and not accepted.
        corpus: what the test set is ranked among, in words.
        mix: how the sources of `train` are mixed; None where there is one source.
    """

    rows: RowStore
    train: RowStore
    dev: RetrievalSet
    test: RetrievalSet
    keep: tuple[RetrievalSet, ...]
    dev_is_test: bool
    sample: bool
    label: str
    read: int
    rejected: int
    corpus: str
    mix: Mix | None = None

    def overlaps(self) -> tuple[Overlap, ...]:
        """What the test set, the dev set and the keep sets share with the training rows."""
        reported = [] if self.dev_is_test else [("test", self.test)]
        reported += [(each.name, each) for each in self.keep]
        pairs = (reported, self.rows), ([("dev", self.dev)], self.train)  # dev rows split off are no leak of the dev set
        return tuple(chain(*(overlaps(sets, rows) for sets, rows in pairs if sets)))


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
        rows: to mine for, in the order of the index's.
        index: the same as numbers, with the candidates.
        label: the display name of the source.
        held_out_label: where held-out passages come from; None: there are none.
        dropped: hard negatives that the rows had; the mined ones take their place.
        counts: of rows and passages.
    """

    rows: Iterable[Row]
    index: MiningIndex
    label: str
    held_out_label: str | None
    dropped: int
    counts: Counts


def load_training_data(plan: DataPlan, settings) -> TrainingData:
    """Load the rows, split the dev set off where the plan says so, and load the evaluation sets.

    Without an evaluation folder the dev rows are ranked among everything that is known: their own passages, the training
    rows' documents and the passages of data.corpus_file. Hard negatives of training rows stay out: mining replaces them,
    and the scores before and after it are compared.
    """
    stores = [load_file(source, settings) for source in plan.sources]
    rows = stores[0] if plan.mix is None else join_rows(plan.mix, stores, settings.seed)
    rows = rows.limited(settings.data.max_train_rows, settings.seed)
    train, dev_rows = split_dev(rows, plan)
    corpus = "the evaluation folder's"
    if plan.evaluation is None:
        corpus = f"dev and training documents{' and data.corpus_file' if plan.corpus_files else ''}"
        name, dev_rows = ("dev", dev_rows) if dev_rows is not None else _named_rows(plan.dev, settings)
        dev = from_rows(name, dev_rows, chain(StoredTexts(train, "positives"), _passages(plan.corpus_files, settings)))
    else:
        dev = load_set(plan.dev, settings) if dev_rows is None else from_rows("dev", dev_rows)
    test = dev if plan.dev_is_test else load_set(plan.evaluation, settings)
    keep = tuple(load_set(source, settings) for source in plan.keep)
    how = plan.dev_is_test, plan.sample, plan.display_name, rows.read, rows.rejected, corpus, plan.mix
    return TrainingData(rows, train, dev, test, keep, *how)


def load_evaluation_set(settings) -> RetrievalSet:
    """Load the set that eval.py ranks: a folder's, or a file's rows among their own passages and data.corpus_file's."""
    source = evaluation_source(settings)
    if isinstance(source, BeirSplit):
        return load_set(source, settings)
    return from_rows(*_named_rows(source, settings), _passages(filter(None, [settings.data.corpus_file]), settings))


def load_file(source: RowsFile, settings) -> RowStore:
    """Validate and map the rows of one source."""
    cache, on_bad_row = Path(settings.cache_dir), settings.data.on_bad_row
    return load_rows(source.file, source.columns, cache, on_bad_row=on_bad_row, reading=source.reading)


def load_set(source: RowsFile | BeirSplit, settings) -> RetrievalSet:
    """Load an evaluation set, whole."""
    if isinstance(source, RowsFile):
        return from_rows(*_named_rows(source, settings))
    return load_beir(source.folder, source.split, name=source.name)


def _named_rows(source: RowsFile, settings) -> tuple[str, RowStore]:
    return Path(source.file).stem, load_file(source, settings)


def _passages(files: Iterable[str], settings) -> Iterator[str]:
    """The passages of files, one after the other."""
    return chain.from_iterable(read_corpus(local_file(file, Path(settings.cache_dir))) for file in files)


def split_dev(rows: RowStore, plan: DataPlan) -> tuple[RowStore, RowStore | None]:
    """Split the dev rows off: training keeps them as its dev set, mining holds their documents out.

    Returns:
        The training rows and the dev rows; all rows and None where the dev set comes from elsewhere.
    """
    return split_rows(rows, plan.dev.share, plan.dev.seed) if isinstance(plan.dev, DevShare) else (rows, None)


def load_mining_data(plan: DataPlan, settings) -> MiningData:
    """Load the rows, the candidates and the passages that must not become negatives.

    Raises:
        ConfigurationError: the rows are a mix.
        DataError: a file is faulty, or nothing is left to mine from.
    """
    if plan.mix is not None:
        files = {source.name: source.train_file for source in plan.mix.sources}
        raise ConfigurationError(
            f"data=mix (data.sources={files}): mine.py reads one source; mine each with data.train_file=FILE and without "
            "data=mix, then name the mined files as the sources of train.py data=mix"
        )
    cache, source = Path(settings.cache_dir), plan.sources[0]
    named = settings.data.corpus_file
    corpus = None if named is None else read_corpus(local_file(named, cache))
    if isinstance(source, BeirSplit):
        every_row, passages = _beir_rows(source)
        corpus, read, rejected = passages if corpus is None else corpus, len(every_row), 0
    else:
        every_row = load_file(source, settings)
        read, rejected = every_row.read, every_row.rejected
    limit = settings.data.max_train_rows
    limited = every_row.limited if isinstance(every_row, RowStore) else partial(limited_rows, every_row)
    rows = limited(limit, settings.seed)
    held_out, names = set(), []
    for part in plan.held_out:
        if isinstance(part, BeirSplit):
            held_out |= _passages_of(part, source, settings.held_out)
            names.append("the sample's eval" if plan.sample and settings.data.eval_dir is None else str(part.folder))
        else:
            held_out |= _documents(load_file(part, settings) if isinstance(part, RowsFile) else _dev_rows(rows, plan))
            names.append(part.file if isinstance(part, RowsFile) else "the dev rows that train.py will set aside")
    index = make_index(rows, corpus, held_out, all_rows=every_row)
    dropped = sum(len(row.negatives) for row in rows)
    counts = Counts(read, rejected, len(held_out))
    return MiningData(rows, index, plan.display_name, " and ".join(names) or None, dropped, counts)


def read_corpus(path: str | os.PathLike) -> Iterator[str]:
    """Yield the texts of a .jsonl file of {"title" (may be absent), "text"}, as BEIR's corpus.jsonl; ids are not needed.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    for location, value in read_json_lines(path):
        try:
            if isinstance(value, BadLine):
                raise value
            yield beir.passage_text(location, value)
        except BadLine as bad:
            raise DataError(str(bad)) from None


def _beir_rows(source: BeirSplit) -> tuple[list[Row], Iterable[str]]:
    """A row for each query with a relevant passage, and the whole corpus."""
    judged = load_beir(source.folder, source.split)
    position_of = judged.passage_ids.positions_of(passage for judgements in judged.qrels.values() for passage in judgements)
    rows = []
    for query_id, query in zip(judged.query_ids, judged.queries, strict=True):
        relevant = [passage for passage, relevance in judged.qrels[query_id].items() if relevance > 0]
        if relevant:
            rows.append(Row(query, tuple(judged.passages[position_of[passage]] for passage in relevant)))
    return rows, judged.passages


def _dev_rows(rows: RowStore, plan: DataPlan) -> Iterable[Row]:
    """The rows that train.py will set aside of the mined rows; none where they cannot be split, which train.py will say."""
    try:
        return split_dev(rows, plan)[1]
    except DataError:
        return ()


def _documents(rows: Iterable[Row]) -> set[int]:
    return {text_id(text) for row in rows for text in row.positives}


def _passages_of(held: BeirSplit, mined: RowsFile | BeirSplit, which: str) -> set[int]:
    """Identities of an evaluation folder's passages: all ("corpus"), or those judged in any split but the mined one."""
    ids, texts = beir.read_texts(held.folder / "corpus.jsonl", beir.passage_text)
    if which == "corpus":
        return {text_id(text) for text in texts}
    same = isinstance(mined, BeirSplit) and _location(mined.folder) == _location(held.folder)
    splits = [split for split in beir.splits_of(held.folder) if not (same and split == mined.split)]
    judged = (passage for split in splits for _, _, passage, _ in beir.read_qrels(held.folder / "qrels" / f"{split}.tsv"))
    return {text_id(texts[position]) for position in ids.positions_of(judged).values()}


def _location(folder: Path | Fetched) -> str | Path:
    return folder.url.rstrip("/") if isinstance(folder, Fetched) else folder.resolve()
