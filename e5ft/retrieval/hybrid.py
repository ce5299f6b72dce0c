"""Dense search and BM25 as one ranking: the weighted sum of both scores, each standardised over a query's candidates.

A query's candidates are what either system ranks among its first `CANDIDATES` or deeper, as far as its run goes; so a weight
that was chosen on a small corpus holds on a large one. Dense scores of all of them are exact. A passage that BM25 does not list
counts 0, as in search engines: that is its score unless the list is full, and then it makes no difference that can be seen.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from e5ft.retrieval.runs import Run, bm25_run
from e5ft.retrieval.search import merge, rescore
from e5ft.retrieval.sets import RetrievalSet, pair_keys, subsample
from e5ft.retrieval.shards import Shards

if TYPE_CHECKING:
    from e5ft.retrieval.evaluation import Evaluation

CANDIDATES = 100  # of each system, a query, at least
DEFAULT_WEIGHT = 0.7
GRID = tuple(tenth / 10 for tenth in range(11))
FEWEST_QUERIES = 30  # of fewer, the best weight is chance
MOST_QUERIES = 1_000  # of a whole dev split
_BLOCK = 128  # queries whose candidates are in memory at once


@dataclasses.dataclass(frozen=True)
class Weight:
    """The share of the dense scores in a hybrid's, and where it comes from.

    Attributes:
        value: from 0, BM25 alone, to 1, dense alone.
        source: who chose it, in words.
        curve: the weights that were tried on a dev set, and the main metric there; empty where none was.
    """

    value: float
    source: str
    curve: dict[float, float] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """The row's name in tables: hybrid (.7 dense + .3 BM25)."""
        dense, lexical = (f"{share:g}".removeprefix("0") or "0" for share in (self.value, round(1 - self.value, 6)))
        return f"hybrid ({dense} dense + {lexical} BM25)"


@dataclasses.dataclass(frozen=True, eq=False)
class DevSet:
    """A set on which choices are made, and BM25's run of it; None: no weight of a hybrid is among them."""

    retrieval_set: RetrievalSet
    bm25: Run | None

    def rows_in(self, other: RetrievalSet) -> np.ndarray | slice | None:
        """Where its passages stand among another set's, so that no vector is made twice; None if that lacks any."""
        mine = self.retrieval_set
        if mine.passages == other.passages:
            return slice(None)
        positions = other.passage_ids.positions_of(mine.passage_ids)
        if len(positions) < len(mine.passages):
            return None
        rows = np.array([positions[name] for name in mine.passage_ids])
        return rows if other.passages.take(rows) == mine.passages else None


def weighting(evaluation, dev: RetrievalSet | None) -> Weight | DevSet | None:
    """What decides the weight of hybrids; None where there are none.

    Args:
        evaluation: the settings of the `evaluation` group: cutoffs, bm25, hybrid_weight.
        dev: a set that is not reported; None: there is none.
    """
    if evaluation.bm25 is None or evaluation.hybrid_weight is None:
        return None
    if evaluation.hybrid_weight != "auto":
        return Weight(float(evaluation.hybrid_weight), "as set by evaluation.hybrid_weight")
    if dev is None:
        return Weight(DEFAULT_WEIGHT, "the default, as there is no dev set beside the one reported")
    scored = sum(any(value > 0 for value in judged.values()) for judged in dev.qrels.values())
    if scored < FEWEST_QUERIES:
        return Weight(DEFAULT_WEIGHT, f"the default, as {dev.name} has fewer than {FEWEST_QUERIES} queries")
    return DevSet(dev, bm25_run(dev, depth(evaluation.cutoffs), evaluation.bm25))


def choosing_set(dev: RetrievalSet, bounded: RetrievalSet, reported: RetrievalSet, *, seed: int = 0) -> RetrievalSet:
    """The set to choose a weight and a threshold on: at most `MOST_QUERIES` of the whole dev set where its passages are the reported set's, whose
    vectors are there already; else the one that was bounded for training. On few passages BM25 looks better than it is.
    """
    if DevSet(dev, None).rows_in(reported) is None:
        return bounded
    return subsample(dev, MOST_QUERIES, len(dev.passages), seed=seed)


def sets_beside(reported: RetrievalSet, dev: RetrievalSet | None) -> list[RetrievalSet]:
    """The sets that are encoded to choose by, beside the reported one: the dev set, where it has passages of its own."""
    return [dev] if dev is not None and DevSet(dev, None).rows_in(reported) is None else []


def weight_of(evaluation: "Evaluation") -> Weight | None:
    """The weight with which a model's evaluation was mixed; None where it was not."""
    return None if evaluation.hybrid is None else evaluation.hybrid.weight


def depth(cutoffs: Sequence[int]) -> int:
    """Passages a query that each system's run holds: those that are measured, and those that are mixed."""
    return max(*cutoffs, CANDIDATES)


def best_weight(curve: dict[float, float]) -> float:
    """The weight of the largest value; of equal ones the nearest to the default, then the larger."""
    return max(curve, key=lambda weight: (curve[weight], -round(abs(weight - DEFAULT_WEIGHT), 9), weight))


def hybrid_runs(
    dense: Run,
    bm25: Run,
    queries: np.ndarray,
    passages: np.ndarray | Shards,
    weights: Sequence[float],
    k: int,
) -> list[Run]:
    """Rank what two systems found by `weight * dense + (1 - weight) * BM25`, each standardised over the query's candidates.

    A system whose scores of all candidates are equal tells nothing and counts 0; where BM25 tells nothing (no word in common),
    the ranking is the dense one, whatever the weight.

    Args:
        dense, bm25: runs of one set, equally deep, with the same passages left out.
        queries: (Q, D), the vectors of which `dense` was made.
        passages: (P, D), likewise; of a memory map only the candidates' rows are read.
        weights: each from 0 to 1.
        k: passages a query, at least 1, at most as many as the runs are deep.

    Returns:
        A run for each weight, at most k passages a query: sums in float64, rounded to float32, descending; equal ones by index.

    Source: Bruch, Gai and Ingber 2023 (https://doi.org/10.1145/3596512): a convex combination of normalised scores needs few
        judgements to tune, and is above reciprocal rank fusion.
    """
    parts: list[list[Run]] = [[] for _ in weights]
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        (scores, indices), lexical = _candidates(
            tuple(a[rows] for a in dense), tuple(a[rows] for a in bm25), queries[rows], passages
        )
        scores, lexical = (_standardised(values, indices >= 0) for values in (scores, lexical))
        silent = ~lexical.any(axis=1, keepdims=True)
        for part, weight in zip(parts, weights, strict=True):
            share = np.where(silent, 1.0, weight)
            part.append(_ranked(share * scores + (1 - share) * lexical, indices, k))
    return [tuple(map(np.concatenate, zip(*part, strict=True))) for part in parts]


def _candidates(dense: Run, bm25: Run, queries: np.ndarray, passages: np.ndarray | Shards) -> tuple[Run, np.ndarray]:
    """The union of two runs (B, any) with the dense score of each passage, and BM25's scores (B, C) of the same."""
    numbers = np.arange(len(queries))[:, None]
    keys = pair_keys(numbers, bm25[1])
    alone = np.where((bm25[1] < 0) | np.isin(keys, pair_keys(numbers, dense[1])), -1, bm25[1])  # what BM25 alone found
    width = int((alone >= 0).sum(axis=1).max(initial=0))
    alone = -np.sort(-alone, axis=1)[:, :width]  # those that are none stand behind the others
    if width:
        dense = merge([dense, rescore(queries, passages, alone, width)], dense[1].shape[1] + width)
    listed = bm25[1] >= 0
    order = np.argsort(keys[listed])
    known, values = keys[listed][order], bm25[0][listed][order]
    wanted = pair_keys(numbers, dense[1])
    lexical = np.zeros(wanted.shape, np.float32)
    if len(known):
        positions = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        lexical = np.where((known[positions] == wanted) & (dense[1] >= 0), values[positions], lexical)
    return dense, lexical


def _standardised(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values (B, C) less the mean of their row, in its standard deviations, float64; 0 where a row's are all equal, or none is there."""
    values, count = np.where(there, values, 0).astype(np.float64), np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = values.sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=1, keepdims=True) / count)
    low, high = (
        end(axis=1, keepdims=True, where=there, initial=other) for end, other in ((values.min, np.inf), (values.max, -np.inf))
    )
    return np.where(there & (high > low), (values - mean) / np.where(high > low, deviation, 1), 0.0)


def _ranked(sums: np.ndarray, indices: np.ndarray, k: int) -> Run:
    """The k largest sums (B, C) of a row and their indices; -1 stands for none, and comes last."""
    scores = np.where(indices >= 0, sums, -np.inf).astype(np.float32)
    order = np.lexsort((np.where(indices < 0, np.iinfo(np.int64).max, indices), -scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)
