"""Hard negatives for rows: candidates from several finders, filtered, chosen; every candidate's fate is on record."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from e5ft import distributed
from e5ft.retrieval.approximate import search
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.candidates import (
    Finder,
    MiningIndex,
    Scorer,
    Searchers,
    bm25_finder,
    bm25_scorer,
    build_finders,
    dense_scorer,
    generator_of,
    remembered,
    sources_that_need,
)
from e5ft.retrieval.filters import LINE, OPEN, OWN, by_pair, fates
from e5ft.retrieval.settings import MiningSettings, Selection
from e5ft.retrieval.vectors import encode_collection

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder


def build_searches(
    index: MiningIndex, mining: MiningSettings, encoder: "Encoder | None", *, batch_tokens: int, cache: Path
) -> tuple[dict[str, Finder], Scorer | None]:
    """What each source finds, and one scorer for all: the model, else BM25, else none.

    Args:
        index: rows and passages.
        mining: the sources, and how they search.
        encoder: the model; None where no source needs one.
        batch_tokens: tokens that are encoded at once.
        cache: folder in which vectors are kept.
    """
    searchers, scorer = Searchers(index, mining.seed), None
    if sources_that_need("bm25", mining.sources):
        bm25 = BM25(index.passages, tokenisation=mining.bm25)
        searchers.bm25 = remembered(bm25_finder(bm25, index))
        scorer = bm25_scorer(bm25, index)
    if encoder is not None:
        options = dict(batch_tokens=batch_tokens, cache=cache)
        passages = encode_collection(encoder, index.passages, "passage", **options)
        queries = encode_collection(encoder, index.queries, "query", **options)
        scorer = dense_scorer(queries, passages)

        def dense(chosen, depth):
            """Rank candidates by the cosine of their vectors; a Finder."""
            options = dict(method=mining.search, device=encoder.device, seed=mining.seed, folder=cache)
            return search(queries[chosen], passages[: index.candidates], depth, **options)[1]

        searchers.model = remembered(dense)
    return build_finders(mining.sources, searchers), scorer


def find_candidates(
    index: MiningIndex, finders: Mapping[str, Finder], selection: Selection, scorer: Scorer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Search for the queries of this process's rows.

    Args:
        index: rows and passages.
        finders: one for each of the selection's sources.
        selection: the window; ranks are those of the finder's whole list. (Cutting the window out of what the filters
            leave would move it: with the first ten removed, ranks 11 to 20 would be 21 to 30.)
        scorer: gives documents and candidates comparable scores.

    Returns:
        Lines of the candidates, and of what the rows bring: their documents, then their own hard negatives where the index
        holds them (`LINE`), each ascending by row.
    """
    local_rows = np.flatnonzero(index.query_of % distributed.world_size() == distributed.rank())
    queries, query_of_row = np.unique(index.query_of[local_rows], return_inverse=True)
    low, high = selection.window
    parts = []
    for finder, name in enumerate(selection.sources):
        passages = finders[name](queries, high)[:, low - 1 :][query_of_row]  # (distinct queries, depth) -> (rows, window)
        row, rank = np.nonzero(passages >= 0)
        parts.append(_lines(local_rows[row], rank + low, passages[row, rank], finder))
    candidates = np.concatenate(parts)
    candidates = candidates[np.lexsort((candidates["rank"], candidates["finder"], candidates["row"]))]
    documents = _brought(index.positive_row, index.positive_passage, local_rows, -1)
    given = np.concatenate([documents, _brought(index.own_row, index.own_passage, local_rows, OWN)])
    given = given[np.argsort(given["row"], kind="stable")]
    if scorer is not None:
        for lines in (candidates, given):
            lines["score"] = by_pair(index, lines, scorer)
    return candidates, given


def gathered(lines: np.ndarray) -> np.ndarray:
    """The lines of all processes, ascending by row as in one process."""
    everyone = distributed.gather_arrays(np.ascontiguousarray(lines).view(np.int64))
    lines = np.concatenate(everyone).view(LINE)
    return lines[np.argsort(lines["row"], kind="stable")]


def select(index: MiningIndex, candidates: np.ndarray, selection: Selection) -> list[np.ndarray]:
    """Take the negatives of every row from what is left.

    Args:
        index: rows and passages.
        candidates: the lines of all processes; the last fates are filled in.
        selection: how many, and in which way.

    Returns:
        For every row the positions of its negatives in `candidates`, in the order in which they were taken.
    """
    uses = np.zeros(index.candidates, dtype=np.int64)
    ends = np.searchsorted(candidates["row"], np.arange(len(index.query_of)), side="right")
    chosen, start, names = [], 0, list(fates())
    for row, end in enumerate(ends.tolist()):
        positions = start + np.flatnonzero(candidates["fate"][start:end] == OPEN)
        if selection.choose == "sample":
            positions = generator_of(selection.seed, index.query_ids[index.query_of[row]]).permutation(positions)
        finders = candidates["finder"][positions]
        lists = [positions[finders == finder].tolist() for finder in range(len(selection.sources))]
        chosen.append(np.array(_round_robin(lists, candidates, uses, selection), dtype=np.int64))
        start = end
    candidates["fate"][np.concatenate(chosen)] = names.index("chosen")
    candidates["fate"][candidates["fate"] == OPEN] = names.index("not_chosen")
    return chosen


def _round_robin(lists: list[list[int]], candidates: np.ndarray, uses: np.ndarray, selection: Selection) -> list[int]:
    """The first of every finder, the second of every finder, ... until there are enough."""
    taken, waiting = [], [iter(positions) for positions in lists]
    while waiting and len(taken) < selection.per_query:
        finder = waiting.pop(0)
        for position in finder:
            passage = candidates["passage"][position]
            if selection.max_uses is not None and uses[passage] >= selection.max_uses:
                candidates["fate"][position] = list(fates()).index("max_uses")
                continue
            uses[passage] += 1
            taken.append(position)
            waiting.append(finder)
            break
    return taken


def _brought(rows: np.ndarray, passages: np.ndarray, local_rows: np.ndarray, finder: int) -> np.ndarray:
    """The lines of texts that are in rows, of those rows that are this process's."""
    local = np.isin(rows, local_rows)
    places = np.flatnonzero(local) - np.searchsorted(rows, rows[local]) + 1
    return _lines(rows[local], places, passages[local], finder)


def _lines(row: np.ndarray, rank: np.ndarray, passage: np.ndarray, finder: int) -> np.ndarray:
    lines = np.empty(len(row), dtype=LINE)
    lines["row"], lines["rank"], lines["passage"], lines["finder"] = row, rank, passage, finder
    lines["score"] = lines["teacher"] = np.nan
    lines["fate"] = OPEN
    return lines
