"""How a training went: loss, learning rate, gradient norm, masked share, and dev metrics, by step."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from e5ft.reporting import plots
from e5ft.reporting.html import Block, Figure, Paragraph, Section
from e5ft.reporting.record import BM25, Run
from e5ft.retrieval.tables import short_number
from e5ft.retrieval.verdict import metric_of

_LOGGED = ("loss", "learning_rate", "grad_norm", "masked_share")
_POINTS = 400  # of a curve; of more, neighbours are averaged
_MOST_METRICS = 3
_SAME = 5e-4  # of a mean on the same set: in other batches near ties may change places


def training(run: Run, words: Mapping[str, str]) -> Section:
    """A picture of each, the dev metrics first, with the model before training and BM25 as lines across."""
    blocks: list[Block] = _dev(run, words)
    for name in _LOGGED:
        steps, values = _thinned(*run.curve(name))
        if len(steps) > 1:
            told = {"first": f"{steps[0]:,}", "last": f"{steps[-1]:,}", "start": _short(values[0]), "end": _short(values[-1])}
            description = words["curve"].format(name=words[name], **told)
            drawing = plots.lines({words[name]: (steps, values)}, words["step"], words[name], bottom=0)
            blocks.append(Figure(drawing, description, description))
    return Section(words["training"], blocks or [Paragraph(words["no_log"], "note")])


def _dev(run: Run, words: Mapping[str, str]) -> list[Block]:
    main = run.summary.get("objective") or metric_of(run.summary)
    found = {name for entry in run.log for name in entry if name.startswith("eval_") and "@" in name}
    if f"eval_{main}" not in found:
        return []
    depth = main.rpartition("@")[2]
    others = [f"{kind}@{depth}" for kind in ("recall", "mrr", "ndcg") if f"eval_{kind}@{depth}" in found]
    series = {name: run.curve(f"eval_{name}") for name in [main, *(other for other in others if other != main)][:_MOST_METRICS]}
    steps, values = series[main]
    if not steps:
        return []
    references, summary = {}, run.summary
    if steps[0] == 0:
        references[f"{words['before']} ({main})"] = values[0]
    # While training the dev set may be cut to fewer queries and passages; BM25 is recorded on the whole test set alone.
    before = summary["scores"]["before"]["metrics"].get(main, math.nan)
    is_whole = summary.get("chosen_on_test") and steps[0] == 0 and math.isclose(values[0], before, abs_tol=_SAME)
    bm25 = summary["scores"].get(BM25, {}).get("metrics", {}).get(main) if is_whole else None
    notes = []
    if bm25 is not None:
        references[f"{words['bm25']} ({main})"] = bm25
    elif main in summary["scores"].get(BM25, {}).get("metrics", {}):
        notes = [Paragraph(words["dev_bm25"].format(bm25=short_number(summary["scores"][BM25]["metrics"][main])), "note")]
    step = summary.get("best", {}).get("step") or 0
    mark = (step, words["chosen"].format(step=f"{step:,}")) if step else None
    best = int(np.argmax(values))
    told = {"start": short_number(values[0]), "step": f"{steps[best]:,}", "best": short_number(values[best])}
    description = words["dev_curve"].format(metric=main, **told)
    drawing = plots.lines(series, words["step"], f"dev @{depth}", references=references, mark=mark)
    return [Figure(drawing, description, description), *notes]


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most so many points: means of neighbours, at the last one's step."""
    if len(steps) <= _POINTS:
        return list(steps), list(values)
    parts = np.array_split(np.arange(len(steps)), _POINTS)
    return [steps[part[-1]] for part in parts], [float(np.mean(np.asarray(values)[part])) for part in parts]


def _short(value: float) -> str:
    return f"{value:.3g}"
