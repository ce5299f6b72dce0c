"""What a training's folder holds of it, read as it was written: the page is made from this alone."""

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from e5ft.errors import DataError
from e5ft.files import read_json

BASE, BM25, FINAL = "base", "bm25", "final"  # folders of an evaluation; more are there where more was measured
PACKAGES = ("torch", "transformers", "datasets", "numpy", "bm25s", "peft")


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage as per_query.jsonl has it.

    Attributes:
        identifier: in the corpus.
        text: whole; None where the corpus lacks it.
        score: of the query with it; None where it was not found.
        rank: from 1; None where it was not found.
    """

    identifier: str
    text: str | None
    score: float | None
    rank: int | None


@dataclasses.dataclass(frozen=True)
class Query:
    """What one system made of one query.

    Attributes:
        identifier: in the set.
        metrics: name@K -> value.
        text: None in records of versions that kept none.
        answers: what answers it, the best graded first.
        top: what was found first.
        rank: of the first answer, from 1; None where none was found.
    """

    identifier: str
    metrics: Mapping[str, float]
    text: str | None
    answers: tuple[Passage, ...]
    top: tuple[Passage, ...]
    rank: int | None

    @property
    def wanted(self) -> str | None:
        """The text of the best graded answer that has one."""
        return next((answer.text for answer in self.answers if answer.text), None)


@dataclasses.dataclass(frozen=True)
class Run:
    """The record of a finished training.

    Attributes:
        folder: the run's.
        summary: of summary.json.
        config: config.yaml as text.
        log: entries of metrics.jsonl in their order.
    """

    folder: Path
    summary: Mapping[str, Any]
    config: str
    log: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        """The run's name, of a multirun's job and of a round with that of the whole."""
        is_part = self.folder.name.removeprefix("round-").isdecimal()
        return f"{self.folder.parent.name}/{self.folder.name}" if is_part else self.folder.name

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of what the log has under a name, where it is a number."""
        points = [(entry["step"], entry[name]) for entry in self.log if _is_number(entry.get(name))]
        return [step for step, _ in points], [float(value) for _, value in points]

    def queries(self, set_name: str, system: str) -> dict[str, Query]:
        """Query's identifier -> what a system made of it; empty where that was not recorded.

        Args:
            set_name: of the evaluation set.
            system: folder below eval/<set>/: base, bm25, final, hybrid, ...

        Raises:
            DataError: a line is damaged.
        """
        path = self.folder / "eval" / set_name / system / "per_query.jsonl"
        if not path.is_file():
            return {}
        return {query.identifier: query for query in _queries(path)}

    def ranking(self, set_name: str, system: str, most: int) -> Iterator[tuple[str, str, float]]:
        """Yield query's and passage's identifier and score from run.trec, the first lines of it; nothing where it is not there."""
        path = self.folder / "eval" / set_name / system / "run.trec"
        if path.is_file():
            with open(path, encoding="utf-8") as file:
                for line in islice(file, most):
                    query, _, passage, _, score, _ = line.split()
                    yield query, passage, float(score)


def read_run(folder: Path | str) -> Run:
    """Read a finished training's folder.

    Args:
        folder: outputs/NAME, multirun/NAME/NUMBER or a round's.

    Raises:
        DataError: it holds no finished training, or a file of it is damaged.
    """
    folder = Path(folder)
    try:
        summary = read_json(folder / "summary.json")
    except FileNotFoundError:
        raise DataError(f"{folder}: no finished training is there (no summary.json)") from None
    except ValueError as error:
        raise DataError(f"{folder / 'summary.json'}: no JSON ({error})") from error
    if not isinstance(summary, dict) or not {"scores", "differences", "test_set"} <= summary.keys():
        raise DataError(f"{folder / 'summary.json'}: no summary of a training")
    config, log = folder / "config.yaml", folder / "metrics.jsonl"
    counts = {"queries": 0, "passages": 0}
    if not counts.keys() <= summary.keys():  # of an older version: an evaluation has them
        found = folder / "eval" / summary["test_set"] / FINAL / "metrics.json"
        counts |= {name: read_json(found)[name] for name in counts} if found.is_file() else {}
    return Run(
        folder.resolve(),
        {**counts, **summary},
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        tuple(_log(log)) if log.is_file() else (),
    )


def versions() -> dict[str, str]:
    """The versions of Python's packages that decide what a training gives, as the summary keeps them."""
    found = {}
    for package in ("e5ft", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
            continue
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _log(path: Path) -> Iterator[dict[str, Any]]:
    """The entries that have a step; a line that a kill cut in half is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            yield entry


def _queries(path: Path) -> Iterator[Query]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _query(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}:{number}: no line of an evaluation ({error})") from error


def _query(line: Mapping[str, Any]) -> Query:
    metrics = {name: value for name, value in line.items() if "@" in name}
    answers = tuple(Passage(a["id"], a["text"], a["score"], a["rank"]) for a in line.get("answers", ()))
    top = tuple(Passage(t["id"], t["text"], t["score"], rank) for rank, t in enumerate(line.get("top", ()), start=1))
    if "answers" in line:
        rank = min((answer.rank for answer in answers if answer.rank is not None), default=None)
    else:  # the deepest reciprocal rank tells it as well
        deepest = max((name for name in metrics if name.startswith("mrr@")), key=lambda name: int(name[4:]), default=None)
        rank = round(1 / metrics[deepest]) if deepest is not None and metrics[deepest] else None
    return Query(str(line["query"]), metrics, line.get("text"), answers, top, rank)
