"""Evaluation: a retrieval set and a run -> metrics through `evaluate`, intervals, files, comparisons and tables."""

import dataclasses
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from e5ft.data.lines import BadLine, read_json_lines
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import new_folder, read_json, write_json
from e5ft.retrieval.metrics import check_cutoffs, ordered
from e5ft.retrieval.runs import Run, bm25_run, dense_run, read_trec, write_trec
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.significance import bootstrap_interval, bootstrap_intervals, sign_flip_p
from e5ft.retrieval.table import format_table

__all__ = [
    "Difference", "Evaluation", "bm25_run", "bootstrap_interval", "dense_run", "evaluate_run", "format_table",
    "load_evaluation", "load_metric", "paired_difference",
]  # fmt: skip

METRIC_FILE = Path(__file__).with_name("retrieval_metrics.py")
LEVEL = 0.95
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one system scored on one retrieval set.

    Attributes:
        set_name: of the retrieval set.
        label: of the system, as tables show it.
        passages: size of the corpus searched; scores over different corpora do not compare.
        metrics: name@K -> mean over the scored queries.
        intervals: name@K -> (low, high), the bootstrap interval at 95 %.
        per_query: query id -> name@K -> value; queries with a relevant passage only.
        run: query id -> passage id -> score.
    """

    set_name: str
    label: str
    passages: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_query: dict[str, dict[str, float]]
    run: Run

    def save(self, folder: str | os.PathLike) -> None:
        """Write metrics.json, per_query.jsonl and run.trec; the folder appears complete, and replaces an older one."""
        with new_folder(folder) as temporary:
            summary = {
                "set": self.set_name,
                "label": self.label,
                "queries": len(self.per_query),
                "passages": self.passages,
                "metrics": self.metrics,
                "interval_level": LEVEL,
                "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            }
            write_json(temporary / "metrics.json", summary)
            with open(temporary / "per_query.jsonl", "w", encoding="utf-8") as file:
                for query_id, values in self.per_query.items():
                    file.write(json.dumps({"query": query_id, **values}, ensure_ascii=False, allow_nan=False) + "\n")
            write_trec(temporary / "run.trec", self.run, self.label)


def load_evaluation(folder: str | os.PathLike) -> Evaluation:
    """Read what `Evaluation.save` wrote.

    Raises:
        DataError: a file is missing or not as `save` writes it.
    """
    folder, per_query = Path(folder), {}
    for _, value in read_json_lines(folder / "per_query.jsonl"):
        if isinstance(value, BadLine):
            raise DataError(str(value))
        per_query[value.pop("query", None)] = value
    try:
        summary = read_json(folder / "metrics.json")
        return Evaluation(
            set_name=summary["set"],
            label=summary["label"],
            passages=summary["passages"],
            metrics=summary["metrics"],
            intervals={name: (low, high) for name, (low, high) in summary["intervals"].items()},
            per_query=per_query,
            run=read_trec(folder / "run.trec"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'metrics.json'}: not as an evaluation is saved ({error!r}); evaluate again") from error


def load_metric():
    """Load this project's `evaluate` module from its file in the package: no hub, no lock, nothing left behind.

    Returns:
        The `evaluate.Metric`; it keeps its inputs in memory, so that any number of processes may compute at a time.
    """
    import evaluate  # here, since it takes seconds and mining needs none of it

    with tempfile.TemporaryDirectory() as scratch:  # it insists on making a folder, and keeps nothing there
        arguments = {"cache_dir": scratch, "keep_in_memory": True, "experiment_id": uuid.uuid4().hex}
        try:
            return evaluate.load(str(METRIC_FILE), module_type="metric", **arguments)
        except OSError as error:
            # `evaluate` copies the file to its cache (HF_MODULES_CACHE) first, which is read-only in some containers.
            # The class imported from where it stands is the same class: a run of days must not end over a copy.
            logger.warning("evaluate's module cache cannot be written (%s); the metric is imported in place", error)
            from e5ft.retrieval.retrieval_metrics import RetrievalMetrics

            return RetrievalMetrics(**arguments)


def evaluate_run(
    retrieval_set: RetrievalSet,
    run: Mapping[str, Mapping[str, float]],
    cutoffs: Sequence[int],
    label: str,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Score a run against the judgements of its set.

    Args:
        retrieval_set: the set.
        run: query id -> passage id -> score; a query that is missing counts as zero.
        cutoffs: the ranks K, each at least 1.
        label: names the system.
        samples: bootstrap resamples for the intervals, at least 1.
        seed: fixes the resamples.

    Returns:
        The evaluation.

    Raises:
        DataError: the run names a query or passage that the set does not have, a score is NaN, or nothing is judged.
        ConfigurationError: a cutoff is no rank.
    """
    cutoffs = check_cutoffs(cutoffs)
    _check_run(retrieval_set, run)
    qrels = retrieval_set.qrels
    result = load_metric().compute(
        predictions=[ordered(run.get(query_id, {}))[: cutoffs[-1]] for query_id in qrels],
        references=[{"passage_ids": list(judged), "relevance": list(judged.values())} for judged in qrels.values()],
        cutoffs=list(cutoffs),
        per_query=True,
    )
    per_query = {query_id: values for query_id, values in zip(qrels, result.pop("per_query"), strict=True) if values}
    table = np.array([list(values.values()) for values in per_query.values()])  # (Q, M)
    ends = bootstrap_intervals(table, level=LEVEL, samples=samples, seed=seed).tolist()  # (M, 2)
    return Evaluation(
        set_name=retrieval_set.name,
        label=label,
        passages=len(retrieval_set.passages),
        metrics=result,
        intervals={name: (low, high) for name, (low, high) in zip(result, ends, strict=True)},
        per_query=per_query,
        run={query_id: dict(scores) for query_id, scores in run.items()},
    )


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired comparison on one metric.

    Attributes:
        mean: mean over the queries of a's value minus b's.
        low: lower end of the bootstrap interval of the mean.
        high: its upper end.
        p_value: two-sided p of the sign-flip test.
    """

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(
    a: Evaluation, b: Evaluation, metric: str, *, level: float = LEVEL, samples: int = 2000, seed: int = 0
) -> Difference:
    """Compare two systems query by query: a minus b.

    Args:
        a: one evaluation, for instance of the fine-tuned model.
        b: the other, for instance of the base; of the same set, corpus size and queries.
        metric: name@K, in both.
        level: coverage of the interval, between 0 and 1.
        samples: bootstrap resamples, at least 1; the test takes five times as many sign patterns.
        seed: fixes both.

    Returns:
        The difference.

    Raises:
        DataError: set, corpus or queries differ.
        ConfigurationError: a metric that one of them lacks, or level or samples out of range.
    """
    _check_pair(a, b, metric)
    values = [a.per_query[query_id][metric] - b.per_query[query_id][metric] for query_id in sorted(a.per_query)]
    low, high = bootstrap_interval(values, level=level, samples=samples, seed=seed)
    return Difference(float(np.mean(values)), low, high, sign_flip_p(values, permutations=5 * samples, seed=seed))


def _check_run(retrieval_set: RetrievalSet, run: Mapping[str, Mapping[str, float]]) -> None:
    for query_id in run:
        if query_id not in retrieval_set.qrels:
            raise DataError(f"the run has the query {query_id!r}, which the set {retrieval_set.name!r} does not have")
    found = {passage_id: None for scores in run.values() for passage_id in scores}
    absent = found.keys() - retrieval_set.passage_ids.positions_of(found).keys()
    if absent:
        raise DataError(
            f"the run has the passage {min(absent)!r}, which the corpus of {retrieval_set.name!r} does not have "
            f"({len(absent)} such passages)"
        )


def _check_pair(a: Evaluation, b: Evaluation, metric: str) -> None:
    for field in ("set_name", "passages"):
        if getattr(a, field) != getattr(b, field):
            raise DataError(
                f"{a.label!r} and {b.label!r} do not compare: {field} {getattr(a, field)!r} and {getattr(b, field)!r}"
            )
    if a.per_query.keys() != b.per_query.keys():
        only = sorted(a.per_query.keys() ^ b.per_query.keys())
        raise DataError(f"{a.label!r} and {b.label!r} were not scored on the same queries: {only[0]!r} is in one only")
    for evaluation in (a, b):
        if metric not in evaluation.metrics:
            known = ", ".join(evaluation.metrics)
            raise ConfigurationError(f"{evaluation.label!r} has no metric {metric!r}; it has {known}")
