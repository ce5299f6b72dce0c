"""How answers and non-answers score, and the score from which on an answer may be given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from e5ft.reporting import plots
from e5ft.reporting.html import Block, Cell, Details, Figure, Paragraph, Section, Table, number
from e5ft.reporting.queries import per_cent
from e5ft.reporting.record import BASE, FINAL, Query, Run
from e5ft.retrieval.tables import short_number
from e5ft.retrieval.threshold import TARGETS, is_of_few

_POINTS = 200  # thresholds of the curve
_FEWEST = 0.05  # share of the queries that are still answered at the highest of them
_LINES = 200_000  # of run.trec: 2,000 queries of a hundred passages
_SYSTEMS = {"before": BASE, "after": FINAL}


def scores_and_threshold(run: Run, words: Mapping[str, str]) -> Section:
    """The threshold in a sentence and a table, precision and recall by threshold, and the scores before and after."""
    name, threshold = run.summary["test_set"], run.summary.get("threshold")
    systems = {when: run.queries(name, system) for when, system in _SYSTEMS.items()}
    blocks = _threshold(run.summary, words)
    found = {when: _scores(run, system, systems[when]) for when, system in _SYSTEMS.items()}
    if not all(len(each) for pair in found.values() for each in pair):
        why = "no_others" if any(query.answers for query in systems["after"].values()) else "no_scores"
        return Section(words["scores"], [*blocks, Paragraph(words[why], "note")])
    mark = None if threshold is None else (threshold["value"], f"{words['value']} {_value(threshold)}")
    joined = np.concatenate([each for pair in found.values() for each in pair])
    low, high = np.quantile(joined, [0.025, 0.975])
    if low > 0.5:
        ends = {"low": short_number(float(low)), "high": short_number(float(high))}
        blocks.append(Paragraph(words["cosines_note"].format(**ends)))
    edges = np.histogram_bin_edges(joined if mark is None else np.append(joined, mark[0]), 40)
    for when, (answers, others) in found.items():
        blocks.append(_histogram(words[when], answers, others, edges, mark if when == "after" else None, words))
    blocks.append(_by_threshold(name, list(systems["after"].values()), mark, words))
    return Section(words["scores"], blocks)


def _threshold(summary: Mapping[str, Any], words: Mapping[str, str]) -> list[Block]:
    threshold = summary.get("threshold")
    if threshold is None:
        lack = summary.get("no_threshold") or {"why": "", "queries": 0}
        why = {"few": "threshold_few", "never": "threshold_never"}.get(lack["why"], "threshold_none")
        why = "threshold_unknown" if "threshold" not in summary else "threshold_no_dev" if summary.get("chosen_on_test") else why
        return [Paragraph(words[why].format(least=f"{100 * TARGETS[-1]:g}", queries=f"{lack['queries']:,}"), "note")]
    value, parts = _value(threshold), {part: threshold[part] for part in ("dev", "test") if threshold.get(part) is not None}
    told, rows = {"value": value}, []
    for part, figures in parts.items():
        share = per_cent(figures["answered"])
        told |= {f"{part}_answered": share, f"{part}_precision": per_cent(figures["precision"] or 0.0)}
        count = round(figures["answered"] * figures["queries"])
        answered, counted = Cell(f"{count:,} ({share})", count), Cell(f"{figures['queries']:,}", figures["queries"])
        rows.append([part, counted, answered, _precision(figures), Cell(per_cent(figures["recall"]), figures["recall"])])
    checked = "threshold_unchecked"
    if "test" in parts:
        checked = "threshold_test" if parts["test"]["answered"] else "threshold_test_none"
    sentence = f"{words['threshold']} {words[checked]}".format(**told)
    if is_of_few(threshold):
        dev, ends = parts["dev"], map(per_cent, parts["dev"].get("precision_interval") or (0.0, 1.0))
        counts = {"answered": f"{round(dev['answered'] * dev['queries']):,}", "queries": f"{dev['queries']:,}"}
        sentence += " " + words["threshold_of_few"].format(**counts, **dict(zip(("low", "high"), ends, strict=True)))
    columns = [words["threshold_on"], *((words[name], True) for name in ("queries", "answered", "precision", "recall"))]
    table = Table(columns, rows, caption=words["threshold_table"].format(value=value), stacked=True)
    rule = words["rule_text"].format(target=f"{100 * threshold['target']:g}")
    return [Paragraph(sentence), table, Paragraph(words["threshold_means"], "note"), Details(words["rule"], [Paragraph(rule)])]


def _value(threshold: Mapping[str, Any]) -> str:
    return f"{threshold['value']:.4f}".removeprefix("0")


def _precision(figures: Mapping[str, Any]) -> Cell:
    """The share that was answered rightly with its interval; a dash where nothing was answered."""
    if figures["precision"] is None:
        return number(None)
    ends = figures.get("precision_interval")
    return Cell(per_cent(figures["precision"]) + (f" [{', '.join(map(per_cent, ends))}]" if ends else ""), figures["precision"])


def _scores(run: Run, system: str, queries: Mapping[str, Query]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the passages found that answer, and of those that do not."""
    right = {name: {answer.identifier for answer in query.answers} for name, query in queries.items() if query.answers}
    found: tuple[list[float], list[float]] = ([], [])
    for query, passage, score in run.ranking(run.summary["test_set"], system, _LINES):
        if query in right:
            found[passage not in right[query]].append(score)
    return np.array(found[0], float), np.array(found[1], float)


def _histogram(
    when: str,
    answers: np.ndarray,
    others: np.ndarray,
    edges: np.ndarray,
    mark: tuple[float, str] | None,
    words: Mapping[str, str],
) -> Figure:
    values = {words["answers"]: answers.tolist(), words["others"]: others.tolist()}
    drawing = plots.histogram(values, words["cosine"], words["share"], bins=edges, mark=mark)
    medians = [float(np.median(each)) for each in (answers, others)]
    told = {
        "answers": short_number(medians[0]),
        "others": short_number(medians[1]),
        "above": per_cent(np.mean(others > medians[0])),
    }
    description = words["cosines_text"].format(when=when, **told)
    return Figure(drawing, description, description)


def _by_threshold(name: str, queries: Sequence[Query], mark: tuple[float, str] | None, words: Mapping[str, str]) -> Figure:
    first = [(q.top[0].score, q.top[0].identifier in {answer.identifier for answer in q.answers}) for q in queries if q.top]
    scores, right = np.array([score for score, _ in first]), np.array([answers for _, answers in first])
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1 - _FEWEST, _POINTS)))
    answered = scores >= thresholds[:, None]  # (T, Q)
    precision = (answered & right).sum(axis=1) / answered.sum(axis=1)
    recall = (answered & right).sum(axis=1) / len(queries)
    curves = {words["precision"]: (thresholds, precision), words["recall"]: (thresholds, recall)}
    drawing = plots.lines(curves, words["value"], words["ratio"], mark=mark, bottom=0, top=1.03)
    told = {
        **{end: short_number(float(thresholds[place])) for end, place in (("low", 0), ("high", -1))},
        **{end: per_cent(precision[place]) for end, place in (("first", 0), ("last", -1))},
    }
    description = words["by_threshold_text"].format(**told)
    return Figure(drawing, f"{words['by_threshold'].format(set=name)}. {description}", description)
