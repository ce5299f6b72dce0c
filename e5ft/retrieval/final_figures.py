"""What a training's end says as flat figures and small tables, for trackers that show runs beside each other."""

from collections.abc import Mapping

import numpy as np

from e5ft.retrieval.comparison import Scores
from e5ft.retrieval.evaluation import Evaluation
from e5ft.retrieval.tables import cutoffs_of, headline, main_metric
from e5ft.retrieval.verdict import verdict_line

MOST = 300  # queries won, and lost, that a table shows
_SHOWN = ("before", "bm25", "hybrid")
CHANGES = ("query", "gain", "rank before", "rank after", "wanted", "found before", "found after")


def figures(summary: Mapping) -> dict[str, float | str]:
    """Name -> figure or text: the test set's and the keep sets' scores, those before training, BM25's, the hybrid's, gain and verdict.

    Args:
        summary: as summary.json holds it.
    """
    scores, metrics = summary["scores"], headline(cutoffs_of(summary["scores"]["after"]["metrics"]))
    found = {f"test/{name}": value for name, value in scores["after"]["metrics"].items()}
    for entry in summary["keep"]:
        found |= {f"keep/{entry['set']}/{name}": value for name, value in entry["scores"]["after"]["metrics"].items()}
    for system in (name for name in _SHOWN if name in scores):
        found |= {f"{system}/{name}": scores[system]["metrics"][name] for name in metrics}
    for name in metrics:
        difference = summary["differences"][name]
        found |= {
            f"gain/{name}": difference["mean"],
            f"gain/{name}/low": difference["low"],
            f"gain/{name}/high": difference["high"],
        }
    if summary["threshold"] is not None:
        found["threshold"] = summary["threshold"]["value"]
    return {**found, "verdict": summary["verdict"]["word"], "verdict_line": verdict_line(summary["verdict"])}


def tables(summary: Mapping, scores: Scores) -> dict[str, list[list]]:
    """Name -> rows, the head first: the closing table with its intervals and the gain, and the queries won and lost.

    Args:
        summary: as summary.json holds it.
        scores: the test set's.
    """
    metrics = headline(cutoffs_of(summary["scores"]["after"]["metrics"]))
    closing = [["system", *(f"{name}{end}" for name in metrics for end in ("", " low", " high"))]]
    for entry in summary["scores"].values():
        closing.append([entry["label"], *(f for name in metrics for f in (entry["metrics"][name], *entry["intervals"][name]))])
    differences = [summary["differences"][name] for name in metrics]
    closing.append(["gain", *(difference[end] for difference in differences for end in ("mean", "low", "high"))])
    won, lost = changes(scores.before, scores.after, main_metric(metrics))
    return {"closing": closing, "won": won, "lost": lost}


def changes(before: Evaluation, after: Evaluation, metric: str, most: int = MOST) -> tuple[list[list], list[list]]:
    """The queries that got better and those that got worse, at most so many, the largest change first; rows under `CHANGES`.

    Args:
        before, after: evaluations of one set.
        metric: name@K, by which.
        most: rows of each kind.
    """
    column = list(after.metrics).index(metric)
    gains = after.values[:, column] - before.values[:, column]
    order = np.argsort(-np.abs(gains), kind="stable")
    return tuple(
        [list(CHANGES), *_rows(before, after, gains, [i for i in order if sign * gains[i] > 0][:most])] for sign in (1, -1)
    )


def _rows(before: Evaluation, after: Evaluation, gains: np.ndarray, chosen: list[int]) -> list[list]:
    rows, chosen = [], np.array(chosen, int)
    for gain, old, new in zip(gains[chosen].tolist(), before.queries(chosen), after.queries(chosen), strict=True):
        ranks = [min((a["rank"] for a in line["answers"] if a["rank"] is not None), default=None) for line in (old, new)]
        first = [line["top"][0]["text"] if line["top"] else None for line in (old, new)]
        rows.append([new["text"], gain, *ranks, new["answers"][0]["text"], *first])
    return rows
