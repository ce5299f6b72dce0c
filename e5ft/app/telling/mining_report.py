"""What mining prints for a person, the command that goes on with the rows, and a picture of the scores."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from e5ft.app.settings.build import data_defaults
from e5ft.app.settings.plan import DataPlan
from e5ft.app.telling.report import relative
from e5ft.formatting import duration
from e5ft.retrieval.filters import fates
from e5ft.retrieval.settings import Limits, Selection

_KEPT = ("dev_share", "eval_split", "keep_dir", "negatives_per_query")  # of the data group: what train.py goes by, too


def mining_opening(selection: Selection, data) -> str:
    """The first facts of mining: how many rows get negatives, from which candidates.

    Args:
        selection: which candidates are taken.
        data: the MiningData.
    """
    index = data.index
    lines = [
        f"  rows        {len(index.query_of):,} ({len(index.queries):,} distinct queries)",
        f"  candidates  {index.candidates:,} passages; looked at: ranks {selection.window[0]} to {selection.window[1]} "
        f"of {', '.join(selection.sources)}",
    ]
    if data.held_out_label is not None:
        lines.append(
            f"  held out    {data.counts['held_out']:,} passages of {data.held_out_label}: {index.excluded:,} of them taken out of "
            f"the candidates; {index.overlap:,} are documents of these rows"
        )
    if data.own and selection.own_negatives == "keep":
        lines.append(
            f"  own         {len(index.own_row):,} hard negatives that the rows had stay before the mined ones, each once"
        )
    elif data.own:
        lines.append(
            f"  note        {data.own:,} hard negatives that the rows had are replaced by mined ones; own_negatives=keep keeps both"
        )
    if index.candidates < selection.window[1]:
        lines.append(
            f"  note        the corpus is smaller than the window: no query has more than {index.candidates:,} candidates"
        )
    return "\n".join(lines)


def mining_closing(summary: dict, selection: Selection, limits: Limits, output: Path, following: str | None) -> str:
    """The last lines of mining: how many rows got negatives, what became of every candidate, what to do next.

    Args:
        summary: as mining.json holds it; its parts about what was removed are there on the main process alone.
        selection, limits: which candidates were taken.
        output: the file of rows.
        following: the command that goes on with it; None within rounds, which go on by themselves.
    """
    # Also a filter that removed nothing.
    always = {"known_positive", "chosen", *(field for field, value in vars(limits).items() if value is not None)}
    rows, none, fewer = summary["rows"], summary["rows_with_none"], summary["rows_with_fewer"]
    seen = summary["candidates"]["seen"]
    kind = "mined hard negatives" if selection.own_negatives == "keep" else "hard negatives"
    lines = [
        "",
        f"{rows:,} rows: {rows - fewer:,} have {selection.per_query} {kind}, {fewer - none:,} have fewer, {none:,} have none",
        *_without(summary.get("without"), none),
        f"{seen:,} candidates looked at:",
    ]
    for fate, reason in list(fates().items())[1:]:
        count = summary["candidates"][fate]
        if count or fate in always:
            lines.append(f"  {count:>10,}  {count / max(seen, 1):>6.1%}  {reason}")
    for question in summary.get("questioned", ()):
        lines += _questioned(
            question, summary["removed"][question["filter"]][0], within="rounds.mining." if following is None else ""
        )
    if summary["scores"] is not None:
        medians = {kind: "none" if value is None else f"{value:.3f}" for kind, value in summary["scores"]["medians"].items()}
        lines.append(f"median score: answers {medians['positives']}, hard negatives {medians['negatives']}")
    if summary.get("approximate"):
        lines.append("the search was approximate: some near passages were not seen")
    if none == rows:
        lines.append(f"No row got a {kind.removesuffix('s')}: widen the window, or loosen what removed most.")
    if "seconds" in summary:
        lines.append(
            f"{relative(output)}, mining.json (examples of what was taken and of what each filter removed) and mining.png beside it "
            f"({duration(summary['seconds'])})"
        )
    if following is not None:
        lines.append(f"next        {following}")
    return "\n".join(lines)


def _without(without: dict | None, none: int) -> list[str]:
    """Why rows got no negative, and the first of them."""
    if not without or not none:
        return []
    words = {**fates(), "nothing_found": "nothing was found for the query"}
    reasons = "; ".join(f"{count:,} {words[reason]}" for reason, count in without["reasons"].items())
    first = without["first"][0]
    place = f"{first['place']}, " if first["place"] else ""
    return [f"            why none   {reasons}", f"            the first  {place}{_cut(first['query'])}"]


def _questioned(question: dict, example: dict, within: str) -> list[str]:
    looser = " ".join(within + override for override in question["looser"].split())
    return [
        f"{question['filter']} removed {question['share']:.1%} of the candidates: are they answers? mining.json has examples under "
        f"removed; if they are not: {looser}",
        f"            query    {_cut(example['query'])}",
        f"            answer   {_cut(example.get('with', example['documents'][0]['text']))}",
        f"            removed  {_cut(example['passage'])}",
    ]


def _cut(text: str, length: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length]}..."


def next_command(settings: Any, plan: DataPlan, output: Path, dev_file: Path | str | None, overrides: Iterable[str]) -> str:
    """The command that trains on the mined rows with the same model, dev set and evaluation, ready to paste.

    Args:
        settings: of mine.py.
        plan: what mining read.
        output: the file of rows.
        dev_file: rows that choose the best checkpoint, in the standard columns; None: there is no such file.
        overrides: those of mine.py's command line.
    """
    model = [override.lstrip("+") for override in overrides if override.lstrip("+").startswith(("model=", "model."))]
    if model and not any(override.startswith("model=") for override in model):
        model.insert(0, "model=folder")  # mine.py's own default; train.py's has random weights
    said = {"train_file": relative(output), "dev_file": None if dev_file is None else str(dev_file)}
    if plan.evaluation is not None:
        said["eval_dir"] = settings.data.eval_dir or relative(Path(str(plan.evaluation.folder)))
    elif settings.data.corpus_file is not None:  # then train.py ranks the dev rows among these, too
        said |= {"corpus_file": settings.data.corpus_file, "encoding": settings.data.encoding}
    for name in _KEPT:
        value = getattr(settings.data, name)
        given = list(value) or None if isinstance(value, tuple) else value
        said[name] = None if given == data_defaults()[name] else _said(value)
    words = [*model, *(f"data.{name}={value}" for name, value in said.items() if value is not None)]
    if settings.seed != Selection.seed:
        words.append(f"seed={settings.seed}")
    return " ".join(["python train.py", *map(shlex.quote, words)])


def _said(value: object) -> str:
    """A value as the command line takes it."""
    return "null" if value is None else f"[{','.join(value)}]" if isinstance(value, tuple) else str(value)


def draw_mined_scores(summary: dict, path: Path) -> None:
    """Write histograms of the scores of answers and of hard negatives over the same bins; no file where nothing was scored."""
    kinds = [(name, summary[name]) for name in ("scores", "teacher_scores") if summary[name] is not None]
    if not kinds:
        return
    # Without pyplot, which looks for a window system and keeps every figure in a global list.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(kinds), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"scores": "score by the model that mined", "teacher_scores": "score by the cross-encoder"}
    if summary["model"] is None:
        titles["scores"] = "score by BM25"
    for column, (name, histograms) in enumerate(kinds, start=1):
        axes = figure.add_subplot(1, len(kinds), column)
        for kind, label, colour in (("positives", "documents", "tab:blue"), ("negatives", "hard negatives", "tab:orange")):
            counts = histograms[kind]
            total = max(sum(counts), 1)
            axes.stairs(
                [count / total for count in counts], histograms["edges"], fill=True, alpha=0.5, color=colour,
                label=f"{label} ({sum(counts):,})",
            )  # fmt: skip
        axes.set_xlabel(titles[name])
        axes.set_ylabel("share")
        axes.legend()
    figure.suptitle(f"{summary['rows']:,} rows, {summary['candidates']['chosen']:,} hard negatives")
    figure.savefig(path, dpi=120)
