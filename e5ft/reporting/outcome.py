"""Whether a training made retrieval better: the sentence that comes first, the tables of scores, and what to do next."""

from collections.abc import Mapping, Sequence
from typing import Any

from e5ft.reporting import plots
from e5ft.reporting.html import Cell, Figure, Paragraph, Section, Table, number
from e5ft.reporting.record import Run
from e5ft.retrieval.overlap import leaking
from e5ft.retrieval.tables import FEW, cutoffs_of, difference_text, headline, interval_text, least_seen, short_number
from e5ft.retrieval.verdict import (
    BETTER,
    CHOSE,
    FEWEST,
    LEARNT,
    SAME,
    TOO_FEW,
    UNDECIDED,
    WORSE,
    metric_of,
    result_text,
    set_outcomes,
    verdict_of,
)  # fmt: skip

_FINDINGS = {BETTER: "won", WORSE: "lost", SAME: "same"}
_SYSTEMS = ("before", "bm25", "after", "hybrid")


def metrics_of(summary: Mapping[str, Any]) -> list[str]:
    """The metrics that a short table shows."""
    return headline(cutoffs_of(summary["scores"]["after"]["metrics"]))


def first_sentence(run: Run, words: Mapping[str, str]) -> tuple[str, str]:
    """The verdict in one sentence of the page's language, and its tone."""
    summary, metric = run.summary, metric_of(run.summary)
    found, difference = verdict_of(summary), _difference(summary)
    if found["word"] == UNDECIDED:
        few = words["few"].format(queries=_queries(summary), least=FEWEST)
        reason = {CHOSE: words["no_test"], LEARNT: words["learnt"]}.get(found["because"], few)
        finding = words["undecided"].format(reason=reason)
    else:
        base = "base_refuted" if summary.get("best", {}).get("step") else "base"  # a keep set's doing; else the dev set's
        finding = words[base if found["base_kept"] else _FINDINGS[found["word"]]]
    before, after = (short_number(summary["scores"][when]["metrics"][metric]) for when in ("before", "after"))
    ends = {name: f"{difference[end]:+.3f}" for name, end in (("change", "mean"), ("low", "low"), ("high", "high"))}
    where = {"set": summary["test_set"], "queries": f"{_queries(summary):,}", "metric": metric, "before": before, "after": after}
    sentence = words["sentence"].format(finding=finding, **where, **ends)
    return sentence + caveats(summary, words), tone_of(found, summary)


def caveats(summary: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """What the first sentence may not be read without: sets that lost, and sets whose queries were trained on; empty without any."""
    lost = [name for name, result in verdict_of(summary)["keep"].items() if result["lost"]]
    said = [words["costs"].format(sets=", ".join(lost))] if lost else []
    return "".join(f" {text}" for text in [*said, *leaks_text([summary], words)])


def leaks_text(summaries: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> list[str]:
    """The sentence on reported sets whose queries were trained on, with how many of how many; none where there are none."""
    found = (leak for summary in summaries for leak in leaking(summary))
    sets = dict.fromkeys(f"{leak.set} {leak.shared_queries + leak.near_queries:,}/{leak.queries:,}" for leak in found)
    return [words["leaks"].format(sets=", ".join(sets))] if sets else []


def tone_of(verdict: Mapping[str, Any], *summaries: Mapping[str, Any]) -> str:
    """The colour of a verdict on runs: good only where nothing was lost elsewhere and no reported set leaks."""
    if verdict["costs_elsewhere"] or verdict["word"] == WORSE:
        return "bad"
    return "good" if verdict["word"] == BETTER and not any(map(leaking, summaries)) else ""


def change_cell(change: Mapping[str, float], word: str, known: bool = False) -> Cell:
    """A set's paired difference with its interval, in the colour of what the verdict says of it.

    Args:
        change: mean, low, high and level.
        word: of `verdict.outcome_word`.
        known: whether the set's queries were trained on: then no gain is coloured.
    """
    tone = {"gained": "" if known else "good", "lost": "bad"}.get(word, "")
    return Cell(change_text(change), change["mean"], tone=tone)


def change_text(change: Mapping[str, float]) -> str:
    """`verdict.result_text` in no language: the interval's level in brackets, where it is not 95 %."""
    text, at, level = result_text(change).partition(" at ")
    return f"{text} ({level})" if at else text


def change_cells(summary: Mapping[str, Any]) -> dict[str, Cell]:
    """Set -> `change_cell` of a run, after against before; empty of a record that lacks the differences."""
    if metric_of(summary) not in summary.get("differences", {}):
        return {}
    known = {leak.set for leak in leaking(summary)}
    return {each.set: change_cell(each.change, each.word, each.set in known) for each in set_outcomes(summary)[1]}


def outcome(run: Run, words: Mapping[str, str]) -> Section:
    """What was scored, in words, as tables and as a picture."""
    summary = run.summary
    blocks = [Paragraph(_in_words(summary, words)), _systems(summary, words)]
    if summary.get("keep"):
        blocks.append(_keep(summary, words))
    blocks += [Paragraph(text, "note") for text in _notes(summary, words)]
    blocks.append(_recalls(summary, words))
    return Section(words["result"], blocks)


def following(run: Run, words: Mapping[str, str]) -> Section:
    """What a person does next, by what was found."""
    summary, found, metric = run.summary, verdict_of(run.summary), metric_of(run.summary)
    scores = {name: entry["metrics"][metric] for name, entry in summary["scores"].items() if metric in entry["metrics"]}
    shown = {name: short_number(value) for name, value in scores.items()}
    lines = []
    if summary.get("random_weights"):
        lines.append(words["next_random"])
    beaten = scores.get("bm25", 0) > scores["after"]
    if beaten:
        lines.append(words["next_bm25"].format(**shown))
    if _hybrid_is_better(summary, metric) and scores["hybrid"] > scores.get("bm25", 0):
        lines.append(words["next_hybrid"].format(**shown))
    if found["because"] in (CHOSE, TOO_FEW):
        lines.append(words["next_undecided"].format(least=FEWEST))
    elif found["word"] not in (BETTER, UNDECIDED):
        lines.append(words["next_same"])
    elif not (beaten or summary.get("random_weights") or leaking(summary)):
        lines.append(words["next_won"])
    if leaking(summary):
        lines.append(words["next_leak"])
    if found["costs_elsewhere"]:
        lines.append(words["next_costs"])
    return Section(words["next"], [Paragraph(line) for line in lines])


def name_of(system: str, label: str, words: Mapping[str, str]) -> str:
    """A system's name in the page's language; of small vectors the record's label."""
    return words[system] if system in _SYSTEMS else label


def _in_words(summary: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """How many of 100 queries are answered by the first result, and within some."""
    systems = [name for name in ("after", "before", "bm25") if name in summary["scores"]]
    cutoffs = cutoffs_of(name for name in summary["scores"]["after"]["metrics"] if name.startswith("hit@"))
    depth = 10 if 10 in cutoffs else cutoffs[-1]
    said = []
    for sentence, cutoff in zip(words["counts"].splitlines(), (1, depth), strict=True):
        if cutoff not in cutoffs:
            continue
        values = {system: round(100 * summary["scores"][system]["metrics"][f"hit@{cutoff}"]) for system in systems}
        counts = ", ".join(words["count"].format(label=words[system], count=value) for system, value in values.items())
        said.append(sentence.format(depth=depth, counts=counts))
    return " ".join(said)


def _systems(summary: Mapping[str, Any], words: Mapping[str, str]) -> Table:
    metrics, rows, changes = metrics_of(summary), [], change_cells(summary)
    for system, entry in summary["scores"].items():
        if system == "hybrid_before":
            continue
        cells = [
            Cell(interval_text(entry["metrics"][m], entry["intervals"][m]), entry["metrics"][m]) if m in entry["metrics"] else "–"
            for m in metrics
        ]
        rows.append([Cell(name_of(system, entry["label"], words), hint=entry["label"]), *cells])
    cells = []
    for metric in metrics:
        found = summary["differences"].get(metric)
        change = "" if found is None else difference_text(found["mean"], found["low"], found["high"])
        tone = changes[summary["test_set"]].tone if metric == metric_of(summary) else ""
        cells.append("–" if found is None else Cell(change, found["mean"], f"p = {found['p_value']:.2g}", tone))
    rows.append([f"{words['difference']}: {words['after']} − {words['before']}", *cells])
    counts = {"queries": f"{_queries(summary):,}", "passages": f"{summary['passages']:,}"}
    caption = words["systems"].format(set=summary["test_set"], **counts)
    return Table([words["system"], *((metric, True) for metric in metrics)], rows, caption=caption, stacked=True)


def _keep(summary: Mapping[str, Any], words: Mapping[str, str]) -> Table:
    (metric, outcomes), changes, rows = set_outcomes(summary), change_cells(summary), []
    names = {"gained": words["gained"], "lost": words["dropped"], "kept": words["kept"], "undecided": words["open"]}
    for each in outcomes:
        change = changes[each.set]
        result = Cell(names[each.word], tone=change.tone)
        rows.append([each.set, words[each.kind], number(each.before), number(each.after), change, result])
    columns = [
        words["set"],
        words["kind"],
        *((words[name], True) for name in ("before", "after", "difference")),
        words["outcome"],
    ]
    return Table(columns, rows, caption=words["keep_table"].format(metric=metric), stacked=True)


def _notes(summary: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    """What must be known to read the figures."""
    lines, found = [], _difference(summary)
    if summary.get("chosen_on_test"):
        lines.append(words["no_test"])
    if _queries(summary) < FEW:
        lines.append(words["few_queries"].format(queries=_queries(summary), least=least_seen(_queries(summary), found)))
    for leak in leaking(summary):
        lines.append(words["leak"].format(set=leak.set, shared=leak.shared_queries + leak.near_queries, queries=leak.queries))
    return lines


def _recalls(summary: Mapping[str, Any], words: Mapping[str, str]) -> Figure:
    cutoffs = cutoffs_of(name for name in summary["scores"]["after"]["metrics"] if name.startswith("recall@"))
    systems = [name for name in ("before", "after", "bm25", "hybrid") if name in summary["scores"]]
    values = {words[s]: [summary["scores"][s]["metrics"].get(f"recall@{k}", 0.0) for k in cutoffs] for s in systems}
    told = "; ".join(
        f"{name} {', '.join(f'@{k} {short_number(v)}' for k, v in zip(cutoffs, each, strict=True))}"
        for name, each in values.items()
    )
    drawing = plots.bars([str(k) for k in cutoffs], values, "K", "Recall@K", top=1.08)
    return Figure(drawing, words["recalls"], words["recalls_text"].format(values=told))


def _hybrid_is_better(summary: Mapping[str, Any], metric: str) -> bool:
    """Whether the interval of its paired difference to the model alone is above 0."""
    return bool(summary.get("hybrid")) and summary["hybrid"]["differences"][metric]["low"] > 0


def _difference(summary: Mapping[str, Any]) -> Mapping[str, float]:
    return summary["differences"][metric_of(summary)]


def _queries(summary: Mapping[str, Any]) -> int:
    return summary["queries"]
