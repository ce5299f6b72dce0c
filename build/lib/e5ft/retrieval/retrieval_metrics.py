"""The `evaluate` module of this project's metrics: `evaluate.load("<path of this file>")`, never from the hub.

`evaluate` copies this one file to its cache and reads its imports line by line: one import a line, all absolute.
"""

from collections import Counter

import datasets
import evaluate
import numpy as np

from e5ft.errors import DataError
from e5ft.retrieval import metrics

DESCRIPTION = "Recall@K, hit@K, MRR@K, nDCG@K and MAP@K of rankings, with trec_eval's definitions."
INPUTS = """
Args:
    predictions: per query, the passage ids, best first.
    references: per query, {"passage_ids": [...], "relevance": [...]}, whole numbers; above 0 is relevant.
    cutoffs: the ranks K; [1, 10, 100] unless given.
    per_query: also return every query's values, as a list under "per_query" (None for a query left out).
Returns:
    {"recall@K", "hit@K", "mrr@K", "ndcg@K", "map@K": mean over the queries that have a relevant passage}.
"""


class RetrievalMetrics(evaluate.Metric):
    """Means over queries; the arithmetic is `e5ft.retrieval.metrics`."""

    def _info(self):
        reference = {
            "passage_ids": datasets.List(datasets.Value("string")),
            "relevance": datasets.List(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.List(datasets.Value("string")), "references": reference}),
        )

    def _compute(self, predictions, references, cutoffs=(1, 10, 100), per_query=False):
        cutoffs, scored = metrics.check_cutoffs(list(cutoffs)), {}
        for number, (ranking, reference) in enumerate(zip(predictions, references, strict=True)):
            judged = dict(zip(reference["passage_ids"], reference["relevance"], strict=True))
            relevant = {passage_id: value for passage_id, value in judged.items() if value > 0}
            repeated = [passage_id for passage_id, count in Counter(ranking).items() if count > 1]
            if repeated:
                raise DataError(f"predictions[{number}]: the passage {repeated[0]!r} must not be ranked twice")
            if relevant:
                scored[number] = list(relevant.values()), [relevant.get(passage_id, 0) for passage_id in ranking]
        if not scored:
            raise DataError(f"none of the {len(references)} queries has a relevant passage: there is nothing to score")
        gains = np.zeros((len(scored), max(map(len, predictions))))
        for row, (_, ranked) in zip(gains, scored.values(), strict=True):
            row[: len(ranked)] = ranked
        values = metrics.metric_values(gains, [relevant for relevant, _ in scored.values()], cutoffs)
        result = metrics.means(values, cutoffs)
        if per_query:
            by_query = {number: dict(zip(result, row, strict=True)) for number, row in zip(scored, values.tolist(), strict=True)}
            result["per_query"] = [by_query.get(number) for number in range(len(references))]
        return result
