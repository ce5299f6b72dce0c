"""What a training's end says as flat figures and small tables, for trackers that show runs beside each other."""

from collections.abc import Mapping

from e5ft.reporting.queries import MOST, won_and_lost
from e5ft.reporting.record import BASE, FINAL, Query, Run
from e5ft.retrieval.tables import cutoffs_of, headline, main_metric
from e5ft.retrieval.verdict import verdict_line

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


def tables(run: Run) -> dict[str, list[list]]:
    """Name -> rows, the head first: the closing table with its intervals and the gain, and the queries won and lost, at most `MOST` of each."""
    summary = run.summary
    metrics = headline(cutoffs_of(summary["scores"]["after"]["metrics"]))
    closing = [["system", *(f"{name}{end}" for name in metrics for end in ("", " low", " high"))]]
    for entry in summary["scores"].values():
        closing.append([entry["label"], *(f for name in metrics for f in (entry["metrics"][name], *entry["intervals"][name]))])
    differences = [summary["differences"][name] for name in metrics]
    closing.append(["gain", *(difference[end] for difference in differences for end in ("mean", "low", "high"))])
    before, after = (run.queries(summary["test_set"], system) for system in (BASE, FINAL))
    lists = zip(("won", "lost"), won_and_lost(before, after, main_metric(cutoffs_of(metrics))), strict=True)
    return {"closing": closing, **{name: [list(CHANGES), *map(_row, each[:MOST])] for name, each in lists}}


def _row(change: tuple[float, Query, Query]) -> list:
    gain, before, after = change
    first = [query.top[0].text if query.top else None for query in (before, after)]
    return [after.text, gain, before.rank, after.rank, after.wanted, *first]
