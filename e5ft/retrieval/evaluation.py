"""Evaluation: a model or BM25 on a retrieval set -> metrics of every query, means, intervals and files."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from e5ft.errors import ConfigurationError, DataError
from e5ft.files import new_folder, write_json
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.metrics import check_cutoffs, means, metric_values
from e5ft.retrieval.runs import Run, bm25_run, dense_run, write_trec
from e5ft.retrieval.sets import RetrievalSet, pair_keys, with_queries
from e5ft.retrieval.significance import LEVEL, mean_intervals
from e5ft.retrieval.vectors import RepeatedTexts, encode_collection

_CUT_ROWS = 65_536  # rows of which the components that are cut off stand in memory


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
        self._keys, self._gains = pair_keys(queries, passages), gains.astype(np.float64)

    def values(self, run: Run) -> np.ndarray:
        """(Q', M): `metric_values` of a run of the set, for the scored queries."""
        ranked = run[1][self.queries, : self.cutoffs[-1]]  # (Q', K)
        keys = pair_keys(self.queries[:, None], ranked)
        positions = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
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
        run: scores and indices (Q, K) of all queries.
    """

    retrieval_set: RetrievalSet
    label: str
    cutoffs: tuple[int, ...]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scored: np.ndarray
    values: np.ndarray
    run: Run

    @property
    def set_name(self) -> str:
        """The name of the retrieval set."""
        return self.retrieval_set.name

    @property
    def passages(self) -> int:
        """The size of the corpus searched; scores over different corpora do not compare."""
        return len(self.retrieval_set.passages)

    def save(self, folder: str | os.PathLike) -> None:
        """Write metrics.json, per_query.jsonl and run.trec; the folder appears complete, and replaces an older one."""
        with new_folder(folder) as temporary:
            summary = {
                "set": self.set_name,
                "label": self.label,
                "queries": len(self.scored),
                "passages": self.passages,
                "counts": dataclasses.asdict(self.retrieval_set.counts),
                "metrics": self.metrics,
                "interval_level": LEVEL,
                "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            }
            write_json(temporary / "metrics.json", summary)
            query_ids = self.retrieval_set.query_ids.take(self.scored)
            with open(temporary / "per_query.jsonl", "w", encoding="utf-8") as file:
                for query_id, values in zip(query_ids, self.values.tolist(), strict=True):
                    line = {"query": query_id, **dict(zip(self.metrics, values, strict=True))}
                    file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            write_trec(temporary / "run.trec", self.retrieval_set, self.run, self.label)


def evaluate_run(
    retrieval_set: RetrievalSet, run: Run, cutoffs: Sequence[int], label: str, *, samples: int = 2000, seed: int = 0
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


def of_queries(evaluation: Evaluation, queries: np.ndarray, *, samples: int = 2000, seed: int = 0) -> Evaluation:
    """The evaluation of some of a set's queries alone; nothing is ranked again.

    Args:
        evaluation: of all of them.
        queries: (n,) indices of queries of the set, ascending; one of them at least is scored.
        samples: bootstrap resamples for the intervals, at least 1.
        seed: fixes the resamples.
    """
    part, run = with_queries(evaluation.retrieval_set, queries), (evaluation.run[0][queries], evaluation.run[1][queries])
    return evaluate_run(part, run, evaluation.cutoffs, evaluation.label, samples=samples, seed=seed)


def score_model(
    encoder: Encoder, retrieval_set: RetrievalSet, evaluation, label: str, *, seed: int = 0, cache: Path | None = None
) -> Evaluation:
    """Rank the set's whole corpus for each query and score it; see `score_sizes` for the arguments."""
    return _scored(encoder, retrieval_set, evaluation, label, [None], seed, cache)[0]


def score_sizes(
    encoder: Encoder, retrieval_set: RetrievalSet, evaluation, label: str, *, seed: int = 0, cache: Path | None = None
) -> tuple[Evaluation, dict[int, Evaluation]]:
    """Score a model, and the same with vectors cut to each of `evaluation.dimensions`; the texts are encoded once.

    Args:
        encoder: the model.
        retrieval_set: the set.
        evaluation: the settings of the `evaluation` group: cutoffs, bm25, batch_tokens, intervals, dimensions.
        label: the model's name in tables.
        seed: of the bootstrap.
        cache: where the passages' vectors are kept; None keeps them in memory, once.

    Returns:
        The evaluation of whole vectors, and those of the cuts by dimension.
    """
    sizes = dimensions(evaluation, encoder.dimension)
    whole, *cuts = _scored(encoder, retrieval_set, evaluation, label, [None, *sizes], seed, cache)
    return whole, dict(zip(sizes, cuts, strict=True))


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
    run = bm25_run(retrieval_set, max(evaluation.cutoffs), evaluation.bm25)
    label = f"BM25 ({evaluation.bm25})"
    return evaluate_run(retrieval_set, run, list(evaluation.cutoffs), label, samples=evaluation.intervals, seed=seed)


def evaluator(retrieval_set: RetrievalSet, evaluation) -> Callable[[Encoder], dict[str, float]]:
    """The function that `ContrastiveTrainer` calls at each evaluation: it returns the means only and writes no file."""
    judgements = Judgements(retrieval_set, list(evaluation.cutoffs))
    queries = RepeatedTexts(retrieval_set.queries, "query", evaluation.batch_tokens)
    passages = RepeatedTexts(retrieval_set.passages, "passage", evaluation.batch_tokens)

    def evaluate(encoder: Encoder) -> dict[str, float]:
        vectors, measured = (queries.vectors(encoder), passages.vectors(encoder)), {}
        for size in [None, *dimensions(evaluation, encoder.dimension)]:
            values = judgements.values(_run(*vectors, size, retrieval_set, evaluation, encoder))
            prefix = "" if size is None else f"{size}d_"
            measured.update({prefix + name: mean for name, mean in means(values, judgements.cutoffs).items()})
        return measured

    return evaluate


def _scored(encoder, retrieval_set, evaluation, label, sizes, seed, cache) -> list[Evaluation]:
    """An evaluation for each size of the vectors; None is the whole."""
    tokens, evaluations = evaluation.batch_tokens, []
    passages = encode_collection(encoder, retrieval_set.passages, "passage", batch_tokens=tokens, cache=cache)
    queries = encode_collection(encoder, retrieval_set.queries, "query", batch_tokens=tokens)
    for size in sizes:
        run = _run(queries, passages, size, retrieval_set, evaluation, encoder)
        name = label if size is None else f"{label}, first {size} dimensions"
        cutoffs = list(evaluation.cutoffs)
        evaluations.append(evaluate_run(retrieval_set, run, cutoffs, name, samples=evaluation.intervals, seed=seed))
    return evaluations


def _run(queries, passages, size: int | None, retrieval_set: RetrievalSet, evaluation, encoder: Encoder) -> Run:
    if size is not None:
        queries, passages = (_first_components(vectors, size) for vectors in (queries, passages))
    return dense_run(queries, passages, retrieval_set, max(evaluation.cutoffs), device=encoder.device)


def _first_components(vectors: np.ndarray, size: int) -> np.ndarray:
    """The first components (n, size) of vectors (n, D), at length 1 again."""
    chunks = (np.asarray(vectors[start : start + _CUT_ROWS])[:, :size] for start in range(0, len(vectors), _CUT_ROWS))
    cut = np.concatenate([np.array(chunk) for chunk in chunks])
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
