"""From a plan to rows, a dev set, evaluation sets and mining candidates; and how much is evaluated while training."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from e5ft.app.settings.plan import BeirSplit, DataPlan, DevShare, RowsFile, evaluation_source
from e5ft.data.lines import BadLine, read_json_lines
from e5ft.data.remote import Fetched, local_file
from e5ft.data.rows import Row
from e5ft.data.settings import Mix
from e5ft.data.sources import join_rows
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, limited_rows, load_rows
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import beir
from e5ft.retrieval.candidates import MiningIndex, make_index
from e5ft.retrieval.sets import RetrievalSet, from_rows, load_beir, shrink_corpus, subsample

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from e5ft.modeling.encoder import Encoder

AUTO = "auto"
LARGEST = 10_000  # passages that are ranked while training, or while alphas are chosen
SHARE = 0.05
FEWEST_QUERIES = 100  # of fewer, neighbouring checkpoints cannot be told apart
_PASSAGES_A_QUERY = 4  # passages kept per query, as a multiple of its judged ones, where queries must be left out
_FORWARD_PASSES = 3  # that a training step is worth; exact accumulation is worth up to one more
_SAMPLE = 256  # texts by which the tokens of all are estimated


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training run needs.

    Attributes:
        train: the training rows.
        dev: the set that chooses the best checkpoint; `planned_dev` bounds it.
        test: the set reported before and after, whole.
        keep: further sets reported before and after, whole, whose scores training must not lower.
        dev_is_test: whether dev and test are the same queries, so that the report says its scores are optimistic.
        sample: whether this is the shipped sample.
        label: the display name of the source.
        read, rejected: rows read and not accepted.
        mix: how the sources of `train` are mixed; None where there is one source.
    """

    train: RowStore
    dev: RetrievalSet
    test: RetrievalSet
    keep: tuple[RetrievalSet, ...]
    dev_is_test: bool
    sample: bool
    label: str
    read: int
    rejected: int
    mix: Mix | None = None


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


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What the evaluations of a training will cost.

    Attributes:
        times: evaluations after the first step.
        queries, passages: of each.
        share: evaluation tokens / (training tokens x 3), approximately the share of training time.
        reason: why the share is above the usual one; empty where it is not.
    """

    times: int
    queries: int
    passages: int
    share: float
    reason: str = ""


def load_training_data(plan: DataPlan, settings) -> TrainingData:
    """Load the rows, split the dev set off where the plan says so, and load the evaluation sets."""
    stores = [load_file(source, settings) for source in plan.sources]
    rows = stores[0] if plan.mix is None else join_rows(plan.mix, stores, settings.seed)
    train, dev_rows = split_dev(rows.limited(settings.data.max_train_rows, settings.seed), plan)
    dev = load_set(plan.dev, settings) if dev_rows is None else from_rows("dev", dev_rows)
    test = dev if plan.dev_is_test else load_set(plan.evaluation, settings)
    keep = tuple(load_set(source, settings) for source in plan.keep)
    return TrainingData(
        train, dev, test, keep, plan.dev_is_test, plan.sample, plan.display_name, rows.read, rows.rejected, plan.mix
    )


def load_evaluation_set(settings) -> RetrievalSet:
    """Load the set that eval.py ranks."""
    return load_set(evaluation_source(settings), settings)


def load_file(source: RowsFile, settings) -> RowStore:
    """Validate and map the rows of one source."""
    cache, on_bad_row = Path(settings.cache_dir), settings.data.on_bad_row
    return load_rows(source.file, source.columns, cache, on_bad_row=on_bad_row, reading=source.reading)


def load_set(source: RowsFile | BeirSplit, settings) -> RetrievalSet:
    """Load an evaluation set, whole."""
    if isinstance(source, RowsFile):
        return from_rows(Path(source.file).stem, load_file(source, settings))
    return load_beir(source.folder, source.split, name=source.name)


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


def planned_dev(
    dev: RetrievalSet, settings, arguments: "TrainingArguments", encoder: "Encoder", rows: int, row_tokens: float
) -> tuple[RetrievalSet, EvaluationPlan | None]:
    """Bound the set that is ranked while training by `data.eval_corpus_size`, and estimate what ranking it costs.

    A number keeps all queries and that many passages. `auto` keeps as many of both as let all evaluations together cost
    `SHARE` of training's work: at least `FEWEST_QUERIES` queries and twice their judged passages, at most `LARGEST` passages.
    The result does not depend on how a step is cut into micro-batches and processes, so that a resumed run with another
    cut has the same set.

    Args:
        dev: the whole dev set.
        settings: of train.py.
        arguments: training's.
        encoder: its tokenizer counts the tokens.
        rows: number of training rows.
        row_tokens: tokens that a row shows in an epoch, on average.

    Returns:
        The bounded set, and the plan; None where nothing is measured while training.
    """
    size, seed = settings.data.eval_corpus_size, settings.seed
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps if arguments.max_steps > 0 else max(1, int(arguments.num_train_epochs * (rows // step_rows)))
    times = _evaluations(arguments, steps, max(1, rows // step_rows))
    if not times:
        return shrink_corpus(dev, LARGEST if size == AUTO else size, seed=seed), None
    work = _FORWARD_PASSES * steps * step_rows * row_tokens
    query, passage = _mean_tokens(encoder, dev.queries, "query"), _mean_tokens(encoder, dev.passages, "passage")
    if size == AUTO:
        judged = len({passage_id for judgements in dev.qrels.values() for passage_id in judgements}) / len(dev.queries)
        dev = subsample(dev, *chosen_size(SHARE * work / times, query, passage, len(dev.queries), judged), seed=seed)
    else:
        dev = shrink_corpus(dev, size, seed=seed)
    share = times * (query * len(dev.queries) + passage * len(dev.passages)) / work
    floor = f"above {SHARE:.0%}, because fewer than {FEWEST_QUERIES} queries do not tell checkpoints apart"
    reason = floor if size == AUTO and share > 1.2 * SHARE else ""
    return dev, EvaluationPlan(times, len(dev.queries), len(dev.passages), share, reason)


def chosen_size(tokens: float, query: float, passage: float, queries: int, judged: float) -> tuple[int, int]:
    """Choose how many queries and passages cost about `tokens` tokens.

    Args:
        tokens: of one evaluation.
        query, passage: tokens of one, on average.
        queries: number of queries there are.
        judged: passages that are judged for a query, on average.

    Returns:
        Queries (from `FEWEST_QUERIES`, or all) and passages (from twice the judged ones, up to `LARGEST`).
    """
    affordable = int(tokens / (query + _PASSAGES_A_QUERY * judged * passage))
    chosen = min(queries, max(FEWEST_QUERIES, affordable))
    passages = int((tokens - chosen * query) / passage)
    return chosen, min(LARGEST, max(passages, int(2 * judged * chosen), 1))


def _evaluations(arguments: "TrainingArguments", steps: int, epoch_steps: int) -> int:
    """Number of evaluations in `steps` steps; 0 where there is no strategy."""
    strategy = arguments.eval_strategy.value
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return -(-steps // epoch_steps)
    every = arguments.eval_steps or arguments.logging_steps
    every = max(1, -(-steps * every // 1)) if every < 1 else every
    return int(-(-steps // every))  # the last step is measured, too


def _mean_tokens(encoder: "Encoder", texts: Sequence[str], role: str) -> float:
    sampled = [texts[i] for i in range(0, len(texts), -(-len(texts) // _SAMPLE))]
    return sum(map(len, encoder.tokenize(sampled, role))) / len(sampled)
