"""A multirun's record: its jobs, the best first, those that wait too; the table that a terminal shows and the one for a spreadsheet."""

import csv
import dataclasses
import functools
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from e5ft.errors import DataError
from e5ft.files import read_json, write_text
from e5ft.formatting import harmless, shareable
from e5ft.reporting.effects import varied
from e5ft.reporting.facts import WAITING, RunFacts, facts_of, jobs_of
from e5ft.reporting.paired import Paired, compare, difference_of_sets, in_one_order, read_saved
from e5ft.reporting.record import FINAL
from e5ft.retrieval.tables import cutoffs_of, headline
from e5ft.retrieval.verdict import UNDECIDED

BEST = "best"  # the link to the best job's folder
PLAN = "sweep.json"  # what `read_plan` reads; it is written when a multirun begins


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a multirun.

    Attributes:
        number: of the job, its folder's name.
        overrides: setting -> value, as it was started with, paths as others may see them.
        facts: what its folder says.
        score: the dev score that ranks it: that of training, or of the saved dev run where the dev sets of training differ between
            jobs and those do not; None where nothing was measured.
    """

    number: str
    overrides: Mapping[str, str]
    facts: RunFacts
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A multirun as its folder holds it.

    Attributes:
        folder: of the multirun.
        jobs: best dev score first, among those with the dev set that most jobs have; then those with another, the finished ones
            without any, and the others by number.
        fields: the settings that are not the same in all jobs.
        set: of which the jobs are compared query by query: "dev", or "test" where the dev runs were not kept; None: no two
            can be compared.
        values: place in `jobs` -> (Q,), each query's value of a job that compares to the best one, in one order.
        rescored: whether the scores are of the saved dev runs.
    """

    folder: Path
    jobs: Sequence[Job]
    fields: Sequence[str]
    set: str | None
    values: Mapping[int, np.ndarray]
    rescored: bool = False

    @property
    def best(self) -> Job | None:
        """The job whose model is to be taken; None while none has finished. Where no dev score says so it is the first, not `chosen`."""
        return self.jobs[0] if self.jobs and self.jobs[0].facts.finished else None

    @property
    def chosen(self) -> bool:
        """Whether a dev score says which job is the best, or there is but one."""
        if self.best is None or self.counts()["finished"] == 1:
            return self.best is not None
        return self.best.score is not None and not (self.apart and len(self.ranked) == 1)

    @property
    def ranked(self) -> list[Job]:
        """The jobs whose dev scores are of one set, the best one's: only these compare."""
        return [job for job in self.jobs if job.score is not None and job.number not in self.apart]

    @functools.cached_property
    def apart(self) -> list[str]:
        """The jobs that were measured on another dev set, which says nothing about those."""
        if self.rescored:
            return []
        return [job.number for job in self.jobs if job.score is not None and job.facts.dev_set != self.best.facts.dev_set]

    @property
    def metric(self) -> str:
        """By which jobs are compared query by query."""
        return self.best.facts.objective if self.set == "dev" else self.best.facts.metric

    @property
    def verdict(self) -> str:
        """The word of the best job's verdict; undecided where no dev score says which job that is, empty where none has finished."""
        if not self.chosen:
            return "" if self.best is None else UNDECIDED
        return self.best.facts.summary.get("verdict", {}).get("word", "")

    def behind(self, seed: int = 0) -> dict[int, Paired]:
        """Place in `jobs` -> its values less those of the best; those that cannot be compared are left out."""
        return {place: compare(values, self.values[0], seed) for place, values in self.values.items() if place}

    def above_and_near(self) -> tuple[list[str], list[str]]:
        """The jobs that are better than the best one, query by query, and those that cannot be told apart from it."""
        pairs = {self.jobs[place].number: pair for place, pair in self.behind().items()}
        above = [number for number, pair in pairs.items() if pair.low > 0]
        return above, [number for number, pair in pairs.items() if not pair.is_apart]

    def given(self, job: Job) -> str:
        """The varied settings of a job as one would type them."""
        return " ".join(f"{field}={job.overrides[field]}" for field in self.fields if field in job.overrides)

    def counts(self) -> dict[str, int]:
        """State -> jobs in it; finished first."""
        states = Counter(job.facts.state for job in self.jobs)
        return dict(sorted(states.items(), key=lambda item: item[0] != "finished"))


def read_sweep(folder: Path) -> Sweep:
    """Read a multirun's folder; a damaged job is one that did not finish."""
    planned, _ = read_plan(folder)
    known = {path.name: path for path in jobs_of(folder)}
    numbers = sorted({*known, *map(str, range(len(planned)))}, key=int)
    jobs = []
    for number in numbers:
        path = folder / number
        begun = number in known and any(path.iterdir())
        facts = facts_of(path) if (path / "status.json").is_file() else RunFacts(path, "failed" if begun else WAITING)
        given = _overrides(path) or dict(planned[int(number)] if int(number) < len(planned) else {})
        jobs.append(Job(number, {name: shareable(value) for name, value in given.items()}, facts))
    jobs, rescored = _scored(jobs)
    sets = Counter(job.facts.dev_set for job in jobs if job.score is not None).most_common(1)  # of equally many the first
    most = sets[0][0] if sets and not rescored else None
    jobs.sort(key=lambda job: (not job.facts.finished, *_order(job, most)))
    return Sweep(folder, jobs, varied([job.overrides for job in jobs]), *_values(jobs), rescored)


def read_plan(folder: Path) -> tuple[list[dict[str, str]], list[str]]:
    """What the multirun was begun as: the overrides of each job, and those of its command line.

    The first is empty of a search, which makes its jobs up as it goes, and both are of a multirun of an older version.
    """
    try:
        plan = read_json(folder / PLAN)
        return [split(job) for job in plan["jobs"] or ()], list(plan["given"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is not there, or damaged
        return [], []


def split(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides as setting -> value."""
    return dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)


def write_csv(sweep: Sweep) -> None:
    """Write sweep.csv: a line a job with all its overrides and scores."""
    rows = collect(sweep)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text)  # ends lines with CR LF, and so quotes a cell that holds either
    writer.writerows([list(map(harmless, line)) for line in [columns, *([row.get(c, "") for c in columns] for row in rows)]])
    write_text(sweep.folder / "sweep.csv", text.getvalue())


def collect(sweep: Sweep) -> list[dict[str, Any]]:
    """A row a job: number, overrides, state, dev score, test scores, what changed on keep sets, verdict, seconds, model; or the error."""
    rows = []
    for job in sweep.jobs:
        facts, summary = job.facts, job.facts.summary
        row = {"job": job.number, **job.overrides, "state": facts.state}
        if facts.finished:
            if job.score is not None:  # training.eval_strategy=no measures nothing on the dev set
                row[f"dev {facts.objective}"] = job.score
                row |= {"dev set": facts.dev_set} if sweep.apart else {}
            after, main = summary["scores"]["after"]["metrics"], facts.metric
            row.update({f"{summary['test_set']} {name}": after[name] for name in headline(cutoffs_of(after)) if name in after})
            changes = ((entry["set"], entry["differences"]) for entry in summary.get("keep", ()))  # gain and loss side by side
            row.update(
                {f"{name} {main} change": differences[main]["mean"] for name, differences in changes if main in differences}
            )
            row |= {"verdict": facts.verdict, "seconds": facts.seconds, "model": shareable(facts.folder / "model")}
        elif facts.error is not None:
            row["error"] = facts.error
        rows.append(row)
    return rows


def _overrides(job: Path) -> dict[str, str]:
    try:
        return split(yaml.safe_load((job / "overrides.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return {}


def _scored(jobs: Sequence[Job]) -> tuple[list[Job], bool]:
    """Jobs with their scores, and whether these are of the saved dev runs, which are of one set where those of training are not."""
    jobs = [dataclasses.replace(job, score=job.facts.dev_score if job.facts.finished else None) for job in jobs]
    measured = [job for job in jobs if job.score is not None]
    if len({job.facts.dev_set for job in measured}) < 2:
        return jobs, False
    try:
        saved = {job.number: read_saved(dev_run(job.facts), job.facts.objective) for job in measured if dev_run(job.facts)}
    except DataError:
        return jobs, False
    first = next(iter(saved.values()), None)
    if len(saved) < len(measured) or any(difference_of_sets(first, each) for each in saved.values()):
        return jobs, False
    scores = {number: float(np.mean(list(each.values.values()))) for number, each in saved.items()}
    return [dataclasses.replace(job, score=scores.get(job.number)) for job in jobs], True


def _order(job: Job, dev_set: str | None) -> tuple:
    """Where a job stands among finished ones: by score, after those with the dev set that most have."""
    if job.score is None:
        return (2, 0.0)
    return (int(dev_set is not None and job.facts.dev_set != dev_set), -job.score)


def _values(jobs: Sequence[Job]) -> tuple[str | None, dict[int, np.ndarray]]:
    """Of which set, and by place in the list the values of each query, of the best job and all that compare to it."""
    finished = [place for place, job in enumerate(jobs) if job.facts.finished]
    for kind in ("dev", "test"):
        saved = {}
        for place in finished:
            facts = jobs[place].facts
            folder = dev_run(facts) if kind == "dev" else test_run(facts)
            try:
                each = read_saved(folder, facts.objective if kind == "dev" else facts.metric) if folder is not None else None
            except DataError:
                each = None
            if each is not None and (not saved or difference_of_sets(each, next(iter(saved.values()))) is None):
                saved[place] = each
            elif not saved:
                break  # the best one's are not there
        if len(saved) > 1:
            return kind, dict(zip(saved, in_one_order(list(saved.values())), strict=True))
    return None, {}


def test_run(facts: RunFacts) -> Path:
    """The folder of a finished run's saved evaluation of its model on its test set."""
    return of_rounds(facts) / "eval" / facts.summary["test_set"] / FINAL


def dev_run(facts: RunFacts) -> Path | None:
    """The same of the model after training on the dev set; None where it was not kept."""
    if facts.summary.get("chosen_on_test"):
        return test_run(facts)
    known = {facts.summary["test_set"], *(entry["set"] for entry in facts.summary.get("keep", ()))}
    others = (path for path in sorted(of_rounds(facts).glob("eval/*")) if path.name not in known)
    return next((path / system for path in others for system in ("after", FINAL) if (path / system).is_dir()), None)


def of_rounds(facts: RunFacts) -> Path:
    """The folder that has the run's evaluations: of rounds that of the round that was taken."""
    return facts.folder / f"round-{facts.summary['round']}" if "round" in facts.summary else facts.folder
