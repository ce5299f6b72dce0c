"""What mining says to a person: before it, after it, and as a picture."""

from pathlib import Path

from e5ft.app.mining_data import MiningData
from e5ft.app.report import relative
from e5ft.app.tracking import duration
from e5ft.modeling.loading import ModelSource
from e5ft.retrieval.filters import fates
from e5ft.retrieval.selection import Limits, Selection


def opening(source: ModelSource | None, selection: Selection, data: MiningData) -> str:
    """First lines: what is about to be mined from what."""
    problem = data.problem
    by = "without a model" if source is None else f"with {source.label}"
    lines = [
        f"e5ft: hard negatives for {data.label}, {by}",
        f"  rows        {len(problem.query_of):,} ({len(problem.queries):,} distinct queries)",
        f"  candidates  {problem.candidates:,} passages; looked at: ranks {selection.window[0]} to {selection.window[1]} "
        f"of {', '.join(selection.sources)}",
    ]
    if data.held_out_label is not None:
        lines.append(
            f"  held out    {data.counts.held_out:,} passages of {data.held_out_label}: {problem.excluded:,} of them taken out of "
            f"the candidates; {problem.overlap:,} are documents of these rows"
        )
    if data.dropped:
        lines.append(f"  note        the rows' own {data.dropped:,} hard negatives are not kept: the mined ones take their place")
    if problem.candidates < selection.window[1]:
        lines.append(f"  note        the corpus is smaller than the window: no query can see more than {problem.candidates:,}")
    return "\n".join(lines)


def closing(summary: dict, selection: Selection, limits: Limits, output: Path) -> str:
    """Last lines: how many rows got negatives, what became of every candidate, what to do next."""
    # A filter that was on and removed nothing is shown with its 0.
    active = {"known_positive", "chosen", *(field for field, value in vars(limits).items() if value is not None)}
    rows, none, fewer = summary["rows"], summary["rows_with_none"], summary["rows_with_fewer"]
    seen = summary["candidates"]["seen"]
    lines = [
        "",
        f"{rows:,} rows: {rows - fewer:,} have {selection.per_query} hard negatives, {fewer - none:,} have fewer, {none:,} have none",
        f"{seen:,} candidates looked at:",
    ]
    for fate, reason in list(fates().items())[1:]:
        count = summary["candidates"][fate]
        if count or fate in active:
            lines.append(f"  {count:>10,}  {count / max(seen, 1):>6.1%}  {reason}")
    if summary["scores"] is not None:
        medians = {kind: "none" if value is None else f"{value:.3f}" for kind, value in summary["scores"]["medians"].items()}
        lines.append(f"median score: answers {medians['positives']}, hard negatives {medians['negatives']}")
    if summary.get("approximate"):
        lines.append("the search was approximate: some near passages were not seen")
    if none == rows:
        lines.append("No row got a hard negative: widen the window, or loosen what removed most.")
    if "seconds" in summary:
        lines.append(
            f"{relative(output)}, mining.json with examples to read and mining.png beside it ({duration(summary['seconds'])})"
        )
    lines.append(f"next        python train.py data.train_file={relative(output)}")
    return "\n".join(lines)


def draw(summary: dict, path: Path) -> None:
    """Write the scores of answers and of hard negatives as histograms over the same bins; nothing where none are."""
    kinds = [(name, summary[name]) for name in ("scores", "teacher_scores") if summary[name] is not None]
    if not kinds:
        return
    # Without pyplot: no window system is looked for, and no figure stays behind in its global list.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(kinds), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"scores": "score by the model that mined", "teacher_scores": "score by the cross-encoder"}
    if summary["model"] is None:
        titles["scores"] = "score by BM25"
    for place, (name, histograms) in enumerate(kinds, start=1):
        axes = figure.add_subplot(1, len(kinds), place)
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
