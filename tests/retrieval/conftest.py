"""Small retrieval sets, and runs of them written by hand."""

import numpy as np

from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet


def make_set(qrels, passages=("d1", "d2", "d3", "d4"), name="small") -> RetrievalSet:
    """A set of these judgements, whose texts say nothing."""
    texts = [StringColumn(["글"] * len(ids)) for ids in (qrels, passages)]
    return RetrievalSet(name, StringColumn(qrels), texts[0], StringColumn(passages), texts[1], qrels)


def make_run(retrieval_set: RetrievalSet, scores: dict[str, dict[str, float]]):
    """Query id -> passage id -> score as the arrays that a search gives."""
    passages, width = list(retrieval_set.passage_ids), len(retrieval_set.passage_ids)
    values = np.full((len(retrieval_set.query_ids), width), -np.inf, np.float32)
    indices = np.full(values.shape, -1)
    for row, query in enumerate(retrieval_set.query_ids):
        ranked = sorted(scores.get(query, {}).items(), key=lambda item: (-item[1], item[0]))
        for rank, (passage, score) in enumerate(ranked):
            values[row, rank], indices[row, rank] = score, passages.index(passage)
    return values, indices
