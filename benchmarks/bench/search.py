"""Exact top-k search beside faiss's flat index and a plain matrix product."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench.lines import check_close
from benchmarks.bench.timing import in_turns
from e5ft.retrieval.search import top_k

DIMENSION, K, QUERY_CHUNK = 384, 100, 100
OURS, FAISS, MATMUL = "e5ft", "faiss flat", "matmul"


def compare(folder: Path, *, passages: int, queries: int, repetitions: int) -> dict:
    """All three, on the same random unit vectors; the index is built beforehand.

    Raises:
        Void: the k-th scores differ by more than 1e-5.
    """
    corpus, asked = _vectors(passages, queries)
    calls = {name: _search(name, corpus, asked) for name in (OURS, FAISS, MATMUL)}
    last = {name: np.asarray(call()[0])[:, -1] for name, call in calls.items()}
    for name in (FAISS, MATMUL):
        check_close(f"{passages:,} passages: k-th score against {name}", float(np.abs(last[OURS] - last[name]).max()), 1e-5)
    return in_turns(calls, repetitions)


def memory(folder: Path, *, passages: int, queries: int, contender: str) -> dict:
    """One contender's search, for the peak of its process; the corpus itself is part of it."""
    corpus, asked = _vectors(passages, queries)
    _search(contender, corpus, asked)()
    return {"corpus_mb": corpus.nbytes / 2**20}


def _vectors(passages: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return tuple(_unit(generator, count) for count in (passages, queries))


def _unit(generator: np.random.Generator, count: int) -> np.ndarray:
    vectors = generator.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def _search(name: str, corpus: np.ndarray, queries: np.ndarray) -> Callable[[], tuple]:
    if name == OURS:
        return lambda: top_k(queries, corpus, K)
    if name == FAISS:
        import faiss

        index = faiss.IndexFlatIP(DIMENSION)
        index.add(corpus)
        return lambda: index.search(queries, K)
    passages, asked = torch.from_numpy(corpus), torch.from_numpy(queries)

    def matmul():  # a hundred queries at once: 1,000 x 1M scores would be 4 GB
        found = [(piece @ passages.T).topk(K) for piece in asked.split(QUERY_CHUNK)]
        return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

    return matmul
