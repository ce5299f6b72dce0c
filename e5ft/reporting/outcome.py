"""Whether a training made retrieval better: the sentence that comes first, the tables of scores, and what to do next."""

from collections.abc import Mapping
from typing import Any

from e5ft.reporting import plots
from e5ft.reporting.html import Cell, Figure, Paragraph, Section, Table, number
from e5ft.reporting.record import Run
from e5ft.retrieval.overlap import Overlap
from e5ft.retrieval.tables import FEW, cutoffs_of, headline, interval_text, least_seen, main_metric, short_number, verdict
from e5ft.retrieval.verdict import BETTER, FEWEST, SAME, UNDECIDED, WORSE, overall_verdict

_TONES = {BETTER: "good", WORSE: "bad"}
_FINDINGS = {BETTER: "won", WORSE: "lost", SAME: "same"}
_SYSTEMS = ("before", "bm25", "after", "hybrid")


def metric_of(summary: Mapping[str, Any]) -> str:
    """The metric that a single sentence reports."""
    return main_metric(metrics_of(summary))


def metrics_of(summary: Mapping[str, Any]) -> list[str]:
    """The metrics that a short table shows."""
    return headline(cutoffs_of(summary["scores"]["after"]["metrics"]))


def verdict_of(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The verdict of the record; of older ones, which had none, by today's rule."""
    if "verdict" in summary:
        return summary["verdict"]
    kept = summary.get("best", {}).get("step", 1) == 0
    chosen = summary.get("chosen_on_test", False)
    return overall_verdict(_difference(summary), _queries(summary), {}, base_kept=kept, chosen_on_test=chosen)


def first_sentence(run: Run, words: Mapping[str, str]) -> tuple[str, str]:
    """The verdict in one sentence of the page's language, and its tone."""
    summary, metric = run.summary, metric_of(run.summary)
    found, difference = verdict_of(summary), _difference(summary)
    if found["word"] == UNDECIDED:
        few = words["few"].format(queries=found["queries"], least=FEWEST)
        finding = words["undecided"].format(reason=words["no_test"] if summary.get("chosen_on_test") else few)
    else:
        base = "base_refuted" if summary.get("best", {}).get("step") else "base"  # a keep set's doing; else the dev set's
        finding = words[base if found["base_kept"] else _FINDINGS[found["word"]]]
    before, after = (short_number(summary["scores"][when]["metrics"][metric]) for when in ("before", "after"))
    ends = {name: f"{difference[end]:+.3f}" for name, end in (("change", "mean"), ("low", "low"), ("high", "high"))}
    where = {"set": summary["test_set"], "queries": f"{_queries(summary):,}", "metric": metric, "before": before, "after": after}
    sentence = words["sentence"].format(finding=finding, **where, **ends)
    lost = [name for name, result in found.get("keep", {}).items() if result["lost"]]
    if lost:
        sentence += words["costs"].format(sets=", ".join(lost))
    return sentence, "bad" if lost else _TONES.get(found["word"], "")


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
    if found["word"] == UNDECIDED:
        lines.append(words["next_undecided"].format(least=FEWEST))
    elif found["word"] != BETTER:
        lines.append(words["next_same"])
    elif not (beaten or summary.get("random_weights")):
        lines.append(words["next_won"])
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
    counts = {}
    for name, cutoff in (("first", cutoffs[0]), ("within", depth)):
        values = {system: round(100 * summary["scores"][system]["metrics"][f"hit@{cutoff}"]) for system in systems}
        counts[name] = ", ".join(words["count"].format(label=words[system], count=value) for system, value in values.items())
    return words["counts"].format(depth=depth, **counts)


def _systems(summary: Mapping[str, Any], words: Mapping[str, str]) -> Table:
    metrics, rows = metrics_of(summary), []
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
        cells.append("–" if found is None else Cell(_change(found), found["mean"], f"p = {found['p_value']:.2g}", _tone(found)))
    rows.append([f"{words['difference']}: {words['after']} − {words['before']}", *cells])
    counts = {"queries": f"{_queries(summary):,}", "passages": f"{summary['passages']:,}"}
    caption = words["systems"].format(set=summary["test_set"], **counts)
    return Table([words["system"], *((metric, True) for metric in metrics)], rows, caption=caption, stacked=True)


def _keep(summary: Mapping[str, Any], words: Mapping[str, str]) -> Table:
    metric, rows = metric_of(summary), []
    names = {"gained": words["gained"], "lost": words["dropped"], "kept": words["kept"]}
    for name, kind, entry in [(summary["test_set"], "target", summary), *((e["set"], "keep", e) for e in summary["keep"])]:
        found = entry["differences"][metric]
        figures = [number(entry["scores"][when]["metrics"][metric]) for when in ("before", "after")]
        change, result = Cell(_change(found), found["mean"], tone=_tone(found)), verdict(found)
        rows.append([name, words[kind], *figures, change, Cell(names[result], tone=_tone(found))])
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
    reported = {summary["test_set"], *(entry["set"] for entry in summary.get("keep", ()))}
    for overlap in (Overlap(**entry) for entry in summary.get("overlap", ())):
        if overlap.set in reported and overlap.leaks:
            shared = overlap.shared_queries + overlap.near_queries
            lines.append(words["leak"].format(set=overlap.set, shared=shared, queries=overlap.queries))
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


def _change(difference: Mapping[str, float]) -> str:
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _tone(difference: Mapping[str, float]) -> str:
    return {"gained": "good", "lost": "bad", "kept": ""}[verdict(difference)]
