"""Runs: the passages found for every query of a retrieval set, from vectors or from BM25, and as a TREC file.

A run is two arrays (Q, K), as `search.top_k` gives them: scores, descending, and indices into the set's passages, -1 where
there are no more. Equal scores are ordered by index, which is id order in a `RetrievalSet`.
"""

import os
import re
from collections.abc import Callable

import numpy as np
import torch

from e5ft.errors import ConfigurationError
from e5ft.retrieval.bm25 import BM25, DEFAULT_TOKENISATION
from e5ft.retrieval.search import rescore, top_k
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.shards import Shards, search_shards
from e5ft.retrieval.small_vectors import Decoded

Run = tuple[np.ndarray, np.ndarray]
OVERSAMPLING = 4  # candidates that are scored again, a passage asked for: sentence-transformers' rescore_multiplier


def dense_run(
    query_vectors: np.ndarray | torch.Tensor,
    passage_vectors: np.ndarray | torch.Tensor | Shards | Decoded,
    retrieval_set: RetrievalSet,
    k: int,
    *,
    device: str | torch.device = "cpu",
    rescored_by: np.ndarray | None = None,
) -> Run:
    """Rank the passages for every query by the dot product of their vectors.

    Args:
        query_vectors: (Q, D), floating point, in the order of the set's queries; unit vectors for the cosine.
        passage_vectors: (P, D), floating point, in the order of the set's passages; may be a memory map, or shards, of which
            each process searches its own (all processes must call this together).
        retrieval_set: the set.
        k: passages a query, at least 1.
        device: where the products are computed.
        rescored_by: (Q, D), vectors by which the best `OVERSAMPLING` x k are scored again; None: they are not.

    Returns:
        The run, min(k, P) passages a query.

    Raises:
        ConfigurationError: the vectors do not go with the set, or k is below 1.
        NonFiniteError: a vector holds NaN or an infinity.
    """
    counts = len(query_vectors), len(passage_vectors)
    expected = len(retrieval_set.queries), len(retrieval_set.passages)
    if counts != expected:
        raise ConfigurationError(
            f"{counts[0]} query and {counts[1]} passage vectors do not go with the set {retrieval_set.name!r} of "
            f"{expected[0]} queries and {expected[1]} passages"
        )
    search = search_shards if isinstance(passage_vectors, Shards) else top_k

    def found(depth: int) -> Run:
        if rescored_by is None:
            return search(query_vectors, passage_vectors, depth, device=device)
        candidates = search(query_vectors, passage_vectors, OVERSAMPLING * depth, device=device)[1]
        return rescore(rescored_by, passage_vectors, candidates, depth)

    return ranked(retrieval_set, k, found)


def bm25_run(retrieval_set: RetrievalSet, k: int, tokenisation: str = DEFAULT_TOKENISATION) -> Run:
    """Rank the passages for every query with BM25 (k1 1.5, b 0.75): see `BM25.search`."""
    index = BM25(retrieval_set.passages, tokenisation=tokenisation)
    return ranked(retrieval_set, k, lambda depth: index.search(retrieval_set.queries, depth))


def ranked(retrieval_set: RetrievalSet, k: int, search: Callable[[int], Run]) -> Run:
    """The best k passages of a search of any depth, without those that the set leaves out of a query's ranking."""
    left_out = retrieval_set.left_out_at
    if (left_out < 0).all():
        return search(k)
    scores, indices = search(k + 1)
    out = (indices == left_out[:, None]) & (indices >= 0)  # (Q, K): one a row at most
    scores, indices = np.where(out, np.float32(-np.inf), scores), np.where(out, -1, indices)
    order = np.argsort(out, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def write_trec(path: str | os.PathLike, retrieval_set: RetrievalSet, run: Run, tag: str) -> None:
    """Write `query Q0 passage rank score tag` lines, ranks from 1, scores in full precision.

    trec_eval orders equal scores by descending id, whatever the ranks here say: with ties its figures may differ.

    Args:
        path: the file; not atomic, write it inside `files.new_folder`.
        retrieval_set: the set; its ids hold no white space.
        run: of the set.
        tag: names the system; white space becomes an underscore.
    """
    tag = re.sub(r"\s+", "_", tag.strip()) or "run"
    with open(path, "w", encoding="utf-8") as file:
        for query_id, scores, indices in zip(retrieval_set.query_ids, *run, strict=True):
            names = retrieval_set.passage_ids.take(indices[indices >= 0])
            for rank, (passage_id, score) in enumerate(zip(names, scores.tolist(), strict=False), start=1):
                file.write(f"{query_id} Q0 {passage_id} {rank} {score!r} {tag}\n")
