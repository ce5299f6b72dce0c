"""Runs, query id -> passage id -> score: from vectors, from BM25, and as TREC files."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.metrics import ordered
from e5ft.retrieval.search import top_k
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.shards import Shards, search_shards

Run = dict[str, dict[str, float]]


def dense_run(
    query_vectors: np.ndarray | torch.Tensor,
    passage_vectors: np.ndarray | torch.Tensor | Shards,
    retrieval_set: RetrievalSet,
    k: int,
    *,
    device: str | torch.device = "cpu",
) -> Run:
    """Rank the passages for every query by the dot product of their vectors.

    Args:
        query_vectors: (Q, D), floating point, in the order of the set's queries; unit vectors for the cosine.
        passage_vectors: (P, D), floating point, in the order of the set's passages; may be a memory map, or shards, of which
            each process searches its own (all processes must call this together).
        retrieval_set: the set.
        k: passages a query, at least 1.
        device: where the products are computed.

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
    scores, indices = search(query_vectors, passage_vectors, k, device=device)
    names = _names(retrieval_set, np.unique(indices).tolist())
    return {
        query_id: {names[index]: score for index, score in zip(row, values, strict=True)}
        for query_id, row, values in zip(retrieval_set.query_ids, indices.tolist(), scores.tolist(), strict=True)
    }


def bm25_run(retrieval_set: RetrievalSet, k: int, tokenisation: str = "bigrams") -> Run:
    """Rank the passages for every query with BM25 (k1 1.5, b 0.75).

    Args:
        retrieval_set: the set.
        k: passages a query, at least 1.
        tokenisation: "bigrams", "kiwi" or "words", see `BM25`.

    Returns:
        The run; at most k passages a query, none of score 0.

    Raises:
        ConfigurationError: k is below 1, the tokenisation is unknown, or kiwipiepy is not installed.
    """
    found = BM25(retrieval_set.passages, tokenisation=tokenisation).search(retrieval_set.queries, k)
    names = _names(retrieval_set, sorted({index for hits in found for index, _ in hits}))
    return {
        query_id: {names[index]: score for index, score in hits}
        for query_id, hits in zip(retrieval_set.query_ids, found, strict=True)
    }


def write_trec(path: str | os.PathLike, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write `query Q0 passage rank score tag` lines, ranks from 1, scores in full precision.

    trec_eval orders equal scores by descending id, whatever the ranks here say: with ties its figures may differ.

    Args:
        path: the file; not atomic, write it inside `files.new_folder`.
        run: ids without white space.
        tag: names the system; white space becomes an underscore.

    Raises:
        DataError: a score is NaN.
    """
    tag = re.sub(r"\s+", "_", tag.strip()) or "run"
    with open(path, "w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            for rank, passage_id in enumerate(ordered(scores), start=1):
                file.write(f"{query_id} Q0 {passage_id} {rank} {float(scores[passage_id])!r} {tag}\n")


def read_trec(path: str | os.PathLike) -> Run:
    """Read a run file; the inverse of `write_trec`, except that a query without a result leaves no trace.

    Raises:
        DataError: the file is missing, or a line is faulty (`path:line: reason`).
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such run file")
    run: Run = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            score = _score(fields[4]) if len(fields) == 6 else math.nan
            if math.isnan(score):
                raise DataError(f"{path}:{number}: `query Q0 passage rank score tag` is needed: {line.strip()[:60]!r}")
            scores = run.setdefault(fields[0], {})
            if fields[2] in scores:
                raise DataError(f"{path}:{number}: passage {fields[2]!r} stands twice under query {fields[0]!r}")
            scores[fields[2]] = score
    return run


def _score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _names(retrieval_set: RetrievalSet, positions: list[int]) -> dict[int, str]:
    """Ids of the passages found, each one string object however many queries find it."""
    return dict(zip(positions, retrieval_set.passage_ids.take(positions), strict=True))
