"""The page that compares runs: scores with paired intervals, settings that differ, and between two the queries won and lost."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from e5ft.files import digest_of, write_text
from e5ft.formatting import duration, shareable
from e5ft.reporting.compare_words import COMPARE
from e5ft.reporting.comparing import Comparison, SetResult, comparison
from e5ft.reporting.facts import RunFacts
from e5ft.reporting.html import Block, Cell, Code, Column, Paragraph, Section, Table, cut, render
from e5ft.reporting.outcome import change_cell, change_cells, leaks_text, tone_of
from e5ft.reporting.queries import LENGTH, MOST, within, won_and_lost
from e5ft.reporting.record import FINAL, Query, read_run
from e5ft.reporting.sweep_page import language_of_runs, verdict_text
from e5ft.reporting.sweeps import of_rounds
from e5ft.retrieval.overlap import leaking
from e5ft.retrieval.significance import LEVEL
from e5ft.retrieval.tables import difference_text, interval_text, short_number
from e5ft.retrieval.verdict import BETTER, CHOSE, LEARNT, SAME, TOO_FEW, UNDECIDED, WORSE, outcome_word

_LONGEST_NAME = 150  # bytes of the runs' names in a file's name, of which file systems take 255


def compare_runs(folders: Sequence[Path], language: str = "auto", file: Path | None = None) -> tuple[Path, str]:
    """Write the page.

    Args:
        folders: of finished runs, or of multiruns, of which the best job is taken; each is held against the first.
        language: auto (Korean where training rows are), ko or en.
        file: where it goes; None: compare-A-B.html beside the first run.

    Returns:
        The file, and the verdict's word on the last run against the first.

    Raises:
        DataError: a run has not finished, or its record is damaged.
    """
    found = comparison(folders)
    if file is None:
        name = "-".join(name.replace("/", "_") for name in found.names)
        if len(name.encode()) > _LONGEST_NAME:
            name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest_of(*map(str, folders))[:8]}"
        file = folders[0].parent / f"compare-{name}.html"
    write_text(file, compare_page(found, language_of_runs(language, found.runs)))
    return file, found.verdict["word"]


def compare_page(found: Comparison, language: str) -> str:
    """The page as HTML text."""
    words = COMPARE[language]
    sections = [
        Section(words["scores"], [_scores(found, name, words) for name in found.sets]),
        Section(words["changes"], _changes(found, words)),
        Section(words["differ"], _settings(found, words)),
        Section(words["what"], [_facts(found, words)]),
        Section(words["again"], [Code(_command([run.folder for run in found.runs]))]),
    ]
    tone = tone_of(found.verdict, *(run.summary for run in found.runs)) if len(found.runs) == 2 else ""
    return render(words["title"].format(names=", ".join(found.names)), language, _sentence(found, words), sections, tone=tone)


def _sentence(found: Comparison, words: Mapping[str, Any]) -> str:
    results, first = found.sets[found.target], found.names[0]
    elsewhere = []
    for result, verdict in zip(results[1:], found.verdicts, strict=True):
        lost = ", ".join(name for name, each in verdict["keep"].items() if each["lost"])
        if lost and len(results) > 2:
            elsewhere.append(words["costs_of"].format(name=found.names[result.run], sets=lost))
        elif lost:
            elsewhere.append(words["costs"].format(sets=lost))
    elsewhere += leaks_text([run.summary for run in found.runs], words)
    if len(results) > 2:
        kinds: dict[str | None, list[str]] = {BETTER: [], WORSE: [], SAME: [], UNDECIDED: [], None: []}
        for result, verdict in zip(results[1:], found.verdicts, strict=True):
            kinds[None if result.pair is None else verdict["word"]].append(found.names[result.run])
        named = {kind: ", ".join(names) or words["nobody"] for kind, names in kinds.items()}
        said = [words["several"].format(set=found.target, a=first, better=named[BETTER], worse=named[WORSE], same=named[SAME])]
        for kind, word in ((UNDECIDED, "not_decided"), (None, "not_compared")):
            said += [words[word].format(names=named[kind])] if kinds[kind] else []
        return " ".join([*said, *elsewhere])
    verdict, pair, fields = found.verdict, found.last.pair, {"set": found.target, "a": first, "b": found.names[1]}
    if pair is None:
        return " ".join([words[UNDECIDED].format(reason=f"{_obstacle(found.last, words)}.", **fields), *elsewhere])
    why = {None: "", CHOSE: words["seen"], TOO_FEW: words["few"].format(queries=pair.queries), LEARNT: words["learnt"]}[
        verdict["because"]
    ]
    change = {"metric": found.metric, "change": difference_text(pair.mean, pair.low, pair.high), "p": f"{pair.p_value:.2g}"}
    return " ".join([words[verdict["word"]].format(reason=why, **fields, **change).rstrip(), *elsewhere])


def _scores(found: Comparison, name: str, words: Mapping[str, Any]) -> Table:
    """A row a run, and one of BM25 where the first has it."""
    first, target = found.names[0], name == found.target
    columns = [words["run"], (words["before"], True), (words["after"], True), (words["gain"], True)]
    columns += [(words["to"].format(a=first), True), *([words["verdict"]] if target else [])]
    rows = []
    for result in found.sets[name]:
        run, entry = found.runs[result.run], result.entry
        if entry is None:
            row = [None, None, None, words["not_measured"]]
        else:
            scores = entry["scores"]
            to = Cell(words["reference"], 0.0) if not result.run else _against_first(found, result, name, words)
            gain = change_cells(run.summary).get(name) if run.metric == found.metric else None
            before = _score(scores.get("before"), found.metric)
            if before is not None and run.summary.get("start_round") is not None:
                before = Cell(f"{before.text} ({words['round'].format(number=run.summary['start_round'])})", before.value)
            row = [before, _score(scores.get("after"), found.metric), gain, to]
        rows.append([found.names[result.run], *row, *([verdict_text(run, words)] if target else [])])
    lexical = (found.sets[name][0].entry or {"scores": {}})["scores"].get("bm25")
    if lexical is not None:
        rows.append([lexical["label"], None, _score(lexical, found.metric), None, None, *([None] if target else [])])
    return Table(columns, rows, caption=words["set_caption"].format(set=name, metric=found.metric), stacked=True)


def _against_first(found: Comparison, result: SetResult, name: str, words: Mapping[str, Any]) -> Cell | str:
    """A run less the first one on a set, in the colour that its verdict has; or why that cannot be said."""
    verdict = found.verdicts[result.run - 1]
    if result.pair is None:
        return _obstacle(result, words)
    known = any(leak.set == name for run in found.runs for leak in leaking(run.summary))
    change = verdict if name == found.target else verdict["keep"][name]
    return change_cell({"level": LEVEL, **change}, outcome_word(change), known)


def _changes(found: Comparison, words: Mapping[str, Any]) -> list[Block]:
    """The queries of the first run's test set on which two runs differ."""
    if len(found.runs) > 2:
        command = _command([run.folder for run in found.runs[:2]])
        return [Paragraph(words["two_only"].format(command=command), "note")]
    if found.last.pair is None:
        return [Paragraph(_obstacle(found.last, words))]
    a, b = (read_run(of_rounds(run)).queries(found.target, FINAL) for run in found.runs)
    won, lost = won_and_lost(a, b, found.metric)
    counts = {"total": len(a), "won": len(won), "lost": len(lost), "same": len(a) - len(won) - len(lost)}
    blocks: list[Block] = [Paragraph(words["changes_said"].format(set=found.target, b=found.names[1], **counts))]
    texts = all(query.text is not None for query in a.values())
    shown = within(*([_query(old, new, change, words) for change, old, new in part[:MOST]] for part in (won, lost)))
    if len(won) + len(lost) > sum(map(len, shown)):
        kept = {"won": len(shown[0]), "lost": len(shown[1])}
        blocks.append(Paragraph(words["changes_cut"].format(length=LENGTH, set=found.target, **kept), "note"))
    if not texts:
        blocks.append(Paragraph(words["no_texts"], "note"))
    columns = [Column(words["query"], wide=texts), words["kind"], (found.metric, True)]
    columns += [(words["rank"].format(name=name), True) for name in found.names]
    if texts:
        columns += [Column(words["wanted"], wide=True)]
        columns += [Column(words["found"].format(name=name), wide=True) for name in found.names]
    rows = [row[: len(columns)] for part in (shown[1], shown[0]) for row in part]
    if rows:
        caption = words["changes"]
        blocks.append(Table(columns, rows, sortable=True, filters=[words["kind"]], search=True, caption=caption, stacked=True))
    return blocks


def _query(a: Query, b: Query, change: float, words: Mapping[str, Any]) -> list[Cell]:
    """What two runs made of one query."""
    kind = Cell(words["won" if change > 0 else "lost"], tone="good" if change > 0 else "bad")
    texts = next(iter(a.answers), None), next(iter(a.top), None), next(iter(b.top), None)
    shown = ["" if passage is None else cut(passage.text or passage.identifier, LENGTH) for passage in texts]
    name = Cell(cut(a.text or a.identifier, LENGTH), hint=None if a.text is None else a.identifier)
    return [name, kind, Cell(f"{change:+.3f}", change), _rank(a, words), _rank(b, words), *map(Cell, shown)]


def _settings(found: Comparison, words: Mapping[str, Any]) -> list[Block]:
    if not found.settings:
        return [Paragraph(words["no_difference"])]
    rows = [[name, *(cut(shareable(value), 200) for value in values)] for name, values in found.settings.items()]
    return [Table([words["setting"], *found.names], rows, search=len(rows) > 12, caption=words["differ_caption"])]


def _facts(found: Comparison, words: Mapping[str, Any]) -> Table:
    def of(run: RunFacts) -> list[str]:
        training, rows = run.summary.get("training", {}), run.summary.get("data", {}).get("train_rows")
        ended = datetime.fromtimestamp(run.date).strftime("%Y-%m-%d %H:%M")
        counted = [f"{value:,}" if isinstance(value, int) else "" for value in (rows, training.get("steps"))]
        time = "" if run.seconds is None else duration(run.seconds)
        return [ended, shareable(run.model), shareable(run.data), *counted, run.weights, time, shareable(run.folder)]

    names = ("date", "base", "data", "rows", "steps", "weights", "time", "folder")
    rows = [[words[name], *values] for name, values in zip(names, zip(*map(of, found.runs), strict=True), strict=True)]
    return Table([words["fact"], *found.names], rows, caption=words["what_caption"])


def _command(folders: Sequence[Path]) -> str:
    return shlex.join(["python", "-m", "e5ft", "report", f"runs=[{','.join(map(shareable, folders))}]"])


def _obstacle(result: SetResult, words: Mapping[str, Any]) -> str:
    """Why a run does not compare to the first one."""
    if result.obstacle is None:
        return words["not_measured"]
    return shareable(words[result.obstacle["kind"]].format(values=result.obstacle["values"]))


def _score(entry: Mapping[str, Any] | None, metric: str) -> Cell | None:
    if entry is None or metric not in entry["metrics"]:
        return None
    value, ends = entry["metrics"][metric], entry.get("intervals", {}).get(metric)
    return Cell(short_number(value) if ends is None else interval_text(value, ends), value)


def _rank(query: Query, words: Mapping[str, Any]) -> Cell:
    return Cell(words["beyond"], 10**9) if query.rank is None else Cell(str(query.rank), query.rank)
