"""Text tables of scores: which metrics they show, how a figure and a difference are written, and aligned columns.

Columns are aligned with Korean names, too: a Hangul syllable is two columns wide on a terminal.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from e5ft.errors import DataError
from e5ft.retrieval.significance import smallest_seen

HEADLINE = ("hit@1", "recall@10", "ndcg@10", "mrr@10")
FEW = 300  # queries below which it is said which differences they cannot show
SMALL = 1000  # passages below which it is said that scores are high for want of others


def format_table(evaluations: Sequence, metrics: Sequence[str] | None = None) -> str:
    """A text table: a row an evaluation, a column a metric, as `.812 [.779, .843]`.

    Args:
        evaluations: the rows, each an `Evaluation`; at least one.
        metrics: the columns, name@K; those of the first row unless given. A row that lacks one shows a dash.

    Returns:
        Aligned lines; the set is a column of its own if there is more than one, and so are bytes a passage.

    Raises:
        DataError: there is no row.
    """
    if not evaluations:
        raise DataError("there is no evaluation to show")
    metrics = list(evaluations[0].metrics) if metrics is None else list(metrics)
    sets = len({evaluation.set_name for evaluation in evaluations}) > 1
    sizes = len({evaluation.bytes_per_passage for evaluation in evaluations} - {None}) > 1
    cells = [[*(["set"] if sets else []), "model", *(["bytes"] if sizes else []), *metrics]]
    for row in evaluations:
        figures = [
            interval_text(row.metrics[metric], row.intervals[metric]) if metric in row.metrics else "-" for metric in metrics
        ]
        size = ["-" if row.bytes_per_passage is None else f"{row.bytes_per_passage:,}"] if sizes else []
        cells.append([*([row.set_name] if sets else []), row.label, *size, *figures])
    return aligned(cells, text_columns=2 if sets else 1)


def headline(cutoffs: Sequence[int]) -> list[str]:
    """The metrics that a short table shows: the usual four, or those at the last cutoff where it lacks too many of these."""
    metrics = [name for name in HEADLINE if cutoffs_of([name])[0] in cutoffs]
    return metrics if len(metrics) > 1 else [f"{name}@{cutoffs[-1]}" for name in ("hit", "recall", "ndcg", "mrr")]


def main_metric(cutoffs: Sequence[int]) -> str:
    """The one of a short table's metrics that a single sentence reports, and by which is chosen."""
    return next(name for name in headline(cutoffs) if name.startswith("ndcg"))


def cutoffs_of(metrics: Iterable[str]) -> list[int]:
    """The ranks K of metrics named name@K, ascending, each once."""
    return sorted({int(name.rpartition("@")[2]) for name in metrics})


def interval_text(value: float, interval: tuple[float, float]) -> str:
    """A figure and its interval, as `.812 [.779, .843]`."""
    low, high = map(short_number, interval)
    return f"{short_number(value)} [{low}, {high}]"


def in_words(queries: int, systems: Mapping[str, Mapping[str, float]]) -> str:
    """How many questions have a right answer first, and among the first 10, as counts that a person can picture.

    Args:
        queries: scored ones.
        systems: name -> its metrics, `hit@K` among them; the first is the one the sentence is about.

    Returns:
        A line for each of the ranks 1 and 10 (of those that were measured; else the last), ending in a full stop.
    """
    (main, metrics), *_ = systems.items()
    measured, lines = cutoffs_of(metrics), []
    for cutoff in [rank for rank in (1, 10) if rank in measured] or measured[-1:]:
        # A mean of zeros and ones: times the queries it is their count again.
        counts = {name: round(queries * values[f"hit@{cutoff}"]) for name, values in systems.items()}
        others = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != main)
        place = "first" if cutoff == 1 else f"among the first {cutoff}"
        of = "" if lines else f" of {queries:,} questions"
        lines.append(f"{place} for {counts[main]:,}{of}{f' ({others})' if others else ''}")
    text = ",\nand ".join(lines)
    return f"In words: a right answer is {text}."


def difference_text(mean: float, low: float, high: float) -> str:
    """A difference and its interval, as `+0.146 [+0.111, +0.181]`."""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def few_queries(name: str, count: int, metric: str, difference: Mapping, other: str | None = None) -> list[str]:
    """A line where a set has few scored queries: below which difference two systems cannot be told apart.

    Args:
        name: of the set.
        count: of its scored queries.
        metric: which metric's.
        difference: of two systems on it, with `low` and `high`.
        other: the second one's name, where several are told of.
    """
    if count >= FEW:
        return []
    to = f" to {other}" if other else ""
    return [f"{name}, {count} queries: differences{to} below {least_seen(count, difference)} ({metric}) cannot be seen"]


def least_seen(count: int, difference: Mapping) -> str:
    """`significance.smallest_seen` of a difference with `low` and `high`, rounded up, as .08."""
    least = math.ceil(round(100 * smallest_seen(count, difference["low"], difference["high"]), 6)) / 100
    return f"{least:.2f}".removeprefix("0")


def few_passages(name: str, count: int) -> list[str]:
    """A line where a set's corpus is small: its scores are no forecast of those among many passages."""
    return [f"{name} has {count:,} passages only: among many more every score is lower"] if count < SMALL else []


def display_width(text: str) -> int:
    """Columns a string takes on a terminal: 2 for wide characters, 0 for combining ones, 1 for the rest."""
    return sum(_width(character) for character in unicodedata.normalize("NFC", text))


def aligned(cells: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Lay out rows of cells in columns of equal width.

    Args:
        cells: the rows, the header first; all of one length.
        text_columns: how many columns, from the left, are aligned left; the others are aligned right.

    Returns:
        The lines, a rule under the header, without trailing spaces or a last line end.
    """
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_pad(cell, widths[i], i < text_columns) for i, cell in enumerate(row)).rstrip() for row in cells]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def short_number(value: float) -> str:
    """Three decimals without the leading zero: .812, -.034, 1.000."""
    text = f"{value:.3f}"
    if float(text) == 0:
        return ".000"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - display_width(cell))
    return cell + space if left else space + cell


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
