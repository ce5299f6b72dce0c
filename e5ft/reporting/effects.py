"""What each varied setting of a sweep did: jobs that differ in it alone are compared, query by query."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from e5ft.reporting.paired import Paired, compare

ABSENT = "–"  # the value of a setting that a job was not given


@dataclasses.dataclass(frozen=True)
class Level:
    """A value of a varied setting.

    Attributes:
        value: as it stood on the command line.
        jobs: that finished with it.
        score: mean of their scores; None without any.
        pairs: how many pairs there are of such a job and one with the best job's value that differ in this setting alone.
        agreeing: those of them whose own difference has the sign of their mean.
        difference: mean of the pairs, this value against the best job's; None: there is no pair, or it is that value.
    """

    value: str
    jobs: int
    score: float | None
    pairs: int
    agreeing: int
    difference: Paired | None


def varied(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings that are not the same in all jobs, in the order in which they were given.

    Args:
        jobs: of each the overrides, setting -> value.
    """
    fields = dict.fromkeys(field for job in jobs for field in job)
    return [field for field in fields if len({job.get(field, ABSENT) for job in jobs}) > 1]


def effects(
    jobs: Sequence[Mapping[str, str]], values: Mapping[int, np.ndarray], best: int, *, seed: int = 0
) -> dict[str, list[Level]]:
    """The levels of each varied setting, with the difference that it made.

    A difference is the mean over all pairs of jobs that agree in every other varied setting, and then over queries: what else
    was varied is the same on both sides. Its interval is over queries: how another random seed would end is not in it, unless
    the sweep varied the seed.

    Args:
        jobs: of each the overrides, setting -> value.
        values: job's place in `jobs` -> (Q,), its values of each query, in one order; jobs without any are left out.
        best: place of the job that was chosen.
        seed: of intervals.

    Returns:
        Setting -> levels, in ascending order where all of them are numbers, else as they came.
    """
    fields, found = varied(jobs), {}
    for field in fields:
        others = [other for other in fields if other != field]
        reference = jobs[best].get(field, ABSENT)
        by_rest: dict[tuple, dict[str, list[int]]] = {}
        for place in values:
            rest = tuple(jobs[place].get(other, ABSENT) for other in others)
            by_rest.setdefault(rest, {}).setdefault(jobs[place].get(field, ABSENT), []).append(place)
        levels = []
        for value in _ordered(dict.fromkeys(job.get(field, ABSENT) for job in jobs)):
            own = [place for place in values if jobs[place].get(field, ABSENT) == value]
            blocks = [] if value == reference else [b for b in by_rest.values() if value in b and reference in b]
            pairs = np.array([_mean(values, block[value]) - _mean(values, block[reference]) for block in blocks])  # (pairs, Q)
            difference = compare(pairs.mean(axis=0), np.zeros(pairs.shape[1]), seed=seed) if blocks else None
            agreeing = int((np.sign(pairs.mean(axis=1)) == np.sign(difference.mean)).sum()) if blocks else 0
            score = float(_mean(values, own).mean()) if own else None
            levels.append(Level(value, len(own), score, len(blocks), agreeing, difference))
        found[field] = levels
    return found


def as_number(value: str) -> float | None:
    """The number that an override's value is; None of words."""
    try:
        return float(value)
    except ValueError:
        return None


def _mean(values: Mapping[int, np.ndarray], places: Sequence[int]) -> np.ndarray:
    return np.mean([values[place] for place in places], axis=0)


def _ordered(values: Mapping[str, None]) -> list[str]:
    numbers = {value: as_number(value) for value in values}
    return list(values) if None in numbers.values() else sorted(values, key=numbers.__getitem__)
