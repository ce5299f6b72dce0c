"""From a plan to rows, a dev set, evaluation sets and mining candidates."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from e5ft.app.settings.plan import DEV_SPLIT, BeirSplit, DataPlan, DevShare, RowsFile, evaluation_source, row_files
from e5ft.app.telling.report import header_line, say
from e5ft.data.passages import passage_texts
from e5ft.data.remote import local_file
from e5ft.data.rows import Row
from e5ft.data.settings import Mix
from e5ft.data.shards import display, stem
from e5ft.data.sources import join_rows, rows_by_source
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, limited_rows, load_rows
from e5ft.data.stored_texts import StoredTexts
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.candidates import MiningIndex, make_index
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.held_out import AUTO, JUDGED, document_ids, held_out_passages, rows_of_set
from e5ft.retrieval.layouts import splits_of
from e5ft.retrieval.overlap import Overlap, overlaps
from e5ft.retrieval.sets import RetrievalSet, from_passages, from_rows, halves, load_beir, shrink_corpus
from e5ft.training.evaluation_cost import LARGEST


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training run needs.

    Attributes:
        rows: all rows, of which the dev rows may be split off.
        train: the training rows.
        dev: the set that chooses the best checkpoint; `planned_dev` bounds it.
        test: the set reported before and after, whole.
        keep: further sets reported before and after, whose scores training must not lower.
        choice: for each of them the set by which it may refute the result, its dev split, bounded; None: a half of its
            queries. Empty where it may not: then all of its queries are reported.
        dev_is_test: whether dev and test are the same queries, so that the report says its scores are optimistic.
        label: the display name of the source.
        corpus: what the test set is ranked among, in words.
        mix: how the sources of `train` are mixed; None where there is one source.
    """

    rows: RowStore
    train: RowStore
    dev: RetrievalSet
    test: RetrievalSet
    keep: tuple[RetrievalSet, ...]
    dev_is_test: bool
    label: str
    corpus: str
    mix: Mix | None = None
    choice: tuple[RetrievalSet | None, ...] = ()

    @property
    def smallest_source(self) -> int | None:
        """Rows of the smallest source of a mix whose steps are of one source each; None: a step is of any rows."""
        return None if self.mix is None or not self.mix.one_source else min(rows_by_source(self.mix, self.train))

    def overlaps(self) -> tuple[Overlap, ...]:
        """What the test set, the dev set and the keep sets share with the training rows."""
        reported = [] if self.dev_is_test else [("test", self.test)]
        reported += [(each.name, each) for each in self.keep]
        pairs = (reported, self.rows), ([("dev", self.dev)], self.train)  # dev rows split off are no leak of the dev set
        return tuple(chain(*(overlaps(sets, rows) for sets, rows in pairs if sets)))


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
        counts: rows "read" from the source and "rejected", and passages "held_out".
    """

    rows: Iterable[Row]
    index: MiningIndex
    label: str
    held_out_label: str | None
    held_out: str | None
    own: int
    counts: dict[str, int]


def load_training_data(plan: DataPlan, settings) -> TrainingData:
    """Load the rows, split the dev set off where the plan says so, and load the evaluation sets.

    Without an evaluation folder the dev rows are ranked among everything that is known: their own passages, the training
    rows' documents and the passages of data.corpus_file. Hard negatives of training rows stay out: mining replaces them,
    and the scores before and after it are compared.
    """
    stores = [load_file(source, settings, plan.several_files) for source in plan.sources]
    rows = stores[0] if plan.mix is None else join_rows(plan.mix, stores, settings.seed)
    rows = rows.limited(settings.data.max_train_rows, settings.seed)
    train, dev_rows = split_dev(rows, plan)
    corpus = "the evaluation folder's"
    if plan.evaluation is None:
        corpus = f"dev and training documents{' and data.corpus_file' if plan.corpus_files else ''}"
        name, dev_rows = ("dev", dev_rows) if dev_rows is not None else _named_rows(plan.dev, settings, plan.several_files)
        dev = from_rows(name, dev_rows, chain(StoredTexts(train, "positives"), _passages(plan.corpus_files, settings)))
    elif dev_rows is None:
        dev = load_set(plan.dev, settings, plan.several_files)
    else:
        dev = from_rows("dev", dev_rows)
    test = dev if plan.dev_is_test else load_set(plan.evaluation, settings)
    keep = tuple(load_set(source, settings) for source in plan.keep)
    choice = tuple(_choice(source, loaded, settings) for source, loaded in zip(plan.keep, keep, strict=True) if settings.guarded)
    return TrainingData(rows, train, dev, test, keep, plan.dev_is_test, plan.display_name, corpus, plan.mix, choice)


def _choice(source: BeirSplit, loaded: RetrievalSet, settings) -> RetrievalSet | None:
    if not _has_dev_beside(source):
        halves(loaded)  # refuses a set that cannot be divided before anything slow begins
        return None
    return shrink_corpus(load_set(BeirSplit(source.folder, DEV_SPLIT), settings), LARGEST, seed=settings.seed)


def load_evaluation_set(settings) -> RetrievalSet:
    """Load the set that eval.py ranks: a folder's, or a file's rows among their own, data.train_file's and data.corpus_file's texts."""
    source = evaluation_source(settings)
    if isinstance(source, BeirSplit):
        return load_set(source, settings)
    data = settings.data
    sources = row_files(settings) if data.train_file is not None or data.mix is not None else ()
    named = _named_rows(source, settings, bool(sources))
    documents = (StoredTexts(load_file(each, settings, named=True), "positives") for each in sources)
    corpus = {data.corpus_file: data.encoding} if data.corpus_file else {}
    return from_rows(*named, chain(*documents, _passages(corpus, settings)))


def load_searched_set(settings) -> RetrievalSet:
    """Load what serve searches: eval.py's set, or the passages of data.corpus_file where no queries are named."""
    data = settings.data
    if data.corpus_file is None or data.dev_file is not None or data.train_file is not None or data.mix is not None:
        return load_evaluation_set(settings)
    return from_passages(stem(data.corpus_file), _passages({data.corpus_file: data.encoding}, settings))


def load_dev_beside(settings) -> RetrievalSet | None:
    """Load the set that chooses the hybrid's weight and the threshold for eval.py: the folder's dev split; None where there is none."""
    source = evaluation_source(settings)
    if not isinstance(source, BeirSplit) or not _has_dev_beside(source):
        return None
    return load_set(dataclasses.replace(source, split=DEV_SPLIT), settings)


def _has_dev_beside(source: BeirSplit) -> bool:
    return source.split != DEV_SPLIT and DEV_SPLIT in splits_of(source.folder)


def load_file(source: RowsFile, settings, named: bool = False) -> RowStore:
    """Validate and map the rows of one source, and say what was understood of it.

    Args:
        source: the file.
        settings: of any script.
        named: whether every line names the file, since there are others.
    """
    cache, on_bad_row = Path(settings.cache_dir), settings.data.on_bad_row
    store = load_rows(source.file, source.columns, cache, on_bad_row=on_bad_row, reading=source.reading)
    name = f"{display(source.file)}: "
    for label, text in store.notes:
        say(header_line(label, name + text if named and not text.startswith(name) else text))
    return store


def load_set(source: RowsFile | BeirSplit, settings, named: bool = False) -> RetrievalSet:
    """Load an evaluation set, whole; `named` as of `load_file`."""
    if isinstance(source, RowsFile):
        return from_rows(*_named_rows(source, settings, named))
    return load_beir(source.folder, source.split, name=source.name)


def _named_rows(source: RowsFile, settings, named: bool = False) -> tuple[str, RowStore]:
    return stem(source.file), load_file(source, settings, named)


def _passages(files: Mapping[str, str | None], settings) -> Iterator[str]:
    """The passages of files, one after the other; with each the encoding in which it is read."""
    cache = Path(settings.cache_dir)
    return chain.from_iterable(passage_texts(local_file(file, cache), encoding) for file, encoding in files.items())


def corpus_texts(settings) -> StringColumn | None:
    """The passages of data.corpus_file; None where it is not named."""
    data = settings.data
    return None if data.corpus_file is None else StringColumn(_passages({data.corpus_file: data.encoding}, settings))


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
    source, named = plan.sources[0], settings.data.corpus_file
    corpus = None if named is None else _passages({named: settings.data.encoding}, settings)
    mined, themselves = None, []
    if isinstance(source, BeirSplit):
        mined = source.folder, source.split
        every_row, passages, themselves = rows_of_set(*mined)
        corpus, read, rejected = passages if corpus is None else corpus, len(every_row), 0
    else:
        every_row = load_file(source, settings, plan.several_files)
        read, rejected = every_row.read, every_row.rejected
    limited = every_row.limited if isinstance(every_row, RowStore) else partial(limited_rows, every_row)
    rows = limited(settings.data.max_train_rows, settings.seed)
    held_out, names, which = set(), [], None
    for part in plan.held_out:
        if isinstance(part, BeirSplit):
            if settings.held_out == AUTO and corpus is not None:
                corpus = StringColumn(corpus)  # looked at twice
            which, passages = held_out_passages((part.folder, part.split), settings.held_out, every_row, corpus, mined)
            held_out |= passages
            name = "the sample's eval" if plan.sample and settings.data.eval_dir is None else str(part.folder)
            by_itself = which == JUDGED and settings.held_out == AUTO
            names.append(f"{name} (held_out=judged, since its corpus holds most candidates)" if by_itself else name)
        elif isinstance(part, RowsFile):
            held_out |= document_ids(load_file(part, settings, plan.several_files))
            names.append(display(part.file))
        else:
            held_out |= document_ids(_dev_rows(rows, plan))
            names.append("the dev rows that train.py will set aside")
    keep_own = settings.mining.own_negatives == "keep"
    index = make_index(rows, corpus, held_out, all_rows=chain(every_row, themselves), keep_own=keep_own)
    own = sum(len(row.negatives) for row in rows)
    counts = {"read": read, "rejected": rejected, "held_out": len(held_out)}
    return MiningData(rows, index, plan.display_name, " and ".join(names) or None, which, own, counts)


def _dev_rows(rows: RowStore, plan: DataPlan) -> Iterable[Row]:
    """The rows that train.py will set aside of the mined rows; none where they cannot be split, which train.py will say."""
    try:
        return split_dev(rows, plan)[1]
    except DataError:
        return ()
