"""The `evaluate` module of this project's metrics: `evaluate.load("<path of this file>")`, never from the hub.

`evaluate` copies this one file to its cache and reads its imports line by line: one import a line, all absolute.
"""

import datasets
import evaluate

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
        qrels = {
            number: dict(zip(reference["passage_ids"], reference["relevance"], strict=True))
            for number, reference in enumerate(references)
        }
        means, values = metrics.ranking_metrics(dict(enumerate(predictions)), qrels, list(cutoffs))
        return {**means, "per_query": [values.get(number) for number in qrels]} if per_query else means
