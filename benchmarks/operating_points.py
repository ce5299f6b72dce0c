"""Where a filter must be set so that it catches enough false negatives of every kind, and what that costs.

A filter throws a candidate away if its value reaches the threshold. Values are (n,) floats; `kinds` is (n,) int, -1 for a
candidate that nobody judged, else the number of the false negative's kind. Cost is the share of the unjudged thrown away: an
upper bound, since some of them answer the query too.
"""

import dataclasses
import itertools

import numpy as np

GRID = 60  # thresholds tried for each of two filters: quantiles of the false negatives' values


@dataclasses.dataclass(frozen=True)
class Point:
    """One filter, or two, at their thresholds.

    Attributes:
        names, thresholds: one or two of each.
        how: "alone", "or" (either throws away) or "and" (both must agree).
        caught: kind number -> share of it thrown away.
        cost: share of the unjudged thrown away.
    """

    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    how: str
    caught: dict[int, float]
    cost: float

    def __str__(self):
        parts = [f"{name} >= {threshold:.3f}" for name, threshold in zip(self.names, self.thresholds, strict=True)]
        return f" {self.how} ".join(parts)


def thrown(values: dict[str, np.ndarray], names: tuple[str, ...], thresholds: tuple[float, ...], how: str) -> np.ndarray:
    """Which candidates (n,) a filter throws away: (n,) bool."""
    single = [values[name] >= threshold for name, threshold in zip(names, thresholds, strict=True)]
    return np.logical_and.reduce(single) if how == "and" else np.logical_or.reduce(single)


def measure(values: dict[str, np.ndarray], kinds: np.ndarray, names, thresholds, how: str = "alone") -> Point:
    """What a filter catches and costs on these candidates."""
    away = thrown(values, names, thresholds, how)
    caught = {int(kind): float(away[kinds == kind].mean()) for kind in np.unique(kinds[kinds >= 0])}
    unjudged = away[kinds < 0]
    return Point(tuple(names), tuple(map(float, thresholds)), how, caught, float(unjudged.mean()) if len(unjudged) else 0.0)


def cheapest(values: dict[str, np.ndarray], kinds: np.ndarray, name: str, wanted: list[int], share: float) -> Point:
    """The largest, so cheapest, threshold of one filter at which it catches `share` of every wanted kind."""
    limits = []
    for kind in wanted:
        descending = np.sort(values[name][kinds == kind])[::-1]
        limits.append(descending[int(np.ceil(share * len(descending) - 1e-9)) - 1])
    return measure(values, kinds, (name,), (min(limits),))


def cheapest_pair(values: dict[str, np.ndarray], kinds: np.ndarray, wanted: list[int], share: float) -> Point:
    """The cheapest of all pairs of filters, joined by "or" or by "and", over a grid of thresholds.

    The grid begins at the smallest value of a false negative, so that some pair reaches every share.
    """
    best: tuple | None = None
    grids = {
        name: np.unique(np.quantile(found[kinds >= 0], np.linspace(0, 1, GRID), method="lower")) for name, found in values.items()
    }
    for names in itertools.combinations(values, 2):
        tables = _counts(values, kinds, names, grids, wanted)
        for how in ("or", "and"):
            enough = np.logical_and.reduce([tables[how, kind] >= share - 1e-12 for kind in wanted])
            cost = np.where(enough, tables[how, -1], np.inf)
            a, b = np.unravel_index(cost.argmin(), cost.shape)
            if best is None or cost[a, b] < best[0]:
                best = (cost[a, b], names, (grids[names[0]][a], grids[names[1]][b]), how)
    return measure(values, kinds, best[1], best[2], best[3])


def _counts(values, kinds, names, grids, wanted) -> dict[tuple[str, int], np.ndarray]:
    """(how, kind) -> (thresholds of the first, of the second) share of the kind that the pair throws away."""
    grid_a, grid_b = (grids[name] for name in names)
    reached_a, reached_b = (np.searchsorted(grids[name], values[name], side="right") for name in names)  # thresholds met
    tables = {}
    for kind in [-1, *wanted]:
        chosen = kinds == kind
        cells = np.zeros((len(grid_a) + 1, len(grid_b) + 1))
        np.add.at(cells, (reached_a[chosen], reached_b[chosen]), 1 / max(1, chosen.sum()))
        least = cells[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]  # share that meets at least i and at least j thresholds
        tables["and", kind] = least[1:, 1:]
        tables["or", kind] = least[1:, :1] + least[:1, 1:] - least[1:, 1:]
    return tables
