"""What of chunks and queries is left out: near-duplicates, queries of several chunks, and those that do not find their own."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from e5ft.data.text import text_id
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.hybrid import CANDIDATES, DEFAULT_WEIGHT, hybrid_runs
from e5ft.synthesis.chunks import Chunk
from e5ft.synthesis.queries import Query

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder

# texts, queries and a number k -> (queries, at most k) indices of the texts that are found, best first, -1: no more
Search = Callable[[Sequence[str], Sequence[str], int], np.ndarray]


def distinct(chunks: Sequence[Chunk]) -> tuple[list[int], dict[int, int]]:
    """Which chunks are no near-copy of an earlier one (`NearCopies`, the definition of all commands).

    Returns:
        Their numbers, ascending; and of every other one the number of that which stands for it.
    """
    texts = [chunk.text for chunk in chunks]
    original: dict[int, int] = {}
    first: dict[int, int] = {}
    for number, text in enumerate(texts):
        earlier = first.setdefault(text_id(text), number)
        if earlier != number:
            original[number] = earlier
    kept = list(first.values())
    for copy, other in NearCopies([texts[n] for n in kept]).pairs([texts[n] for n in kept]).tolist():
        copy, other = kept[copy], kept[other]
        if other < copy and copy not in original and other not in original:
            original[copy] = other
    return [number for number in range(len(texts)) if number not in original], original


def near_queries(queries: Sequence[Query]) -> np.ndarray:
    """Pairs (n, 2) int64 of queries that are near-copies, or equal, each pair both ways and none with itself."""
    texts = [query.text for query in queries]
    pairs = NearCopies(texts).pairs(texts) if texts else np.empty((0, 2), np.int64)
    groups: dict[int, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        groups[text_id(text)].append(number)
    equal = [(a, b) for group in groups.values() if len(group) < 50 for a in group for b in group]
    pairs = np.concatenate([pairs, np.array(equal, np.int64).reshape(-1, 2)])
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def repeated(queries: Sequence[Query], pairs: np.ndarray) -> dict[int, str]:
    """Queries to leave out, by number, and why.

    Args:
        queries: in the order of their worth.
        pairs: of `near_queries`.
    """
    chunks_of: dict[int, set[int]] = defaultdict(set)
    for query in queries:
        chunks_of[text_id(query.text)].add(query.chunk)
    out = {n: "asks for several chunks" for n, query in enumerate(queries) if len(chunks_of[text_id(query.text)]) > 1}
    for later, earlier in pairs.tolist():
        if earlier < later and earlier not in out and queries[earlier].chunk == queries[later].chunk:
            out.setdefault(later, "near-duplicate of another query of the chunk")
    return out


def lost(queries: Sequence[Query], chunks: Sequence[Chunk], k: int, search: Search) -> set[int]:
    """Queries that do not find their chunk among the first k, by number.

    Where the query stood in its chunk, the chunk is searched without it.

    Source: round-trip consistency, Alberti et al. 2019 (https://doi.org/10.18653/v1/P19-1620); as a filter of retrieval by
    Dai et al. 2022 (Promptagator).
    """
    texts = [chunk.text for chunk in chunks]
    parts: dict[str, list[int]] = defaultdict(list)
    for number, query in enumerate(queries):
        parts["" if query.passage == texts[query.chunk] else query.kind].append(number)
    missing: set[int] = set()
    for part in parts.values():
        changed = list(texts)
        for number in part:
            changed[queries[number].chunk] = queries[number].passage
        found = search(changed, [queries[number].text for number in part], k)
        right = np.array([queries[number].chunk for number in part])
        missing |= {part[place] for place in np.flatnonzero(~(found == right[:, None]).any(axis=1)).tolist()}
    return missing


def searching(bm25: str, encoder: "Encoder | None", cache: Path) -> Search:
    """A search by the hybrid of a model and BM25; by BM25 alone without a model.

    Args:
        bm25: how BM25 cuts texts.
        encoder: the model; None: there is none.
        cache: where vectors are kept.
    """

    def search(texts: Sequence[str], queries: Sequence[str], k: int) -> np.ndarray:
        lexical = BM25(texts, tokenisation=bm25).search(queries, max(k, CANDIDATES))
        if encoder is None:
            return lexical[1][:, :k]
        from e5ft.retrieval.search import top_k
        from e5ft.retrieval.vectors import encode_collection

        passages = encode_collection(encoder, texts, "passage", cache=cache)
        vectors = encode_collection(encoder, queries, "query", cache=cache)
        dense = top_k(vectors, passages, max(k, CANDIDATES))
        [run] = hybrid_runs(dense, lexical, np.asarray(vectors), passages, [DEFAULT_WEIGHT], k)
        return run[1]

    return search
