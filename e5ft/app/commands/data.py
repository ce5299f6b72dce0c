"""From a plan to rows, a dev set, evaluation sets and what is mined from; and how much is measured while training."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from e5ft.app.settings.build import shipped
from e5ft.app.settings.groups import EvalSettings, MineSettings, TrainSettings
from e5ft.app.settings.plan import DEV_SPLIT, SAMPLE_EVALUATION, DataPlan, RowsFile, checked_folder
from e5ft.data.lines import Fault, read_json_lines
from e5ft.data.remote import Fetched, is_url, local_file
from e5ft.data.rows import Row
from e5ft.data.settings import Mix
from e5ft.data.sources import join_rows
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, load_rows
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval import beir
from e5ft.retrieval.candidates import MiningIndex, make_index
from e5ft.retrieval.sets import LARGEST, RetrievalSet, cut, from_rows, load_beir, sample

if TYPE_CHECKING:
    from transformers import TrainingArguments

SHARE = 0.05  # of training's work that evaluations while training may cost
FEWEST_QUERIES = 100  # of fewer, neighbouring checkpoints cannot be told apart
_PASSAGES_A_QUERY = 4  # kept where queries must be left out, as a multiple of a query's judged passages
_FORWARD_PASSES = 3  # that a training step is worth; exact accumulation is worth up to one more
_SAMPLED_TEXTS = 256  # by which the tokens of all are estimated


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training run needs.

    Attributes:
        train: the training rows.
        dev: the set that chooses the best checkpoint; `planned_dev` bounds it.
        test: the set reported before and after, whole.
        keep: further sets reported before and after, whole.
        dev_is_test: whether dev and test are the same queries.
        label: the name of the rows in messages.
        read, rejected: rows read and not accepted.
        mix: how the sources of `train` are mixed; None where there is one source.
    """

    train: RowStore
    dev: RetrievalSet
    test: RetrievalSet
    keep: tuple[RetrievalSet, ...]
    dev_is_test: bool
    label: str
    read: int
    rejected: int
    mix: Mix | None = None


def load_training_data(plan: DataPlan, settings: TrainSettings) -> TrainingData:
    """Read the rows and sets of a plan; a dev set is split off where nothing else gives one.

    Raises:
        DataError: rows or a set cannot be used.
    """
    stores = [_load(source, settings) for source in plan.sources]
    store = stores[0] if plan.mix is None else join_rows(plan.mix, stores, settings.seed)
    rows = store.limited(settings.data.max_train_rows, settings.seed)
    rows, dev_rows = split_dev(rows, plan)
    if plan.dev_file is not None:
        dev = from_rows(Path(plan.dev_file.file).stem, _load(plan.dev_file, settings))
    else:
        dev = load_set(plan.evaluation, DEV_SPLIT) if dev_rows is None else from_rows("dev", dev_rows)
    test = dev if plan.evaluation is None else load_set(plan.evaluation, plan.split)
    keep = load_keep_sets(plan.keep, plan.split, test)
    return TrainingData(rows, dev, test, keep, plan.dev_is_test, plan.name, store.read, store.rejected, plan.mix)


def split_dev(rows: RowStore, plan: DataPlan) -> tuple[RowStore, RowStore | None]:
    """The training rows and the dev rows of a plan; None for the latter where the dev set comes from elsewhere."""
    return (rows, None) if plan.dev_share is None else split_rows(rows, plan.dev_share, plan.seed)


def load_evaluation_set(settings: EvalSettings) -> RetrievalSet:
    """The set that eval.py ranks: data.eval_dir, or the rows of data.dev_file, or the sample's.

    Raises:
        ConfigurationError: two of them are named.
    """
    data = settings.data
    if data.eval_dir is not None and data.dev_file is not None:
        raise ConfigurationError("data.eval_dir and data.dev_file: name one of the two")
    if data.dev_file is not None:
        return from_rows(Path(data.dev_file).stem, _load(RowsFile(data.dev_file, data.columns), settings))
    folder = data.eval_dir or str(shipped(SAMPLE_EVALUATION))
    return load_set(checked_folder(folder, data.eval_split, Path(settings.cache_dir)), data.eval_split)


def load_set(folder: Path | Fetched, split: str) -> RetrievalSet:
    """One folder in BEIR's layout, whole."""
    return load_beir(folder if isinstance(folder, Fetched) else folder.absolute(), split, name=set_name(folder, split))


def set_name(folder: Path | Fetched, split: str) -> str:
    """The data set's name, not that of the folder `eval` that most keep theirs in: sample-test, ko-wiki-dev."""
    path = PurePosixPath(str(folder).partition("://")[2]) if is_url(str(folder)) else Path(os.path.abspath(folder))
    return f"{path.parent.name or path.name if path.name == 'eval' else path.name}-{split}"


def load_keep_sets(folders: Sequence[Path | Fetched], split: str, target: RetrievalSet) -> tuple[RetrievalSet, ...]:
    """Load further sets. Their names are keys of the summary and folders of the run, so that no two may be equal.

    Raises:
        ConfigurationError: two of them, or one and the target, have one name.
        DataError: a file is faulty.
    """
    named = {target.name: "the target (data.eval_dir)"}
    for folder in folders:
        name = set_name(folder, split)
        if name in named:
            raise ConfigurationError(
                f"data.keep_dir={folder}: it would be named {name}, as {named[name]} is; "
                "name a set once, and give one of two folders another name (a link to it will do)"
            )
        named[name] = folder
    return tuple(load_set(folder, split) for folder in folders)


def _load(source: RowsFile, settings: Any) -> RowStore:
    cache, on_bad_row = Path(settings.cache_dir), settings.data.on_bad_row
    return load_rows(source.file, source.columns, cache, on_bad_row=on_bad_row, split=source.split)


# -- mining ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MiningData:
    """What a mining job needs.

    Attributes:
        rows: to mine for, in the order of the index's.
        index: the same as numbers, with the candidates.
        label: the name of the rows in messages.
        held_out_label: where held-out passages come from; None: there are none.
        dropped: hard negatives that the rows had; the mined ones take their place.
        read, rejected: rows read from the source and not accepted.
        held_out: passages that must not become negatives.
    """

    rows: Iterable[Row]
    index: MiningIndex
    label: str
    held_out_label: str | None
    dropped: int
    read: int
    rejected: int
    held_out: int


def load_mining_data(plan: DataPlan, settings: MineSettings) -> MiningData:
    """Read rows, candidates and held-out passages.

    Raises:
        ConfigurationError: the sources are a mix.
        DataError: a file is faulty, or nothing is left to mine from.
    """
    if plan.mix is not None:  # it has no train_file: without this, the shipped sample would be mined in its place
        raise ConfigurationError(
            f"data=mix ({', '.join(plan.mix.names)}): mine.py reads one source; mine each with data.train_file=FILE and without "
            "data=mix, then name the mined files as the sources of train.py data=mix"
        )
    cache, limit = Path(settings.cache_dir), settings.data.max_train_rows
    corpus = None if settings.corpus_file is None else read_corpus(local_file(settings.corpus_file, cache))
    held_out, names = _held_out(plan, settings)
    if plan.sources:
        everything = _load(plan.sources[0], settings)
        rows, label, read, rejected = everything.limited(limit, plan.seed), plan.name, everything.read, everything.rejected
        dev_rows = _dev_rows(rows, plan)
        if dev_rows is not None:
            held_out |= {text_id(text) for row in dev_rows for text in row.positives}
            names.append("the dev rows that train.py will set aside")
    else:
        folder = beir.set_folder(settings.rows_dir, settings.rows_split, cache)
        everything, passages = _beir_rows(folder, settings.rows_split)
        rows, label, read, rejected = everything[:], f"{plan.name} ({settings.rows_split})", len(everything), 0
        if limit is not None and limit < len(everything):
            rows = [everything[int(i)] for i in chosen_rows(len(everything), limit, plan.seed)]
        corpus = passages if corpus is None else corpus
    index = make_index(rows, corpus, held_out, all_rows=everything)
    dropped = sum(len(row.negatives) for row in rows)
    return MiningData(rows, index, label, " and ".join(names) or None, dropped, read, rejected, len(held_out))


def read_corpus(path: str | os.PathLike) -> Iterator[str]:
    """Texts of a .jsonl file of {"title" (may be absent), "text"}, as BEIR's corpus.jsonl; ids are not read.

    Raises:
        DataError: the file is empty, or a line is faulty.
    """
    for location, value in read_json_lines(path):
        try:
            if isinstance(value, Fault):
                raise value
            yield beir.passage_text(location, value)
        except Fault as fault:
            raise DataError(str(fault)) from None


def _dev_rows(rows: RowStore, plan: DataPlan) -> RowStore | None:
    """The dev rows that train.py will set aside: it will split the mined rows as they are split here."""
    try:
        return split_dev(rows, plan)[1]
    except DataError:  # rows that cannot be split: train.py will say so
        return None


def _beir_rows(folder: Path | Fetched, split: str) -> tuple[list[Row], Iterable[str]]:
    """A row for each query with a relevant passage, and the whole corpus."""
    whole = load_beir(folder, split)
    position = whole.passage_ids.positions_of(passage for judged in whole.qrels.values() for passage in judged)
    rows = []
    for query_id, query in zip(whole.query_ids, whole.queries, strict=True):
        relevant = [passage for passage, relevance in whole.qrels[query_id].items() if relevance > 0]
        if relevant:
            rows.append(Row(query, tuple(whole.passages[position[passage]] for passage in relevant)))
    return rows, whole.passages


def _held_out(plan: DataPlan, settings: MineSettings) -> tuple[set[int], list[str]]:
    """Identities of the passages of the evaluation set and of the dev file, and their names."""
    held_out, names = set(), []
    if plan.evaluation is not None:
        names.append("the sample's eval" if settings.data.eval_dir is None else str(plan.evaluation))
        held_out |= _evaluation_passages(plan.evaluation, settings)
    if plan.dev_file is not None:
        names.append(plan.dev_file.file)
        held_out |= {text_id(text) for row in _load(plan.dev_file, settings) for text in row.positives}
    return held_out, names


def _evaluation_passages(folder: Path | Fetched, settings: MineSettings) -> set[int]:
    ids, texts = beir.read_texts(folder / "corpus.jsonl", beir.passage_text)
    if settings.held_out == "corpus":
        return {text_id(text) for text in texts}
    # The split that is mined for is no held-out one, where train and test share a folder.
    mined = settings.rows_split if settings.rows_dir is not None and _is_same(settings.rows_dir, str(folder)) else None
    splits = [split for split in beir.splits_of(folder) if split != mined]
    judged = (passage for split in splits for _, _, passage, _ in beir.read_qrels(folder / "qrels" / f"{split}.tsv"))
    return {text_id(texts[position]) for position in ids.positions_of(judged).values()}


def _is_same(first: str, second: str) -> bool:
    """Whether two names are one folder's."""
    if is_url(first) or is_url(second):
        return first.rstrip("/") == second.rstrip("/")
    return Path(first).resolve() == Path(second).resolve()


# -- evaluation while training ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What the evaluations while training will cost.

    Attributes:
        times: evaluations after the first step.
        queries, passages: of each.
        share: evaluation tokens / (training tokens x forward passes of a step): about their share of training's time.
        reason: why the share is above the usual one; empty where it is not.
    """

    times: int
    queries: int
    passages: int
    share: float
    reason: str = ""


def planned_dev(
    dev: RetrievalSet, settings: TrainSettings, arguments: "TrainingArguments", encoder: Encoder, rows: int, row_tokens: float
) -> tuple[RetrievalSet, EvaluationPlan | None]:
    """The set that is ranked while training, bounded by `data.eval_corpus_size`, and what that costs.

    A number keeps all queries and so many passages. auto keeps so many of both that all evaluations together cost `SHARE` of
    training's work: at least `FEWEST_QUERIES` and twice their judged passages, at most `LARGEST` passages. Nothing here depends
    on how a step is cut into micro-batches and processes, so a run that is resumed with another cut has the same set.

    Args:
        dev: the whole dev set.
        settings: of train.py.
        arguments: of the trainer.
        encoder: whose tokenizer counts.
        rows: training rows.
        row_tokens: tokens that a row shows in an epoch, on average.

    Returns:
        The set, and the plan; None where nothing is measured while training.
    """
    size, seed = settings.data.eval_corpus_size, settings.seed
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps if arguments.max_steps > 0 else max(1, int(arguments.num_train_epochs * (rows // step_rows)))
    times = evaluation_times(arguments, steps, max(1, rows // step_rows))
    if not times:
        return cut(dev, LARGEST if size == "auto" else size, seed=seed), None
    work = _FORWARD_PASSES * steps * step_rows * row_tokens
    query, passage = _mean_tokens(encoder, dev.queries, "query"), _mean_tokens(encoder, dev.passages, "passage")
    if size == "auto":
        judged = len({passage_id for judgements in dev.qrels.values() for passage_id in judgements}) / len(dev.queries)
        dev = sample(dev, *chosen_size(SHARE * work / times, query, passage, len(dev.queries), judged), seed=seed)
    else:
        dev = cut(dev, size, seed=seed)
    share = times * (query * len(dev.queries) + passage * len(dev.passages)) / work
    reason = f"more than {SHARE:.0%}: {FEWEST_QUERIES} queries are the fewest that tell checkpoints apart"
    too_much = size == "auto" and share > 1.2 * SHARE
    return dev, EvaluationPlan(times, len(dev.queries), len(dev.passages), share, reason if too_much else "")


def chosen_size(tokens: float, query: float, passage: float, queries: int, judged: float) -> tuple[int, int]:
    """Queries and passages that are worth about so many tokens.

    Args:
        tokens: of one evaluation.
        query, passage: tokens of one, on average.
        queries: there are.
        judged: passages that are judged for a query, on average.

    Returns:
        Queries (from `FEWEST_QUERIES`, or all) and passages (from twice the judged ones, up to `LARGEST`).
    """
    kept = int(tokens / (query + _PASSAGES_A_QUERY * judged * passage))
    kept = min(queries, max(FEWEST_QUERIES, kept))
    room = int((tokens - kept * query) / passage)
    return kept, min(LARGEST, max(room, int(2 * judged * kept), 1))


def evaluation_times(arguments: "TrainingArguments", steps: int, epoch_steps: int) -> int:
    """How many evaluations follow in so many steps; none where there is no strategy."""
    strategy = arguments.eval_strategy.value
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return -(-steps // epoch_steps)
    every = arguments.eval_steps or arguments.logging_steps
    every = max(1, -(-steps * every // 1)) if every < 1 else every
    return int(-(-steps // every))  # the last step is measured, too


def _mean_tokens(encoder: Encoder, texts: Sequence[str], role: str) -> float:
    some = [texts[i] for i in range(0, len(texts), -(-len(texts) // _SAMPLED_TEXTS))]
    return sum(map(len, encoder.tokenize(some, role))) / len(some)
