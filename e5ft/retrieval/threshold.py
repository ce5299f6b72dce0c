"""From which score on the first passage found may be shown as the answer: a threshold chosen on a dev set, checked on the test set.

Cosines of E5 crowd between .7 and 1, so that no threshold can be guessed; and it belongs to one model and one size of corpus.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from e5ft.retrieval.significance import LEVEL
from e5ft.retrieval.tables import short_number

if TYPE_CHECKING:  # runs take torch, which nothing here needs
    from e5ft.retrieval.runs import Run
    from e5ft.retrieval.sets import RetrievalSet

TARGETS = (0.9, 0.8, 0.7)  # precisions, the first that any threshold reaches
FEW_DEV = 100  # dev queries below which a threshold is called one of few, or where
WIDE = 0.2  # its precision's interval on dev is wider than this
DECIMALS = 4  # of a threshold: the same query's score differs by less between machines


def first_found(retrieval_set: "RetrievalSet", run: "Run", scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first passage that a run has for each scored query.

    Args:
        retrieval_set: the set.
        run: of the set.
        scored: (n,) indices of the queries.

    Returns:
        (n,) float64, its score, minus infinity where nothing was found; and (n,) bool, whether it answers the query.
    """
    first = run[1][scored, 0]
    names = iter(retrieval_set.passage_ids.take(first[first >= 0]))
    queries = retrieval_set.query_ids.take(scored)
    right = [i >= 0 and retrieval_set.qrels[query].get(next(names), 0) > 0 for query, i in zip(queries, first, strict=True)]
    return np.where(first >= 0, run[0][scored, 0], -np.inf).astype(np.float64), np.array(right, bool)


def lowest(scores: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """The lowest threshold at and above which the share of right first passages, one more wrong one counted in, is at least `target`.

    The one more makes up for the choice: the lowest of many thresholds whose share just happens to reach the target would, on
    other queries, be below it. So a threshold needs target / (1 - target) right answers at least, nine for .9.

    Args:
        scores: (n,) of the first passages.
        right: (n,) bool.
        target: above 0 and below 1.

    Returns:
        A number of `DECIMALS` decimals; None where no threshold reaches the target.

    Source: the one more is conformal prediction's (Angelopoulos and Bates 2021, arXiv:2107.07511); a share is not monotone in the
        threshold, so that no guarantee follows: the test set checks it.
    """
    order = np.argsort(-scores)
    scores, hits = scores[order], np.cumsum(right[order])
    found = np.isfinite(scores)
    candidates = np.unique(np.floor(scores[found] * 10**DECIMALS)) / 10**DECIMALS  # ascending
    answered = np.searchsorted(-scores, -candidates, side="right")  # at or above each
    reached = np.flatnonzero((answered > 0) & (hits[answered - 1] >= target * (answered + 1) - 1e-9))
    return float(candidates[reached[0]]) if len(reached) else None


def effect(scores: np.ndarray, right: np.ndarray, threshold: float) -> dict:
    """What a threshold does to a set.

    Args:
        scores: (n,) of the first passages.
        right: (n,) bool.
        threshold: queries whose score is at or above it are answered.

    Returns:
        queries: n; answered: the share of them that is answered; precision: of those, the share answered rightly, and
        precision_interval (Wilson's, at 95 %), both None where none is answered; recall: of all queries, the share answered
        rightly.
    """
    answered = scores >= threshold
    count, hits = int(answered.sum()), int((answered & right).sum())
    interval = stats.binomtest(hits, count).proportion_ci(LEVEL, "wilson") if count else None
    return {
        "queries": len(scores),
        "answered": count / len(scores),
        "precision": hits / count if count else None,
        "precision_interval": [float(interval.low), float(interval.high)] if interval else None,
        "recall": hits / len(scores),
    }


def calibrated(dev: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict | None:
    """The threshold that a dev set gives, and what it does there and on the test set; both as `first_found` gives them.

    Returns:
        value, target (the first of `TARGETS` that is reached), rule, and the effects on dev and on test; None where none is
        reached.
    """
    for target in TARGETS:
        value = lowest(*dev, target)
        if value is not None:
            rule = (
                f"the lowest score at and above which the first passages of at least {100 * target:g} % of the dev queries are right, "
                "one more wrong one counted in"
            )
            return {"value": value, "target": target, "rule": rule, "dev": effect(*dev, value), "test": effect(*test, value)}
    return None


def is_of_few(threshold: Mapping) -> bool:
    """Whether so few dev queries chose a threshold that it may be far from what others would choose.

    Args:
        threshold: of `calibrated`.
    """
    low, high = threshold["dev"].get("precision_interval") or (0.0, 1.0)
    return threshold["dev"]["queries"] < FEW_DEV or high - low > WIDE


def lacks(scores: np.ndarray, right: np.ndarray) -> dict:
    """Why a dev set gives no threshold.

    Args:
        scores, right: as `first_found` gives them; of a set for which `calibrated` is None.

    Returns:
        why: "few", the lowest of `TARGETS` is reached, but at scores that too few queries of a small set reach; "never", it is
        not, or by the first few of many alone, which is chance; and queries: n.
    """
    order = np.argsort(-scores)
    scores, shares = scores[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(scores[1:] < scores[:-1], True) & np.isfinite(scores)  # of equal ones
    is_few = len(scores) < FEW_DEV and (shares[last] >= TARGETS[-1]).any()
    return {"why": "few" if is_few else "never", "queries": len(scores)}


def threshold_line(threshold: Mapping | None, lack: Mapping | None = None) -> str:
    """A threshold in one sentence; None: that the dev set has none.

    Args:
        threshold: of `calibrated`.
        lack: of `lacks`, where there is none.
    """
    if threshold is None:
        least, queries = f"{100 * TARGETS[-1]:g} % of the first passages", f"{lack['queries']:,}"
        if lack["why"] == "few":
            return f"none: {least} are right only at scores that too few of the {queries} dev queries reach"
        return f"none: at no score are {least} right ({queries} dev queries)"
    dev, test = threshold["dev"], threshold["test"]
    checked = "no test query reaches it"
    if test["answered"]:
        low, high = map(short_number, test["precision_interval"])
        count = round(test["answered"] * test["queries"])
        checked = f"{count:,} of {test['queries']:,} test queries reach it, {short_number(test['precision'])} [{low}, {high}] of them right"
    few = ""
    if is_of_few(threshold):
        few = f", from {round(dev['answered'] * dev['queries']):,} of {dev['queries']:,} queries only"
    return f"score {threshold['value']:.{DECIMALS}f} (chosen on dev for {100 * threshold['target']:g} % right{few}): {checked}"
