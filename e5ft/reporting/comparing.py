"""Several finished runs side by side, each against the first, query by query where their sets are the same."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e5ft.errors import DataError
from e5ft.formatting import shareable
from e5ft.reporting.facts import RunFacts, facts_of, jobs_of
from e5ft.reporting.listing import relative
from e5ft.reporting.paired import Paired, compare, difference_of_sets, in_one_order, read_saved
from e5ft.reporting.record import FINAL
from e5ft.reporting.sweeps import of_rounds, read_sweep
from e5ft.retrieval.overlap import leaking
from e5ft.retrieval.verdict import UNDECIDED, keep_results, overall_verdict

ABSENT = "–"
# What says how a run was started, kept or told of, and nothing of what it is.
_BESIDE = ("name", "resume", "sweep.resume", "doctor", "require", "cache_dir", "tracking")


@dataclasses.dataclass(frozen=True)
class SetResult:
    """A run on one retrieval set.

    Attributes:
        run: place of the run among those compared.
        entry: of the summary, with scores and differences on the set; None: the run did not measure it.
        pair: the run less the first one, by its main metric; None of the first, and where they do not compare.
        changes: (Q, 1), the same of each query.
        obstacle: why they do not, as `paired.difference_of_sets` has it, or {"kind": "record", "values": (what is wrong,)}.
    """

    run: int
    entry: Mapping[str, Any] | None
    pair: Paired | None
    obstacle: Mapping[str, Any] | None
    changes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: their facts; the first is what others are held against.
        names: of the runs, each different.
        metric: by which they are compared.
        sets: set -> a result a run: the first one's test set, its keep sets, then sets that only others have.
        settings: setting -> a value a run, of those that are not the same in all.
    """

    runs: Sequence[RunFacts]
    names: Sequence[str]
    metric: str
    sets: Mapping[str, Sequence[SetResult]]
    settings: Mapping[str, Sequence[str]]

    @property
    def target(self) -> str:
        """The first one's test set."""
        return self.runs[0].summary["test_set"]

    @property
    def last(self) -> SetResult:
        """The last run on that set."""
        return self.sets[self.target][-1]

    @functools.cached_property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """Of each run but the first, against it: `verdict.overall_verdict`; the other sets are what must not get worse."""
        found, seen = [], any(run.summary.get("chosen_on_test") for run in self.runs)
        leaks = [any(leak.set == self.target for leak in leaking(run.summary)) for run in self.runs]
        for place in range(1, len(self.runs)):
            results = {name: of_set[place] for name, of_set in self.sets.items()}
            pair = results.pop(self.target).pair
            keep = keep_results({name: each.changes for name, each in results.items() if each.changes is not None})
            difference = dataclasses.asdict(pair or Paired(0.0, 0.0, 0.0, 1.0, 0))
            verdict = overall_verdict(
                difference, difference["queries"], keep, chosen_on_test=seen, leaks=leaks[place], other_leaks=leaks[0]
            )
            found.append(verdict if pair else {**verdict, "word": UNDECIDED, "because": None, "reason": None})
        return found

    @property
    def verdict(self) -> Mapping[str, Any]:
        """That of the last run."""
        return self.verdicts[-1]


def comparison(folders: Sequence[Path]) -> Comparison:
    """Read runs and compare them.

    Args:
        folders: of finished runs, or of multiruns, of which the best job is taken; two at least.

    Raises:
        DataError: one has not finished, its record is damaged, or no job of a multirun is the best.
    """
    runs = []
    for folder in folders:
        sweep = read_sweep(folder) if jobs_of(folder) else None
        best = None if sweep is None else sweep.best
        if best is not None and not sweep.chosen:
            raise DataError(
                f"runs={relative(folder)}: no dev score says which job is best; name one: {relative(best.facts.folder)}"
            )
        facts = facts_of(folder) if best is None else best.facts
        if not facts.finished:
            raise DataError(f"runs={relative(folder)}: must have finished; it is {facts.state} ({facts.error or 'no error'})")
        runs.append(facts)
    metric = runs[0].metric
    sets = dict.fromkeys([runs[0].summary["test_set"], *(name for run in runs for name in _entries(run))])
    results = {name: [_result(runs, place, name, metric) for place in range(len(runs))] for name in sets}
    return Comparison(
        runs, _names([run.folder for run in runs]), metric, results, differing_settings([run.config for run in runs])
    )


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings that are not the same in all configurations, each with its value in every one."""
    flat = [dict(_leaves(config)) for config in configs]
    names = [name for name in dict.fromkeys(name for one in flat for name in one) if not _is_beside(name)]
    rows = {name: [one.get(name, ABSENT) for one in flat] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _result(runs: Sequence[RunFacts], place: int, name: str, metric: str) -> SetResult:
    entry = _entries(runs[place]).get(name)
    if not place or entry is None or name not in _entries(runs[0]):
        return SetResult(place, entry, None, None)
    try:
        ours, theirs = (read_saved(of_rounds(run) / "eval" / name / FINAL, metric) for run in (runs[place], runs[0]))
    except DataError as error:
        return SetResult(place, entry, None, {"kind": "record", "values": (str(error),)})
    obstacle = difference_of_sets(ours, theirs)
    if obstacle is not None:
        return SetResult(place, entry, None, obstacle)
    values = in_one_order([ours, theirs])
    return SetResult(place, entry, compare(*values), None, (values[0] - values[1])[:, None])


def _entries(run: RunFacts) -> dict[str, Mapping[str, Any]]:
    """Set -> scores and differences of a run."""
    return {run.summary["test_set"]: run.summary, **{entry["set"]: entry for entry in run.summary.get("keep", ())}}


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' last parts, or more of them where those are the same."""
    names = [folder.name if not folder.name.isdecimal() else f"{folder.parent.name}/{folder.name}" for folder in folders]
    return names if len(set(names)) == len(names) else [shareable(folder) for folder in folders]


def _leaves(value: Any, path: str = "") -> Any:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value, ensure_ascii=False, default=str).strip('"')


def _is_beside(name: str) -> bool:
    return any(f"{name}.".startswith(f"{beside}.") for beside in _BESIDE)
