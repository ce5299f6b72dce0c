"""Retrieval metrics on arrays: Recall@K, hit@K, MRR@K, nDCG@K and MAP@K, with trec_eval's definitions."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from e5ft.errors import ConfigurationError

METRICS = ("recall", "hit", "mrr", "ndcg", "map")


def check_cutoffs(cutoffs: Collection[int]) -> tuple[int, ...]:
    """Return the cutoffs K in ascending order, each once.

    Raises:
        ConfigurationError: none is given, or one is not a whole number of at least 1.
    """
    for cutoff in cutoffs:
        if not isinstance(cutoff, int) or isinstance(cutoff, bool) or cutoff < 1:
            raise ConfigurationError(f"cutoffs={list(cutoffs)}: {cutoff!r} is no rank; each must be a whole number of at least 1")
    if not cutoffs:
        raise ConfigurationError("cutoffs=[]: must hold at least one rank, for instance [1, 10, 100]")
    return tuple(sorted(set(cutoffs)))


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """The columns of `metric_values`: recall@1, hit@1, ..., recall@10, ..."""
    return [f"{metric}@{cutoff}" for cutoff in cutoffs for metric in METRICS]


def metric_values(gains: np.ndarray, relevant: Sequence[Sequence[int]], cutoffs: Sequence[int]) -> np.ndarray:
    """Every metric of every query at every cutoff.

    Args:
        gains: (Q, K) the relevance of the passage at each rank, 0 where it is not relevant or there is none; may be shorter
            than a cutoff.
        relevant: for every query the relevance, above 0, of each of its relevant passages; at least one.
        cutoffs: the ranks K, ascending, each at least 1.

    Returns:
        (Q, M), float64, between 0 and 1; a cutoff after the other `recall@K` (relevant passages found / all relevant),
        `hit@K` (1 if any is found), `mrr@K` (1 / rank of the first), `ndcg@K` (linear gains, discount log2(rank + 1), ideal
        cut at K) and `map@K` (precision at each relevant rank up to K, summed, over all relevant).

    Source: trec_eval 9 (https://github.com/usnistgov/trec_eval): recall_K, success_K, recip_rank cut at K, ndcg_cut_K
        (Järvelin and Kekäläinen 2002, with linear gains), map_cut_K.
    """
    totals = np.array([len(values) for values in relevant])
    width = max(1, min(cutoffs[-1], max(gains.shape[1], totals.max())))
    ranked, ideal = gains[:, :width], np.zeros((len(gains), width))
    gains = np.pad(ranked, ((0, 0), (0, width - ranked.shape[1])))
    for row, values in zip(ideal, relevant, strict=True):
        largest = sorted(values, reverse=True)[:width]
        row[: len(largest)] = largest
    ranks, hits = np.arange(1, width + 1), gains > 0
    counted = hits.cumsum(axis=1)  # (Q, width), as all below: a cutoff's value stands at its last rank
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)
    precision = np.where(hits, counted / ranks, 0.0).cumsum(axis=1)
    discounts = np.array([math.log2(rank + 1) for rank in ranks.tolist()])
    gained, most = (gains / discounts).cumsum(axis=1), (ideal / discounts).cumsum(axis=1)
    columns = []
    for cutoff in cutoffs:
        at = min(cutoff, width) - 1
        reciprocal = np.where(first <= cutoff, 1 / first, 0.0)
        columns += [
            counted[:, at] / totals,
            counted[:, at] > 0,
            reciprocal,
            gained[:, at] / most[:, at],
            precision[:, at] / totals,
        ]
    return np.stack(columns, axis=1).astype(np.float64)


def means(values: np.ndarray, cutoffs: Sequence[int]) -> dict[str, float]:
    """The mean of each column of `metric_values` (Q, M) by name, rounded once."""
    return {name: math.fsum(column) / len(values) for name, column in zip(metric_names(cutoffs), values.T.tolist(), strict=True)}
