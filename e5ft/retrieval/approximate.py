"""Nearest neighbours behind one function: exact in chunks, or with FAISS where the corpus is too large for that."""

from pathlib import Path

import numpy as np
import torch

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import ivfpq
from e5ft.retrieval.search import top_k
from e5ft.retrieval.shards import Shards

METHODS = ("exact", "flat", "ivf", "ivfpq")
_CHUNK = 65_536  # vectors handed to FAISS at once: a memory map is never held as a whole
_TRAINING = 100  # vectors an IVF list to learn its centre from; FAISS asks for 39 to 256


def search(
    queries: np.ndarray,
    passages: np.ndarray | Shards,
    k: int,
    *,
    method: str = "exact",
    device: str | torch.device = "cpu",
    lists: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k passages with the largest dot product for every query.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32, may be a memory map, or shards.
        k: passages a query, at least 1.
        method: "exact": `top_k`, on CPU or GPU; "flat": FAISS over all vectors, on the CPU; "ivf": FAISS over the nearest
            of `lists` cells only, which misses some: see `approximate`; "ivfpq": the same with a few bytes a vector in place of
            the vectors, and exact scores of what is found (below `ivfpq.SMALLEST` vectors: exact).
        device: of the exact search.
        lists: cells of "ivf" and "ivfpq"; None takes four times the square root of P, no more than P.
        probes: cells searched for a query; None takes a sixteenth of them, at least 8.
        seed: of the vectors that the cells are learnt from.
        folder: where an index of "ivfpq" over memory maps is kept; None: in memory.

    Returns:
        Scores float32 (Q, min(k, P)), descending, and indices int64; where "ivf" or "ivfpq" finds fewer, the rest has the index -1
        (which Python would take for the last passage) and the score -inf.

    Raises:
        ConfigurationError: unknown method, k below 1, or faiss is not installed.
        DataError: there are no passages.
    """
    check_method(method)
    if method == "exact" or (method == "ivfpq" and len(passages) < ivfpq.SMALLEST):
        return top_k(queries, passages, k, device=device)
    import faiss

    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigurationError(f"k={k!r}: a whole number of at least 1 is needed")
    if not len(passages):
        raise DataError("the corpus is empty: there is nothing to search")
    if method == "ivfpq":
        return ivfpq.search_ivfpq(queries, passages, k, lists=lists, probes=probes, seed=seed, folder=folder)
    index = _flat(faiss, passages.shape[1]) if method == "flat" else _ivf(faiss, passages, lists, probes, seed)
    for start in range(0, len(passages), _CHUNK):
        index.add(np.ascontiguousarray(passages[start : start + _CHUNK], dtype=np.float32))
    scores, indices = index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, len(passages)))
    scores[indices < 0] = -np.inf
    return scores, indices


def check_method(method: str) -> None:
    """Raise unless a method can be used here; to be called before hours of encoding.

    Raises:
        ConfigurationError: unknown, or faiss is not installed.
    """
    if method not in METHODS:
        raise ConfigurationError(f"search={method!r}: one of {', '.join(METHODS)} is needed")
    if method != "exact":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"search={method} needs the package faiss: pip install faiss-cpu, or choose search=exact"
            ) from error


def approximate(method: str) -> bool:
    """Whether a method may miss passages."""
    return method in ("ivf", "ivfpq")


def _flat(faiss, dimension: int):
    return faiss.IndexFlatIP(dimension)


def _ivf(faiss, passages: np.ndarray, lists: int | None, probes: int | None, seed: int):
    count, dimension = passages.shape
    lists = min(count, lists or max(1, round(4 * count**0.5)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(lists, probes or max(8, lists // 16))
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1  # a small corpus is no reason for a warning
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: lists * _TRAINING])
    index.train(np.ascontiguousarray(passages[chosen], dtype=np.float32))
    return index
