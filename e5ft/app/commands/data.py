"""From a plan to rows, a dev set, evaluation sets and mining candidates."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from e5ft.app.settings.plan import BeirSplit, DataPlan, DevShare, RowsFile, evaluation_source, row_files
from e5ft.app.telling.report import header_line, say
from e5ft.data.lines import BadLine
from e5ft.data.passages import passage_text, read_passages
from e5ft.data.remote import Fetched, local_file
from e5ft.data.rows import Row
from e5ft.data.settings import Mix
from e5ft.data.shards import display, stem
from e5ft.data.sources import join_rows
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, limited_rows, load_rows
from e5ft.data.stored_texts import StoredTexts
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import beir
from e5ft.retrieval.candidates import MiningIndex, make_index
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.layouts import find_files, splits_of
from e5ft.retrieval.overlap import Overlap, overlaps
from e5ft.retrieval.sets import RetrievalSet, from_rows, load_beir

AUTO = "auto"


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
        held_out: which of the evaluation folder's passages are held out, "corpus" or "judged"; None: there is no folder.
        own: hard negatives that the rows had.
        counts: of rows and passages.
    """

    rows: Iterable[Row]
    index: MiningIndex
    label: str
    held_out_label: str | None
    held_out: str | None
    own: int
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
    """Load the set that eval.py ranks: a folder's, or a file's rows among their own, data.train_file's and data.corpus_file's texts."""
    source = evaluation_source(settings)
    if isinstance(source, BeirSplit):
        return load_set(source, settings)
    data, named = settings.data, _named_rows(source, settings)
    sources = row_files(settings) if data.train_file is not None or data.mix is not None else ()
    documents = (StoredTexts(load_file(each, settings), "positives") for each in sources)
    return from_rows(*named, chain(*documents, _passages(filter(None, [data.corpus_file]), settings)))


def load_file(source: RowsFile, settings) -> RowStore:
    """Validate and map the rows of one source, and say what was understood of it."""
    cache, on_bad_row = Path(settings.cache_dir), settings.data.on_bad_row
    store = load_rows(source.file, source.columns, cache, on_bad_row=on_bad_row, reading=source.reading)
    # Training rows and dev rows are told in one header.
    place = f"{stem(source.file)}: " if source.file == settings.data.dev_file else ""
    for name, text in store.notes:
        say(header_line(name, text if text.startswith(display(source.file)) else place + text))
    return store


def load_set(source: RowsFile | BeirSplit, settings) -> RetrievalSet:
    """Load an evaluation set, whole."""
    if isinstance(source, RowsFile):
        return from_rows(*_named_rows(source, settings))
    return load_beir(source.folder, source.split, name=source.name)


def _named_rows(source: RowsFile, settings) -> tuple[str, RowStore]:
    return stem(source.file), load_file(source, settings)


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
    themselves = []
    if isinstance(source, BeirSplit):
        every_row, passages, themselves = _beir_rows(source)
        corpus, read, rejected = passages if corpus is None else corpus, len(every_row), 0
    else:
        every_row = load_file(source, settings)
        read, rejected = every_row.read, every_row.rejected
    limit = settings.data.max_train_rows
    limited = every_row.limited if isinstance(every_row, RowStore) else partial(limited_rows, every_row)
    rows = limited(limit, settings.seed)
    held_out, names, which = set(), [], None
    for part in plan.held_out:
        if isinstance(part, BeirSplit):
            if settings.held_out == AUTO and corpus is not None:
                corpus = StringColumn(corpus)  # looked at twice
            which, passages = _passages_of(part, source, settings.held_out, every_row, corpus)
            held_out |= passages
            name = "the sample's eval" if plan.sample and settings.data.eval_dir is None else str(part.folder)
            by_itself = which == "judged" and settings.held_out == AUTO
            names.append(f"{name} (held_out=judged, since its corpus holds most candidates)" if by_itself else name)
        else:
            held_out |= _documents(load_file(part, settings) if isinstance(part, RowsFile) else _dev_rows(rows, plan))
            names.append(display(part.file) if isinstance(part, RowsFile) else "the dev rows that train.py will set aside")
    keep_own = settings.mining.own_negatives == "keep"
    index = make_index(rows, corpus, held_out, all_rows=itertools.chain(every_row, themselves), keep_own=keep_own)
    own = sum(len(row.negatives) for row in rows)
    counts = Counts(read, rejected, len(held_out))
    return MiningData(rows, index, plan.display_name, " and ".join(names) or None, which, own, counts)


def read_corpus(path: str | os.PathLike) -> Iterator[str]:
    """Yield the texts of a file of passages; ids are not needed.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    try:
        for location, value in read_passages(path):
            yield passage_text(location, value)
    except BadLine as bad:
        raise DataError(str(bad)) from None


def _beir_rows(source: BeirSplit) -> tuple[list[Row], Iterable[str], list[Row]]:
    """A row for each query with a relevant passage, the whole corpus, and rows of the queries that are passages themselves."""
    judged = load_beir(source.folder, source.split)
    names = itertools.chain(judged.left_out.values(), *judged.qrels.values())
    position_of, rows, themselves = judged.passage_ids.positions_of(names), [], []
    for query_id, query in zip(judged.query_ids, judged.queries, strict=True):
        own = judged.left_out.get(query_id)
        relevant = [name for name, value in judged.qrels[query_id].items() if value > 0 and name in position_of and name != own]
        if relevant:
            rows.append(Row(query, tuple(judged.passages[position_of[passage]] for passage in relevant)))
        if own is not None:
            themselves.append(Row(query, (judged.passages[position_of[own]],)))
    return rows, judged.passages, themselves


def _dev_rows(rows: RowStore, plan: DataPlan) -> Iterable[Row]:
    """The rows that train.py will set aside of the mined rows; none where they cannot be split, which train.py will say."""
    try:
        return split_dev(rows, plan)[1]
    except DataError:
        return ()


def _documents(rows: Iterable[Row]) -> set[int]:
    if isinstance(rows, RowStore):
        return set(rows.positive_ids()[0].tolist())
    return {text_id(text) for row in rows for text in row.positives}


def _passages_of(
    held: BeirSplit, mined: RowsFile | BeirSplit, which: str, rows: Iterable[Row], corpus: Iterable[str] | None
) -> tuple[str, set[int]]:
    """Which of an evaluation folder's passages are held out, and their identities.

    All ("corpus"), or those judged in any split but the mined one ("judged"). "auto": judged, where the folder's corpus holds
    more than half of the candidates: training and evaluation share a corpus then, and without it there is nothing to mine.
    """
    ids, texts = beir.read_passages(find_files(held.folder, held.split).corpus)
    identities = {text_id(text) for text in texts}
    if which == AUTO:
        candidates = _documents(rows) if corpus is None else {text_id(text) for text in corpus}
        which = "judged" if 2 * len(candidates & identities) > len(candidates) else "corpus"
    if which == "corpus":
        return which, identities
    same = isinstance(mined, BeirSplit) and _location(mined.folder) == _location(held.folder)
    splits = [split for split in splits_of(held.folder) if not (same and split == mined.split)]
    judged = (passage for split in splits for _, _, passage, _ in beir.read_qrels(find_files(held.folder, split).qrels))
    return which, {text_id(texts[position]) for position in ids.positions_of(judged).values()}


def _location(folder: Path | Fetched) -> str | Path:
    return folder.url.rstrip("/") if isinstance(folder, Fetched) else folder.resolve()
