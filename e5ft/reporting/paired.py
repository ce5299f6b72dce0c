"""Two or more saved evaluations compared query by query, from their files alone; where that is not possible, why not."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e5ft.errors import DataError
from e5ft.files import read_json
from e5ft.retrieval.significance import difference_intervals


@dataclasses.dataclass(frozen=True)
class Saved:
    """An evaluation as its folder holds it.

    Attributes:
        set: the set's name.
        passages: how many were searched.
        values: query's id -> its value by one metric.
        answers: query's id -> {passage's id: grade} of its answers; empty where older records do not say.
    """

    set: str
    passages: int
    values: Mapping[str, float]
    answers: Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class Paired:
    """A mean difference over queries, and how sure it is.

    Attributes:
        mean: of one's values less the other's.
        low, high: ends of the interval of the mean at 95 %.
        p_value: two-sided, of the sign-flip test.
        queries: how many were compared.
    """

    mean: float
    low: float
    high: float
    p_value: float
    queries: int

    @property
    def is_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def read_saved(folder: Path, metric: str) -> Saved:
    """Read a saved evaluation.

    Args:
        folder: with metrics.json and per_query.jsonl.
        metric: whose values are kept, name@K.

    Raises:
        DataError: one of them is not there or damaged, or there is no such metric.
    """
    values, answers = {}, {}
    try:
        record = read_json(folder / "metrics.json")
        with open(folder / "per_query.jsonl", encoding="utf-8") as file:
            for line in map(json.loads, file):
                values[line["query"]] = float(line[metric])
                if "answers" in line:
                    answers[line["query"]] = {answer["id"]: answer["grade"] for answer in line["answers"]}
        if not values:
            raise ValueError("no query")
        return Saved(record["set"], record["passages"], values, answers)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: cannot be read ({type(error).__name__}: {error})") from error


def difference_of_sets(a: Saved, b: Saved) -> dict[str, Any] | None:
    """What keeps two evaluations from being compared query by query; None: nothing.

    Returns:
        "kind": "set", "passages", "queries" or "answers", and "values", what each of the two has of it (of queries: how many
        only one of them has).
    """
    for kind in ("set", "passages"):
        values = getattr(a, kind), getattr(b, kind)
        if values[0] != values[1]:
            return {"kind": kind, "values": values}
    queries = a.values.keys(), b.values.keys()
    if queries[0] != queries[1]:
        return {"kind": "queries", "values": (len(queries[0] - queries[1]), len(queries[1] - queries[0]))}
    if a.answers and b.answers and a.answers != b.answers:
        count = sum(answers != b.answers.get(query) for query, answers in a.answers.items())
        return {"kind": "answers", "values": (count, count)}
    return None


def compare(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Paired:
    """a less b, over the queries of both.

    Args:
        a, b: (Q,), values of the same queries in the same order.
        seed: of interval and test.
    """
    values = (np.asarray(a, float) - np.asarray(b, float))[:, None]
    ends, p_values = difference_intervals(values, seed=seed)
    return Paired(float(values.mean()), *ends[0].tolist(), float(p_values[0]), len(values))


def in_one_order(saved: Sequence[Saved]) -> np.ndarray:
    """(N, Q): values of evaluations that have the same queries, a row an evaluation, by ascending query id."""
    order = sorted(saved[0].values)
    return np.array([[each.values[query] for query in order] for each in saved])
