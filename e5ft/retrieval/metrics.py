"""Retrieval metrics as pure functions: Recall@K, hit@K, MRR@K, nDCG@K and MAP@K, with trec_eval's definitions."""

import math
from collections.abc import Mapping, Sequence

from e5ft.errors import ConfigurationError, DataError


def ordered(scores: Mapping[str, float]) -> list[str]:
    """The passages of one query, best first: score descending, id ascending where scores are equal.

    Args:
        scores: passage id -> score; any finite or infinite number, not NaN.

    Returns:
        The passage ids in rank order.

    Raises:
        DataError: a score is NaN, which has no place in an order.
    """
    for passage_id, score in scores.items():
        if math.isnan(score):
            raise DataError(f"the score of passage {passage_id!r} is NaN; nothing can be ranked with it")
    return sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))


def check_cutoffs(cutoffs: Sequence[int]) -> tuple[int, ...]:
    """Return the cutoffs K in ascending order, each once.

    Raises:
        ConfigurationError: none is given, or one is not a whole number of at least 1.
    """
    for cutoff in cutoffs:
        if not isinstance(cutoff, int) or isinstance(cutoff, bool) or cutoff < 1:
            raise ConfigurationError(f"cutoffs={list(cutoffs)}: {cutoff!r} is no rank; whole numbers from 1 on are needed")
    if not cutoffs:
        raise ConfigurationError("cutoffs=[]: at least one rank is needed, for instance [1, 10, 100]")
    return tuple(sorted(set(cutoffs)))


def query_metrics(ranking: Sequence[str], relevance: Mapping[str, int], cutoffs: Sequence[int]) -> dict[str, float]:
    """Every metric of one query at every cutoff.

    Args:
        ranking: passage ids, best first, each once; may be shorter than a cutoff, or empty.
        relevance: passage id -> judged relevance; above 0 counts as relevant, and nDCG takes the value as its gain.
        cutoffs: the ranks K, each at least 1.

    Returns:
        `recall@K` (relevant passages found / all relevant), `hit@K` (1 if any is found), `mrr@K` (1 / rank of the first),
        `ndcg@K` (linear gains, discount log2(rank + 1), ideal cut at K) and `map@K` (precision at each relevant rank up
        to K, summed, over all relevant), each between 0 and 1.

    Raises:
        DataError: no passage is relevant, or the ranking names one twice.
        ConfigurationError: a cutoff is no rank.

    Source: trec_eval 9 (https://github.com/usnistgov/trec_eval): recall_K, success_K, recip_rank cut at K, ndcg_cut_K
        (Järvelin and Kekäläinen 2002, with linear gains), map_cut_K.
    """
    ideal = sorted((value for value in relevance.values() if value > 0), reverse=True)
    if not ideal:
        raise DataError("a query without a relevant passage has no metrics; leave it out")
    if len(set(ranking)) != len(ranking):
        raise DataError(f"a ranking names a passage twice: {_first_repeated(ranking)!r}")
    gains = [max(0, relevance.get(passage_id, 0)) for passage_id in ranking]
    values = {}
    for cutoff in check_cutoffs(cutoffs):
        ranks = [rank for rank, gain in enumerate(gains[:cutoff], start=1) if gain > 0]
        values[f"recall@{cutoff}"] = len(ranks) / len(ideal)
        values[f"hit@{cutoff}"] = float(bool(ranks))
        values[f"mrr@{cutoff}"] = 1 / ranks[0] if ranks else 0.0
        values[f"ndcg@{cutoff}"] = _discounted(gains[:cutoff]) / _discounted(ideal[:cutoff])
        values[f"map@{cutoff}"] = sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ideal)
    return values


def ranking_metrics(
    rankings: Mapping, qrels: Mapping, cutoffs: Sequence[int]
) -> tuple[dict[str, float], dict[object, dict[str, float]]]:
    """Metrics of all judged queries, from rankings.

    Args:
        rankings: query id -> passage ids, best first.
        qrels: query id -> passage id -> relevance. These queries are scored: one without a ranking counts as zero, one
            without a relevant passage is left out (as trec_eval does), and one that is not judged is ignored.
        cutoffs: the ranks K, each at least 1.

    Returns:
        The means over the scored queries, and every scored query's values, in the order of `qrels`.

    Raises:
        DataError: no query of `qrels` has a relevant passage.
        ConfigurationError: a cutoff is no rank.
    """
    per_query = {
        query_id: query_metrics(rankings.get(query_id, ()), relevance, cutoffs)
        for query_id, relevance in qrels.items()
        if any(value > 0 for value in relevance.values())
    }
    if not per_query:
        raise DataError(f"none of the {len(qrels)} queries has a relevant passage: there is nothing to score")
    names = next(iter(per_query.values()))
    means = {name: math.fsum(values[name] for values in per_query.values()) / len(per_query) for name in names}
    return means, per_query


def run_metrics(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]], cutoffs: Sequence[int]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Metrics of all judged queries, from a run; see `ranking_metrics`.

    Args:
        run: query id -> passage id -> score, ranked by `ordered`.
        qrels: query id -> passage id -> relevance.
        cutoffs: the ranks K, each at least 1.

    Returns:
        The means over the scored queries, and every scored query's values.

    Raises:
        DataError: no query has a relevant passage, or a score is NaN.
        ConfigurationError: a cutoff is no rank.
    """
    rankings = {query_id: ordered(run[query_id]) for query_id in qrels if query_id in run}
    return ranking_metrics(rankings, qrels, cutoffs)


def _discounted(gains: Sequence[int]) -> float:
    """Discounted cumulated gain: the sum of gain / log2(rank + 1), ranks from 1."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _first_repeated(ranking: Sequence[str]) -> str:
    seen = set()
    return next(passage_id for passage_id in ranking if passage_id in seen or seen.add(passage_id))
