"""The page of a multirun: which model to take, what each setting did, all jobs; made from the record alone."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e5ft.files import write_text
from e5ft.formatting import duration, shareable
from e5ft.reporting.effects import ABSENT, Level, effects
from e5ft.reporting.facts import RunFacts
from e5ft.reporting.html import Block, Cell, Code, Column, Facts, Figure, Paragraph, Section, Table, number, render
from e5ft.reporting.outcome import caveats, change_cells, tone_of
from e5ft.reporting.paired import Paired
from e5ft.reporting.parallel import parallel
from e5ft.reporting.plots import intervals
from e5ft.reporting.run_page import PAGE
from e5ft.reporting.sweep_words import SWEEP
from e5ft.reporting.sweeps import Job, Sweep, read_plan
from e5ft.reporting.words import LANGUAGES
from e5ft.retrieval.tables import difference_text, interval_text, short_number
from e5ft.retrieval.verdict import verdict_of

MOST_LEVELS = 40  # of a setting that the figure of effects shows


def write_page(sweep: Sweep, language: str = "auto", file: Path | None = None) -> Path:
    """Write a multirun's report.html.

    Args:
        sweep: its record.
        language: auto (Korean where training rows are), ko or en.
        file: where it goes; None: report.html in the multirun's folder.

    Returns:
        The file.
    """
    file = sweep.folder / PAGE if file is None else file
    write_text(file, sweep_page(sweep, language_of_runs(language, [job.facts for job in sweep.jobs])))
    return file


def language_of_runs(asked: str, runs: Sequence[RunFacts]) -> str:
    """The language of a page on runs: as it was asked for, and under `auto` Korean where the rows of one of them are."""
    rows = (run.summary.get("data", {}).get("language") for run in runs)
    return asked if asked in LANGUAGES else "ko" if any(rows) else "en"


def sweep_page(sweep: Sweep, language: str) -> str:
    """The page as HTML text."""
    words, best = SWEEP[language], sweep.best
    sections = [Section(words["chosen"], _chosen(sweep, words))] if sweep.chosen else []
    sections.append(Section(words["all"], [_jobs(sweep, words)]))
    if best is not None:
        sections.append(Section(words["effect"], _effects(sweep, words)))
        sections += _parallel(sweep, words)
    sections += _unfinished(sweep, words)
    sections.append(Section(words["fixed"], _fixed(sweep, words)))
    title = words["title"].format(name=sweep.folder.name, count=len(sweep.jobs))
    tone = tone_of(verdict_of(best.facts.summary), best.facts.summary) if sweep.chosen else ""
    return render(title, language, _sentence(sweep, words), sections, tone=tone)


def _sentence(sweep: Sweep, words: Mapping[str, Any]) -> str:
    best, done = sweep.best, sweep.counts().get("finished", 0)
    said = [] if done == len(sweep.jobs) else [words["unfinished"].format(total=len(sweep.jobs), done=done)]
    if best is None:
        return " ".join([*said, words["none"]])
    given, (above, near) = sweep.given(best), sweep.above_and_near()
    if not sweep.chosen:
        return " ".join([*said, words["all_apart" if sweep.apart else "unmeasured"].format(number=best.number)])
    said.append(words["take" if given else "take_only"].format(number=best.number, given=given))
    if sweep.rescored:
        said.append(words["rescored"])
    if sweep.apart:
        counts = {"count": len(sweep.ranked), "apart": ", ".join(sweep.apart)}
        said.append(words["apart_dev"].format(**counts))
    if above and sweep.set == "dev":
        said.append(words["above"].format(above=", ".join(above)))
    if near:
        said.append(words["near"].format(near=", ".join(near)))
    elif not above and len(sweep.values) == done > 1 and sweep.set == "dev":
        said.append(words["apart"])
    facts, change = best.facts, best.facts.difference
    if change is not None:
        before, after = (short_number(facts.scores(name)["metrics"][facts.metric]) for name in ("before", "after"))
        change = difference_text(*(change[end] for end in ("mean", "low", "high")))
        gain = {"set": facts.summary["test_set"], "metric": facts.metric, "before": before, "after": after, "change": change}
        said.append(words["gain"].format(**gain))
    return " ".join(said) + caveats(facts.summary, words)


def _chosen(sweep: Sweep, words: Mapping[str, Any]) -> list[Block]:
    best, facts = sweep.best, sweep.best.facts
    folder = shareable(facts.folder)
    pairs = [
        (words["job"], best.number),
        (words["settings"], sweep.given(best) or ABSENT),
        (words["folder"], folder),
        (words["model"], f"{folder}/model"),
        (words["own_page"], f"{folder}/{PAGE}"),
        (words["weights"], facts.weights),
        (words["verdict"], verdict_text(facts, words)),
    ]
    blocks: list[Block] = [Paragraph(words["random"], "bad")] if facts.summary.get("random_weights") else []
    blocks += [Facts(pairs), Paragraph(words["flattered_test" if facts.summary.get("chosen_on_test") else "flattered"], "note")]
    given = [f"{field}={value}" for field, value in best.overrides.items() if field != "name"]
    command = facts.summary.get("made", {}).get("command") or shlex.join(["python", "train.py", *given])
    blocks += [Paragraph(words["repeat"]), Code(shareable(command))]
    if sweep.behind():
        other = shareable(sweep.jobs[min(sweep.behind())].facts.folder)
        blocks += [Paragraph(words["compare"]), Code(shlex.join(["python", "-m", "e5ft", "report", f"runs=[{other},{folder}]"]))]
    return blocks


def _jobs(sweep: Sweep, words: Mapping[str, Any]) -> Table:
    """A row a job, and those of the model before training and of BM25 where all jobs have the same."""
    best, behind = sweep.best, sweep.behind()
    facts = None if best is None else best.facts
    keep = [] if best is None else [entry["set"] for entry in facts.summary.get("keep", ())]
    names = {"metric": "" if best is None else facts.objective}, {"metric": "" if best is None else facts.metric}
    columns = [words["job"], *((field, _is_number(sweep, field)) for field in sweep.fields)]
    columns += [words["verdict"], (words["dev_score"].format(**names[0]).strip(), True)]
    columns += [(words["behind"].format(set=sweep.set), True)] if behind else []
    columns += [(words["test_score"].format(**names[1]).strip(), True), (words["gain_column"], True)]
    columns += [(words["change"].format(name=name), True) for name in keep]
    columns += [(words["time"], True)]
    rows = []
    for place, job in enumerate(sweep.jobs):
        each, done = job.facts, job.facts.finished
        row = [job.number, *(_setting(job.overrides.get(field, ABSENT)) for field in sweep.fields)]
        state = Cell(words["states"].get(each.state, each.state), tone="bad" if each.error is not None else "")
        row += [_verdict(each, words) if done else state, _dev_score(job, sweep, words) if done else None]
        first = Cell(words["best" if sweep.chosen else "reference"], 0.0)
        row += [paired_cell(behind.get(place)) if place else first] if behind else []
        changes = change_cells(each.summary) if done else {}
        row += [score_cell(each, "after"), changes.get(each.summary["test_set"])] if done else [None, None]
        row += [changes.get(name) for name in keep]
        time = None if each.seconds is None else Cell(duration(each.seconds), each.seconds)
        rows.append([*row, time])
    for name in ("before", "bm25") if best is not None else ():
        entry = facts.scores(name)
        if entry is not None and all(_same(entry, job.facts, name) for job in sweep.jobs if job.facts.finished):
            row: list[Any] = [words["before"] if name == "before" else entry["label"], *[None] * (len(columns) - 1)]
            row[2 + len(sweep.fields)] = (
                number(facts.start.get(facts.objective)) if name == "before" and not sweep.rescored else None
            )
            row[3 + len(sweep.fields) + bool(behind)] = score_cell(facts, name)
            rows.append(row)
    caption = words["all_caption"].format(folder=shareable(sweep.folder))
    return Table(columns, rows, sortable=True, search=len(rows) > 12, caption=caption, stacked=True)


def _effects(sweep: Sweep, words: Mapping[str, Any]) -> list[Block]:
    if not sweep.fields:
        return [Paragraph(words["nothing_varied"])]
    if len(sweep.values) < 2:
        return [Paragraph(words["no_effect"])]
    found = effects([job.overrides for job in sweep.jobs], sweep.values, 0)
    metric = {"metric": sweep.metric}
    blocks: list[Block] = [Paragraph(words["effect_how"].format(set=sweep.set, **metric))]
    blocks.append(Paragraph(words["seed" if "seed" in sweep.fields else "no_seed"], "note"))
    rows, drawn = [], []
    for field, levels in found.items():
        if not any(level.pairs for level in levels):
            blocks.append(Paragraph(words["no_pairs"].format(field=field), "note"))
        for level in levels:
            rows.append(_level(field, level, level.value == sweep.jobs[0].overrides.get(field, ABSENT), words))
        pairs = [(f"{field}={level.value}", level.difference) for level in levels if level.difference is not None]
        drawn += [(name, pair.mean, pair.low, pair.high) for name, pair in pairs[:MOST_LEVELS]]
    if drawn:
        said = "; ".join(f"{name} {difference_text(*ends)}" for name, *ends in drawn)
        picture = intervals(drawn, words["effect_axis"].format(**metric))
        blocks.append(Figure(picture, words["effect_caption"], said))
    columns = [words["settings"], words["value"], (words["jobs"], True), (words["mean"].format(**metric), True)]
    columns += [(words["difference"], True), words["pairs"]]
    blocks.append(Table(columns, rows, sortable=len(rows) > 6, caption=words["effect"], stacked=True))
    return blocks


def _level(field: str, level: Level, is_reference: bool, words: Mapping[str, Any]) -> list[Any]:
    difference = Cell(words["reference"], 0.0) if is_reference else paired_cell(level.difference)
    pairs = words["of"].format(pairs=level.pairs, agreeing=level.agreeing) if level.pairs else None
    return [field, _setting(level.value), level.jobs, number(level.score), difference, pairs]


def _parallel(sweep: Sweep, words: Mapping[str, Any]) -> list[Section]:
    """One line a finished job, from setting to setting to the dev score; none where there is nothing to see."""
    finished = sweep.ranked if sweep.best is not None else []
    if len(finished) < 2 or not sweep.fields:
        return []
    axes = {field: [job.overrides.get(field, ABSENT) for job in finished] for field in sweep.fields}
    scores = [job.score for job in finished]
    name = words["dev_score"].format(metric=finished[0].facts.objective)
    said = "; ".join(f"{sweep.given(job)}: {name} {short_number(score)}" for job, score in zip(finished, scores, strict=True))
    return [Section(words["parallel"], [Figure(parallel(axes, name, scores), words["parallel_caption"], said)])]


def _unfinished(sweep: Sweep, words: Mapping[str, Any]) -> list[Section]:
    rows = [
        [job.number, sweep.given(job), words["states"].get(job.facts.state, job.facts.state), job.facts.error]
        for job in sweep.jobs
        if not job.facts.finished
    ]
    if not rows:
        return []
    columns = [words["job"], words["settings"], words["state"], Column(words["error"], wide=True)]
    again = [Paragraph(words["resume"]), Code(f"name={sweep.folder.name} sweep.resume=true")]
    return [Section(words["open"], [Table(columns, rows, stacked=True), *again])]


def _fixed(sweep: Sweep, words: Mapping[str, Any]) -> list[Block]:
    shared = sweep.jobs[0].overrides if sweep.jobs else {}
    pairs = [(field, value) for field, value in shared.items() if field not in sweep.fields]
    _, given = read_plan(sweep.folder)
    command = [Paragraph(words["command"]), Code(shareable(shlex.join(["python", "train.py", "-m", *given])))] if given else []
    return [*([Facts(pairs)] if pairs else []), *command]


def verdict_text(facts: RunFacts, words: Mapping[str, Any]) -> str:
    """The verdict's words in the page's language."""
    return ", ".join(words["verdicts"].get(part, part) for part in facts.verdict.split(", ") if part) or ABSENT


def _verdict(facts: RunFacts, words: Mapping[str, Any]) -> Cell:
    return Cell(verdict_text(facts, words), tone=tone_of(verdict_of(facts.summary), facts.summary))


def score_cell(facts: RunFacts, system: str) -> Cell | None:
    """A system's score on the test set, with its interval."""
    entry = facts.scores(system)
    if entry is None or facts.metric not in entry["metrics"]:
        return None
    value, ends = entry["metrics"][facts.metric], entry.get("intervals", {}).get(facts.metric)
    return Cell(short_number(value) if ends is None else interval_text(value, ends), value)


def paired_cell(pair: Paired | None) -> Cell | None:
    """A difference that was taken here, with its interval, coloured where that leaves 0 out."""
    if pair is None:
        return None
    tone = "" if not pair.is_apart else "good" if pair.mean > 0 else "bad"
    return Cell(difference_text(pair.mean, pair.low, pair.high), pair.mean, tone=tone)


def _dev_score(job: Job, sweep: Sweep, words: Mapping[str, Any]) -> Cell:
    """The dev score, in brackets where it is of another dev set than the best job's."""
    cell = number(job.score)
    return Cell(f"({cell.text})", cell.value, words["other_dev"]) if job.number in sweep.apart else cell


def _setting(value: str) -> Cell:
    try:
        return Cell(value, float(value))
    except ValueError:
        return Cell(value)


def _is_number(sweep: Sweep, field: str) -> bool:
    return all(isinstance(_setting(job.overrides.get(field, ABSENT)).value, float) for job in sweep.jobs)


def _same(entry: Mapping[str, Any], facts: RunFacts, name: str) -> bool:
    other = facts.scores(name)
    return other is not None and other["metrics"] == entry["metrics"]
