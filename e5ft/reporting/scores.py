"""How answers and non-answers score, and the score from which on an answer may be given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from e5ft.reporting import plots
from e5ft.reporting.html import Block, Cell, Details, Figure, Paragraph, Section, Table, number
from e5ft.reporting.queries import per_cent
from e5ft.reporting.record import BASE, FINAL, Query, Run
from e5ft.retrieval.tables import short_number

_POINTS = 200  # thresholds of the curve


def scores_and_threshold(run: Run, words: Mapping[str, str]) -> Section:
    """The threshold in a sentence and a table, precision and recall by threshold, and the scores before and after."""
    name, threshold = run.summary["test_set"], run.summary.get("threshold")
    systems = {when: list(run.queries(name, system).values()) for when, system in (("before", BASE), ("after", FINAL))}
    blocks = _threshold(threshold, words)
    found = {when: _scores(queries) for when, queries in systems.items()}
    if not all(len(each) for pair in found.values() for each in pair):
        return Section(words["scores"], [*blocks, Paragraph(words["no_scores"], "note")])
    mark = None if threshold is None else (threshold["value"], f"{words['value']} {short_number(threshold['value'])}")
    joined = np.concatenate([each for pair in found.values() for each in pair])
    low, high = np.quantile(joined, [0.025, 0.975])
    if low > 0.5:
        ends = {"low": short_number(float(low)), "high": short_number(float(high))}
        blocks.append(Paragraph(words["cosines_note"].format(**ends)))
    edges = np.histogram_bin_edges(joined if mark is None else np.append(joined, mark[0]), 40)
    for when, (answers, others) in found.items():
        blocks.append(
            _histogram(words[when], answers, others, edges, mark if when == "after" else None, _depth(systems[when]), words)
        )
    blocks.append(_by_threshold(name, systems["after"], mark, words))
    return Section(words["scores"], blocks)


def _threshold(threshold: Mapping[str, Any] | None, words: Mapping[str, str]) -> list[Block]:
    if threshold is None:
        return [Paragraph(words["threshold_none"], "note")]
    value, test = short_number(threshold["value"]), threshold.get("test")
    parts = {"dev": threshold["dev"], **({} if test is None else {"test": test})}
    told = {
        f"{part}_{name}": per_cent(figures[name] or 0.0) for part, figures in parts.items() for name in ("answered", "precision")
    }
    sentence = words["threshold_dev" if test is None else "threshold"].format(value=value, **told)
    rows = [
        [
            part,
            Cell(f"{figures['queries']:,}", figures["queries"]),
            *(_share(figures[n]) for n in ("answered", "precision", "recall")),
        ]
        for part, figures in parts.items()
    ]
    columns = [words["threshold_on"], *((words[name], True) for name in ("queries", "answered", "precision", "recall"))]
    table = Table(columns, rows, caption=words["threshold_table"].format(value=value))
    return [Paragraph(sentence), table, Details(words["rule"], [Paragraph(str(threshold.get("rule", "")))])]


def _share(value: float | None) -> Cell:
    return number(None) if value is None else Cell(per_cent(value), value)


def _scores(queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of answers that were found, and of non-answers among the passages found first."""
    answers, others = [], []
    for query in queries:
        right = {answer.identifier for answer in query.answers}
        answers += [answer.score for answer in query.answers if answer.score is not None]
        others += [passage.score for passage in query.top if passage.identifier not in right and passage.score is not None]
    return np.array(answers, float), np.array(others, float)


def _histogram(
    when: str, answers: np.ndarray, others: np.ndarray, edges: np.ndarray, mark: tuple[float, str] | None, depth: int,
    words: Mapping[str, str],
) -> Figure:  # fmt: skip
    labels = words["answers"], words["others"].format(depth=depth)
    drawing = plots.histogram(
        dict(zip(labels, (answers.tolist(), others.tolist()), strict=True)),
        words["cosine"],
        words["share"],
        bins=edges,
        mark=mark,
    )
    medians = [float(np.median(each)) for each in (answers, others)]
    told = {
        "answers": short_number(medians[0]),
        "others": short_number(medians[1]),
        "above": per_cent(np.mean(others > medians[0])),
    }
    description = words["cosines_text"].format(when=when, depth=depth, **told)
    return Figure(drawing, f"{words['cosines'].format(when=when)}. {description}", description)


def _by_threshold(name: str, queries: Sequence[Query], mark: tuple[float, str] | None, words: Mapping[str, str]) -> Figure:
    first = [(q.top[0].score, q.top[0].identifier in {answer.identifier for answer in q.answers}) for q in queries if q.top]
    scores, right = np.array([score for score, _ in first]), np.array([answers for _, answers in first])
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 0.99, _POINTS)))
    answered = scores >= thresholds[:, None]  # (T, Q)
    precision = (answered & right).sum(axis=1) / answered.sum(axis=1)
    recall = (answered & right).sum(axis=1) / len(queries)
    curves = {words["precision"]: (thresholds, precision), words["recall"]: (thresholds, recall)}
    drawing = plots.lines(curves, words["value"], words["ratio"], mark=mark)
    told = {
        **{end: short_number(float(thresholds[place])) for end, place in (("low", 0), ("high", -1))},
        **{end: per_cent(precision[place]) for end, place in (("first", 0), ("last", -1))},
    }
    description = words["by_threshold_text"].format(**told)
    return Figure(drawing, f"{words['by_threshold'].format(set=name)}. {description}", description)


def _depth(queries: Sequence[Query]) -> int:
    return max((len(query.top) for query in queries), default=0)
