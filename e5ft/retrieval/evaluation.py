"""Evaluation: a model or BM25 on a retrieval set -> metrics of every query, means, intervals and files."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from e5ft.errors import ConfigurationError, DataError
from e5ft.files import new_folder, write_json, write_lines
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.hybrid import GRID, DevSet, Weight, best_weight, depth, hybrid_runs
from e5ft.retrieval.metrics import check_cutoffs, means, metric_values
from e5ft.retrieval.per_query import line_of, queries
from e5ft.retrieval.runs import Run, bm25_run, dense_run, write_trec
from e5ft.retrieval.sets import RetrievalSet, pair_keys, with_queries
from e5ft.retrieval.shards import Shards
from e5ft.retrieval.significance import LEVEL, SAMPLES, mean_intervals
from e5ft.retrieval.small_vectors import Centre, Kind, centre_of, first_components, quantised, small_kinds
from e5ft.retrieval.tables import main_metric
from e5ft.retrieval.threshold import calibrated, first_found, lacks
from e5ft.retrieval.vectors import RepeatedTexts, encode_collection


class Judgements:
    """A set's relevance judgements as arrays. A query without a relevant passage is left out, as trec_eval does.

    Args:
        retrieval_set: the set.
        cutoffs: the ranks K of the metrics.

    Attributes:
        cutoffs: the same, ascending.
        queries: (Q',) indices of the scored queries in the set, ascending.

    Raises:
        DataError: no query has a relevant passage.
        ConfigurationError: a cutoff is no rank.
    """

    def __init__(self, retrieval_set: RetrievalSet, cutoffs: Sequence[int]):
        self.cutoffs = check_cutoffs(cutoffs)
        relevant = [{p: value for p, value in judged.items() if value > 0} for judged in retrieval_set.qrels.values()]
        self.queries = np.flatnonzero([bool(passages) for passages in relevant])
        if not len(self.queries):
            raise DataError(f"none of the {len(relevant)} queries has a relevant passage: there is nothing to score")
        self._relevant = [list(relevant[query].values()) for query in self.queries]
        positions = retrieval_set.passage_ids.positions_of(p for passages in relevant for p in passages)
        triples = [
            (q, positions[p], value) for q, passages in enumerate(relevant) for p, value in passages.items() if p in positions
        ]
        queries, passages, gains = np.array(sorted(triples), np.int64).reshape(-1, 3).T
        # The last key is above every pair: a search for any pair ends at a key that is there.
        self._keys = np.append(pair_keys(queries, passages), np.iinfo(np.int64).max)
        self._gains = np.append(gains.astype(np.float64), 0.0)

    def values(self, run: Run) -> np.ndarray:
        """(Q', M): `metric_values` of a run of the set, for the scored queries."""
        ranked = run[1][self.queries, : self.cutoffs[-1]]  # (Q', K)
        keys = pair_keys(self.queries[:, None], ranked)
        positions = np.searchsorted(self._keys, keys)
        gains = np.where((self._keys[positions] == keys) & (ranked >= 0), self._gains[positions], 0.0)
        return metric_values(gains, self._relevant, self.cutoffs)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What one system scored on one retrieval set.

    Attributes:
        retrieval_set: the set.
        label: names the system, as tables show it.
        cutoffs: the ranks K of the metrics, ascending.
        metrics: name@K -> mean over the scored queries.
        intervals: name@K -> (low, high), the interval at 95 %.
        scored: (Q',) indices of the scored queries: those that have a relevant passage.
        values: (Q', M), float64, a row a scored query, a column a metric in the order of `metrics`.
        run: scores and indices (Q, K) of all queries, K being at least the largest cutoff, or the size of the corpus.
        hybrid: the same model together with BM25; None where that was not asked for.
        weight: a hybrid's; None of any other system.
        bytes_per_passage: of its vector; None of a system that has none, or more than vectors.
        dev: the same model on the dev set; None where that was not asked for.
    """

    retrieval_set: RetrievalSet
    label: str
    cutoffs: tuple[int, ...]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scored: np.ndarray
    values: np.ndarray
    run: Run
    hybrid: "Evaluation | None" = None
    weight: Weight | None = None
    bytes_per_passage: int | None = None
    dev: "Evaluation | None" = None

    @property
    def set_name(self) -> str:
        """The name of the retrieval set."""
        return self.retrieval_set.name

    @property
    def passages(self) -> int:
        """The size of the corpus searched; scores over different corpora do not compare."""
        return len(self.retrieval_set.passages)

    @functools.cached_property
    def threshold(self) -> dict | None:
        """`threshold.calibrated` on the dev set and checked here; None without dev set, or where no threshold is good enough."""
        if self.dev is None:
            return None
        return calibrated(*(first_found(each.retrieval_set, each.run, each.scored) for each in (self.dev, self)))

    @property
    def no_threshold(self) -> dict | None:
        """Why the dev set gives none: `threshold.lacks`; None where there is one, or no dev set."""
        if self.dev is None or self.threshold is not None:
            return None
        return lacks(*first_found(self.dev.retrieval_set, self.dev.run, self.dev.scored))

    def save(self, folder: str | os.PathLike, facts: Mapping | None = None) -> None:
        """Write metrics.json, with further facts, per_query.jsonl and run.trec; the folder appears complete, and replaces an older one."""
        with new_folder(folder) as temporary:
            summary = {
                "set": self.set_name,
                "label": self.label,
                "queries": len(self.scored),
                "passages": self.passages,
                "counts": dataclasses.asdict(self.retrieval_set.counts),
                "bytes_per_passage": self.bytes_per_passage,
                "metrics": self.metrics,
                "interval_level": LEVEL,
                "intervals": {name: list(ends) for name, ends in self.intervals.items()},
                "threshold": self.threshold,
                **(facts or {}),
            }
            write_json(temporary / "metrics.json", summary)
            write_lines(temporary / "per_query.jsonl", map(line_of, self.queries()))
            write_trec(temporary / "run.trec", self.retrieval_set, self._measured, self.label)

    def queries(self, chosen: Sequence[int] | slice = slice(None)) -> Iterator[dict]:
        """Yield what per_query.jsonl says of each scored query, or of those at some positions of `scored`: `per_query.queries`."""
        return queries(self.retrieval_set, self._measured, self.scored[chosen], list(self.metrics), self.values[chosen])

    @property
    def _measured(self) -> Run:
        """The run as deep as the metrics look."""
        return tuple(part[:, : self.cutoffs[-1]] for part in self.run)


def evaluate_run(
    retrieval_set: RetrievalSet, run: Run, cutoffs: Sequence[int], label: str, *, samples: int = SAMPLES, seed: int = 0
) -> Evaluation:
    """Score a run against the judgements of its set.

    Args:
        retrieval_set: the set.
        run: scores and indices (Q, K), a row for each query of the set; K should reach the largest cutoff.
        cutoffs: the ranks K, each at least 1.
        label: names the system.
        samples: bootstrap resamples for the intervals, at least 1.
        seed: fixes the resamples.

    Raises:
        DataError: no query has a relevant passage.
        ConfigurationError: a cutoff is no rank.
    """
    judgements = Judgements(retrieval_set, cutoffs)
    values = judgements.values(run)
    metrics = means(values, judgements.cutoffs)
    ends = mean_intervals(values, level=LEVEL, samples=samples, seed=seed).tolist()  # (M, 2)
    intervals = {name: (low, high) for name, (low, high) in zip(metrics, ends, strict=True)}
    return Evaluation(retrieval_set, label, judgements.cutoffs, metrics, intervals, judgements.queries, values, run)


def of_queries(evaluation: Evaluation, queries: np.ndarray, *, samples: int = SAMPLES, seed: int = 0) -> Evaluation:
    """The evaluation of some of a set's queries alone, with its hybrid; nothing is ranked again.

    Args:
        evaluation: of all of them.
        queries: (n,) indices of queries of the set, ascending; one of them at least is scored.
        samples: bootstrap resamples for the intervals, at least 1.
        seed: fixes the resamples.
    """
    part, run = with_queries(evaluation.retrieval_set, queries), (evaluation.run[0][queries], evaluation.run[1][queries])
    cut = evaluate_run(part, run, evaluation.cutoffs, evaluation.label, samples=samples, seed=seed)
    hybrid = evaluation.hybrid and of_queries(evaluation.hybrid, queries, samples=samples, seed=seed)
    kept = {name: getattr(evaluation, name) for name in ("weight", "bytes_per_passage", "dev")}
    return dataclasses.replace(cut, hybrid=hybrid, **kept)


def score_model(encoder: Encoder, retrieval_set: RetrievalSet, evaluation, label: str, **options) -> Evaluation:
    """Rank the set's whole corpus for each query and score it; see `score_sizes` for the arguments."""
    return _scored(encoder, retrieval_set, evaluation, label, [Kind()], **options)[0]


def score_sizes(
    encoder: Encoder,
    retrieval_set: RetrievalSet,
    evaluation,
    label: str,
    *,
    seed: int = 0,
    cache: Path | None = None,
    bm25: Evaluation | None = None,
    weight: Weight | DevSet | None = None,
    dev: RetrievalSet | None = None,
    centre: Centre | None = None,
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Score a model, and the same with vectors of `evaluation.dimensions` and `evaluation.precisions`; texts are encoded once.

    Args:
        encoder: the model.
        retrieval_set: the set.
        evaluation: the settings of the `evaluation` group: cutoffs, bm25, batch_tokens, intervals, dimensions, precisions.
        label: the model's name in tables.
        seed: of the bootstrap.
        cache: where the passages' vectors are kept; None keeps them in memory, once.
        bm25: BM25 on the set.
        weight: of a hybrid of the two, or what it is chosen on; None: there is none.
        dev: a set that is not reported, and ranked as well; where `weight` is chosen on a set, the same.
        centre: that binary vectors are about; None: the set's own passages'.

    Returns:
        The evaluation of whole vectors, and those of small ones by `Kind.key`.
    """
    kinds = small_kinds(dimensions(evaluation, encoder.dimension), evaluation.precisions)
    options = {"seed": seed, "cache": cache, "bm25": bm25, "weight": weight, "dev": dev, "centre": centre}
    whole, *small = _scored(encoder, retrieval_set, evaluation, label, [Kind(), *kinds], **options)
    return whole, {kind.key: each for kind, each in zip(kinds, small, strict=True)}


def dimensions(evaluation, largest: int) -> list[int]:
    """The cuts of the vectors that are measured beside the whole, in descending order.

    Raises:
        ConfigurationError: one is no whole number from 1 to the model's dimension.
    """
    chosen = list(evaluation.dimensions or ())
    for dimension in chosen:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= largest:
            raise ConfigurationError(f"evaluation.dimensions={chosen}: must be whole numbers from 1 to {largest}, the model's")
    return sorted({dimension for dimension in chosen if dimension < largest}, reverse=True)


def score_bm25(retrieval_set: RetrievalSet, evaluation, *, seed: int = 0) -> Evaluation | None:
    """Score the lexical reference; None when `evaluation.bm25` switches it off."""
    if evaluation.bm25 is None:
        return None
    run = bm25_run(retrieval_set, depth(evaluation.cutoffs), evaluation.bm25)
    label = f"BM25 ({evaluation.bm25})"
    return evaluate_run(retrieval_set, run, list(evaluation.cutoffs), label, samples=evaluation.intervals, seed=seed)


def kept_vectors(encoder: Encoder, part: RetrievalSet, whole: RetrievalSet, evaluation, cache: Path) -> np.ndarray:
    """(P, D): vectors of the passages of a part of a set that `score_model` has scored and kept in the cache."""
    passages = encode_collection(encoder, whole.passages, "passage", batch_tokens=evaluation.batch_tokens, cache=cache)
    positions = whole.passage_ids.positions_of(part.passage_ids)
    return np.array(passages[[positions[passage_id] for passage_id in part.passage_ids]])


def evaluator(
    retrieval_set: RetrievalSet, evaluation, first_passages: np.ndarray | None = None
) -> Callable[[Encoder], dict[str, float]]:
    """The function that `ContrastiveTrainer` calls at each evaluation: it returns the means only and writes no file.

    Args:
        retrieval_set: the set.
        evaluation: the settings of the `evaluation` group.
        first_passages: (P, D), vectors of the passages by the model of the first call, where they are there already.
    """
    judgements = Judgements(retrieval_set, list(evaluation.cutoffs))
    queries = RepeatedTexts(retrieval_set.queries, "query", evaluation.batch_tokens)
    passages = RepeatedTexts(retrieval_set.passages, "passage", evaluation.batch_tokens, first_passages)

    def evaluate(encoder: Encoder) -> dict[str, float]:
        vectors, measured = (queries.vectors(encoder), passages.vectors(encoder)), {}
        for size in [None, *dimensions(evaluation, encoder.dimension)]:
            run = _run(*vectors, Kind(size), retrieval_set, max(evaluation.cutoffs), encoder)
            values = judgements.values(run)
            prefix = "" if size is None else f"{size}d_"
            measured.update({prefix + name: mean for name, mean in means(values, judgements.cutoffs).items()})
        return measured

    return evaluate


def _scored(
    encoder, retrieval_set, evaluation, label, kinds, *, seed=0, cache=None, bm25=None, weight=None, dev=None, centre=None
) -> list[Evaluation]:
    """An evaluation for each kind of vectors; the first is of whole ones."""
    tokens, evaluations = evaluation.batch_tokens, []
    scored = functools.partial(evaluate_run, cutoffs=list(evaluation.cutoffs), samples=evaluation.intervals, seed=seed)
    passages = encode_collection(encoder, retrieval_set.passages, "passage", batch_tokens=tokens, cache=cache)
    queries = encode_collection(encoder, retrieval_set.queries, "query", batch_tokens=tokens)
    if centre is None and any(kind.precision == "binary" for kind in kinds):
        centre = centre_of(passages, retrieval_set.name)
    for kind in kinds:
        run = _run(queries, passages, kind, retrieval_set, depth(evaluation.cutoffs), encoder, centre)
        size = kind.bytes_per_passage(encoder.dimension)
        each = scored(retrieval_set, run, label=label + kind.words)
        evaluations.append(dataclasses.replace(each, bytes_per_passage=size))
    whole, chosen_on = evaluations[0], weight if isinstance(weight, DevSet) else dev and DevSet(dev, None)
    if chosen_on is not None:
        vectors = _vectors_of(encoder, chosen_on, retrieval_set, passages, tokens)
        run = dense_run(*vectors, chosen_on.retrieval_set, depth(evaluation.cutoffs), device=encoder.device)
        if chosen_on is weight:
            weight = _chosen(weight, evaluation, run, *vectors)
        if dev is not None:
            whole = dataclasses.replace(whole, dev=scored(chosen_on.retrieval_set, run, label=label))
    if weight is not None:
        (run,) = hybrid_runs(whole.run, bm25.run, queries, passages, [weight.value], max(evaluation.cutoffs))
        whole = dataclasses.replace(
            whole, hybrid=dataclasses.replace(scored(retrieval_set, run, label=weight.label), weight=weight)
        )
    return [whole, *evaluations[1:]]


def _vectors_of(encoder: Encoder, dev: DevSet, reported: RetrievalSet, passages: np.ndarray | Shards, tokens: int) -> tuple:
    """Vectors of a dev set's queries and passages; those of the reported set's passages are there already."""
    each, rows = dev.retrieval_set, dev.rows_in(reported)
    queries = encode_collection(encoder, each.queries, "query", batch_tokens=tokens)
    if rows is None:
        return queries, encode_collection(encoder, each.passages, "passage", batch_tokens=tokens)
    return queries, passages[rows]


def _chosen(dev: DevSet, evaluation, dense: Run, queries: np.ndarray, passages: np.ndarray | Shards) -> Weight:
    """The weight with the best main metric on a dev set, of which the model's run and vectors are given."""
    each, metric = dev.retrieval_set, main_metric(evaluation.cutoffs)
    cutoff = int(metric.rpartition("@")[2])
    judgements = Judgements(each, [cutoff])
    runs = hybrid_runs(dense, dev.bm25, queries, passages, GRID, cutoff)
    values = (means(judgements.values(run), judgements.cutoffs)[metric] for run in runs)
    curve = dict(zip(GRID, values, strict=True))
    return Weight(best_weight(curve), f"chosen on {each.name}", curve)


def _run(
    queries, passages, kind: Kind, retrieval_set: RetrievalSet, k: int, encoder: Encoder, centre: Centre | None = None
) -> Run:
    exact = None
    if kind.precision is not None:
        about = None if centre is None else centre.vector
        queries, passages, exact = quantised(queries, passages, kind.precision, kind.size, about)
    elif kind.size is not None:
        queries, passages = (first_components(vectors, kind.size) for vectors in (queries, passages))
    return dense_run(queries, passages, retrieval_set, k, device=encoder.device, rescored_by=exact if kind.rescored else None)
