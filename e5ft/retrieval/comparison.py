"""Comparisons of evaluations: paired differences, and scores before and after training."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from e5ft.errors import ConfigurationError, DataError
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.evaluation import Evaluation, of_queries, score_model
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.significance import difference_intervals
from e5ft.retrieval.tables import headline, main_metric


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired comparison on one metric.

    Attributes:
        mean: mean over the queries of a's value minus b's.
        low, high: ends of the interval of the mean, at 95 %.
        p_value: two-sided p of the sign-flip test.
    """

    mean: float
    low: float
    high: float
    p_value: float

    def __neg__(self) -> "Difference":
        """b's values minus a's."""
        return Difference(0.0 - self.mean, 0.0 - self.high, 0.0 - self.low, self.p_value)


def paired_differences(
    a: Evaluation, b: Evaluation, metrics: Iterable[str] | None = None, *, seed: int = 0
) -> dict[str, Difference]:
    """Compare two systems query by query: a minus b.

    Args:
        a: one evaluation, for instance of the fine-tuned model.
        b: the other, for instance of the base; of the same set, corpus size and queries.
        metrics: names, name@K, in both; all of a's unless given.
        seed: fixes resamples and sign patterns.

    Returns:
        The difference on each metric.

    Raises:
        DataError: set, corpus or queries differ.
        ConfigurationError: one of them lacks a metric.
    """
    metrics = list(a.metrics if metrics is None else metrics)
    values = paired_values(a, b, metrics)
    ends, p_values = difference_intervals(values, seed=seed)
    rows = zip(
        metrics, np.ascontiguousarray(values.T).mean(axis=1).tolist(),
        ends.tolist(), p_values.tolist(), strict=True,
    )  # fmt: skip
    return {metric: Difference(mean, low, high, p_value) for metric, mean, (low, high), p_value in rows}


def paired_values(a: Evaluation, b: Evaluation, metrics: Sequence[str]) -> np.ndarray:
    """(Q', M) float64: a's value minus b's, a row a scored query in ascending order of ids, a column a metric.

    Raises:
        DataError: set, corpus or queries differ.
        ConfigurationError: one of them lacks a metric.
    """
    for field in ("set_name", "passages"):
        values = getattr(a, field), getattr(b, field)
        if values[0] != values[1]:
            raise DataError(f"{a.label!r} and {b.label!r} do not compare: {field} {values[0]!r} and {values[1]!r}")
    queries = [set(evaluation.retrieval_set.query_ids.take(evaluation.scored)) for evaluation in (a, b)]
    if queries[0] != queries[1]:
        only = min(queries[0] ^ queries[1])
        raise DataError(f"{a.label!r} and {b.label!r} were not scored on the same queries: {only!r} is in one only")
    columns = []
    for evaluation in (a, b):
        absent = [metric for metric in metrics if metric not in evaluation.metrics]
        if absent:
            known = ", ".join(evaluation.metrics)
            raise ConfigurationError(f"{evaluation.label!r} has no metric {absent[0]!r}; it has {known}")
        columns.append(evaluation.values[:, [list(evaluation.metrics).index(metric) for metric in metrics]])
    return columns[0] - columns[1]


def score_two(ours: Encoder, theirs: Encoder, retrieval_set: RetrievalSet, evaluation, *, seed: int = 0) -> dict:
    """Score two encoders on a set by the main metric.

    Args:
        ours, theirs: the encoders; no vectors are kept.
        retrieval_set: the set.
        evaluation: the settings of the `evaluation` group.
        seed: of the intervals.

    Returns:
        For JSON: `metric`, the number of scored `queries`, `ours` and `theirs` on them, `difference` (ours minus theirs).
    """
    metric = main_metric(evaluation.cutoffs)
    a, b = (score_model(encoder, retrieval_set, evaluation, "", seed=seed) for encoder in (ours, theirs))
    difference = dataclasses.asdict(paired_differences(a, b, [metric], seed=seed)[metric])
    scores = {"ours": a.metrics[metric], "theirs": b.metrics[metric]}
    return {"metric": metric, "queries": len(a.scored), **scores, "difference": difference}


@dataclasses.dataclass
class Scores:
    """One set's evaluations; bm25 and after may be missing. `small` are those of small vectors by `Kind.key`.

    Those of a model may hold a hybrid with BM25, which has a name here as well.
    """

    before: Evaluation
    bm25: Evaluation | None
    after: Evaluation | None = None
    small: dict[str, Evaluation] = dataclasses.field(default_factory=dict)

    def named(self) -> dict[str, Evaluation]:
        """The evaluations there are, in the order of the tables."""
        small = {f"after_{key}": each for key, each in self.small.items()}
        hybrids = {"hybrid": self.after and self.after.hybrid, "hybrid_before": self.before.hybrid}
        if self.before.hybrid is not None:
            hybrids["hybrid_before"] = dataclasses.replace(self.before.hybrid, label=f"before, {self.before.hybrid.label}")
        evaluations = {"before": self.before, "bm25": self.bm25, "after": self.after, **hybrids, **small}
        return {name: evaluation for name, evaluation in evaluations.items() if evaluation is not None}

    @property
    def files(self) -> dict[str, Evaluation]:
        """The same by the name of their folders below eval/<set>/."""
        return {
            {"before": "base", "after": "final", "hybrid_before": "hybrid_base"}.get(name, name): evaluation
            for name, evaluation in self.named().items()
        }

    def record(self) -> dict:
        """Labels, metrics and intervals, as the summary holds them."""
        return {name: {"label": e.label, "metrics": e.metrics, "intervals": e.intervals} for name, e in self.named().items()}

    def of_queries(self, queries: np.ndarray, *, samples: int, seed: int) -> "Scores":
        """The same of some of the set's queries alone; the arguments are those of `evaluation.of_queries`."""

        def cut(value):
            if isinstance(value, dict):
                return {key: cut(each) for key, each in value.items()}
            return of_queries(value, queries, samples=samples, seed=seed) if isinstance(value, Evaluation) else value

        return Scores(**{field.name: cut(getattr(self, field.name)) for field in dataclasses.fields(self)})

    def differences(self, seed: int) -> dict:
        """Metric -> after against before, paired over queries."""
        return {
            name: dataclasses.asdict(difference)
            for name, difference in paired_differences(self.after, self.before, seed=seed).items()
        }

    def hybrid_record(self, seed: int) -> dict | None:
        """The hybrid's weight and its paired differences to the model alone and to the hybrid before training; None: no hybrid."""
        hybrid, before = self.after.hybrid, self.before.hybrid
        if hybrid is None:
            return None
        rivals = {"differences": self.after, "differences_to_hybrid_before": before}
        weights = {"weight": hybrid.weight, "weight_before": before.weight}
        record, metrics = {name: dataclasses.asdict(weight) for name, weight in weights.items()}, headline(hybrid.cutoffs)
        for name, rival in rivals.items():
            found = paired_differences(hybrid, rival, metrics, seed=seed)
            record[name] = {metric: dataclasses.asdict(difference) for metric, difference in found.items()}
        return record


def keep_record(scores: Scores, seed: int) -> dict:
    """The summary's entry of a keep set: a set whose scores training must not lower."""
    return {
        "set": scores.after.set_name,
        "queries": len(scores.after.scored),
        "passages": scores.after.passages,
        "counts": dataclasses.asdict(scores.after.retrieval_set.counts),
        "scores": scores.record(),
        "differences": scores.differences(seed),
    }
