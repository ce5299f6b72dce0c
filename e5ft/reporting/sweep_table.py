"""What a terminal shows of a multirun: a line as each job begins, and at the end a table that fits, the best job and what to type next."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from e5ft.formatting import duration
from e5ft.reporting.effects import ABSENT, varied
from e5ft.reporting.facts import RunFacts
from e5ft.reporting.listing import first, relative, shortened
from e5ft.reporting.sweeps import BEST, Job, Sweep, read_plan
from e5ft.retrieval.tables import aligned, difference_text, display_width, interval_text, short_number

WIDTH = 120  # columns of a terminal
VALUE = 22  # columns of a setting's value
_LESS = ("time", "test", "gain", "behind the best")  # columns that go where there is no room; of the test the interval alone


def beginning(folder: Path, number: int, overrides: Mapping[str, str]) -> str:
    """The line that is printed when a job begins: which of how many, with which values.

    Args:
        folder: the multirun's.
        number: the job's.
        overrides: of the job, setting -> value.
    """
    planned, given = read_plan(folder)
    # What a search tries is what the command line does not say.
    fields = varied(planned) if planned else [name for name, value in overrides.items() if f"{name}={value}" not in given]
    values = " ".join(f"{field}={overrides[field]}" for field in fields if field in overrides)
    total = f" of {len(planned)}" if planned else ""
    return first(f"run {number + 1}{total}: job {number}{f', {values}' if values else ''}", WIDTH)


def ending(sweep: Sweep, again: str) -> str:
    """The last lines of a multirun.

    Args:
        sweep: its record.
        again: the command that resumes it.
    """
    states = sweep.counts()
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    lines = [f"\n{len(sweep.jobs)} runs: {counted}; every figure: {relative(sweep.folder)}/sweep.csv"]
    if sweep.best is not None:
        facts = sweep.best.facts
        chooses = f"dev {facts.objective} chooses{', ranked after training' if sweep.rescored else ''}"
        if not sweep.chosen:
            chooses = f"{'each job has another dev set' if sweep.apart else 'no dev score'}, so no job is chosen"
        lines.append(f"{chooses}; test is {facts.metric} on {facts.summary['test_set']}; 95 % intervals")
    if sweep.jobs:
        lines += ["", _table(sweep), ""]
    if sweep.best is not None and sweep.apart and sweep.chosen:
        lines.append(first(f"another dev set, so not ranked: job {', '.join(sweep.apart)}", WIDTH))
    for job in sweep.jobs:
        if job.facts.error is not None:
            lines.append(first(f"job {job.number} {job.facts.state}: {job.facts.error}", WIDTH))
    if sweep.best is not None:
        lines += _best(sweep)
    if any(state != "finished" for state in states):
        lines.append(f"resume      {again}")
    return "\n".join(lines)


def _best(sweep: Sweep) -> list[str]:
    best, behind = sweep.best, sweep.behind()
    folder, given = relative(best.facts.folder), sweep.given(best)
    link = sweep.folder / BEST
    is_linked = link.is_symlink() and link.resolve() == best.facts.folder.resolve()
    model = f"{relative(link)}/model   (a link to {folder})" if is_linked else f"{folder}/model"
    lines = [
        f"{'best' if sweep.chosen else 'first':<12}job {best.number}: {model}",
        *([first(f"            {given}", WIDTH)] if given else []),
    ]
    above, near = sweep.above_and_near()
    if behind:
        compared = f"{len(behind)} other{'s' * (len(behind) > 1)}, query by query on the {sweep.set} set"
        words = [f"{word} job {', '.join(jobs)}" for word, jobs in (("below", above), ("not apart from", near)) if jobs]
        word = " and ".join(words) or "apart from all"
        lines.append(first(f"            {word} (of {compared})", WIDTH))
    lines.append(f"picture     {relative(sweep.folder)}/report.html")
    if behind:
        other = relative(sweep.jobs[min(behind)].facts.folder)
        lines.append(f"compare     python -m e5ft report 'runs=[{other},{folder}]'")
    return [*lines, f"next        make eval RUN={folder} DATA=...   (your own test questions)"]


def _table(sweep: Sweep) -> str:
    """The table without what is the same in all jobs, and without the columns for which there is no room."""
    columns = _columns(sweep)
    for name in ("", *_LESS):
        if name == "test" and name in columns:
            columns[name] = [cell.partition(" ")[0] for cell in columns[name]]
        else:
            columns.pop(name, None)
        text = _laid_out(columns)
        if _width(text) <= WIDTH:
            return text
    settings = [name for name in columns if name not in ("job", "dev", "result")]
    while settings and _width(text) > WIDTH:
        columns.pop(settings.pop())
        text = _laid_out(columns)
    return f"{text}\nFor want of room without: see sweep.csv for the other settings"


def _columns(sweep: Sweep) -> dict[str, list[str]]:
    """Column -> its cells: a row a job, then the model before training and BM25."""
    behind, best, jobs = sweep.behind(), sweep.best, sweep.jobs
    names = _short(sweep.fields)
    references = [name for name in ("before", "bm25") if best is not None and best.facts.scores(name)]
    columns = {"job": [job.number for job in jobs] + [best.facts.scores(name)["label"] for name in references]}
    for field in sweep.fields:
        columns[names[field]] = [shortened(job.overrides.get(field, ABSENT), VALUE) for job in jobs]
    apart = sweep.apart if best is not None else ()
    columns["dev"] = [f"({_number(job.score)})" if job.number in apart else _number(job.score) for job in jobs]
    start = None if best is None or sweep.rescored else best.facts.start.get(best.facts.objective)
    columns["dev"] += [_number(start if name == "before" else None) for name in references]
    columns["behind the best"] = [_paired(behind.get(place), best is jobs[place]) for place in range(len(jobs))]
    columns["test"] = [_scored(job.facts, "after") for job in jobs] + [_scored(best.facts, name) for name in references]
    for name in dict.fromkeys(entry["set"] for job in jobs for entry in job.facts.summary.get("keep", ())):
        columns[f"{name} change"] = [_change(job, name) for job in jobs]
    columns["gain"] = [difference_text(**_ends(job.facts)) if _ends(job.facts) else "" for job in jobs]
    columns["result"] = [_result(job.facts) for job in jobs]
    columns["time"] = ["" if job.facts.seconds is None else duration(job.facts.seconds) for job in jobs]
    rows = len(jobs) + len(references)
    filled = {name: cells + [""] * (rows - len(cells)) for name, cells in columns.items()}
    return {name: cells for name, cells in filled.items() if any(cells)}


def _laid_out(columns: Mapping[str, Sequence[str]]) -> str:
    rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return aligned(rows, text_columns=len(columns))


def _width(text: str) -> int:
    return max(map(display_width, text.splitlines()))


def _short(fields: Sequence[str]) -> dict[str, str]:
    """Settings by their last part, where that names one alone."""
    ends = [field.rpartition(".")[2] for field in fields]
    taken = {"job", "dev", "test", "gain", "result", "time"}
    return {field: end if ends.count(end) == 1 and end not in taken else field for field, end in zip(fields, ends, strict=True)}


def _number(value: float | None) -> str:
    return "" if value is None else short_number(value)


def _paired(pair, is_best: bool) -> str:
    return "best" if is_best else "" if pair is None else difference_text(pair.mean, pair.low, pair.high)


def _scored(facts: RunFacts, system: str) -> str:
    entry = facts.scores(system) if facts.finished else None
    if entry is None:
        return ""
    value, ends = entry["metrics"].get(facts.metric), entry.get("intervals", {}).get(facts.metric)
    return _number(value) if ends is None or value is None else interval_text(value, ends)


def _ends(facts: RunFacts) -> dict[str, float]:
    difference = facts.difference if facts.finished else None
    return {} if difference is None else {name: difference[name] for name in ("mean", "low", "high")}


def _change(job: Job, name: str) -> str:
    """What became of a keep set."""
    found = (entry["differences"].get(job.facts.metric) for entry in job.facts.summary.get("keep", ()) if entry["set"] == name)
    difference = next(found, None)
    return "" if difference is None else f"{difference['mean']:+.3f}"


def _result(facts: RunFacts) -> str:
    if facts.finished:
        return facts.verdict or "finished"
    return facts.state + (f" at step {facts.step:,}" if facts.step else "")
