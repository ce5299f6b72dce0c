"""Aligned text tables, also with Korean names: a Hangul syllable is two columns wide on a terminal."""

import unicodedata
from collections.abc import Sequence
from typing import Protocol

from e5ft.errors import DataError


class Scored(Protocol):
    """What a row of `format_table` offers (`evaluation.Evaluation` does)."""

    set_name: str
    label: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def format_table(evaluations: Sequence[Scored], metrics: Sequence[str] | None = None) -> str:
    """A text table: a row an evaluation, a column a metric, as `.812 [.779, .843]`.

    Args:
        evaluations: the rows, in order; at least one.
        metrics: the columns, name@K; those of the first row unless given. A row that lacks one shows a dash.

    Returns:
        Aligned lines; the set is a column of its own if there is more than one.

    Raises:
        DataError: there is no row.
    """
    if not evaluations:
        raise DataError("there is no evaluation to show")
    metrics = list(evaluations[0].metrics) if metrics is None else list(metrics)
    sets = len({evaluation.set_name for evaluation in evaluations}) > 1
    cells = [[*(["set"] if sets else []), "model", *metrics]]
    for evaluation in evaluations:
        names = [*([evaluation.set_name] if sets else []), evaluation.label]
        cells.append(names + [_cell(evaluation, metric) for metric in metrics])
    return aligned(cells, text_columns=2 if sets else 1)


def _cell(evaluation: Scored, metric: str) -> str:
    if metric not in evaluation.metrics:
        return "-"
    low, high = map(short_number, evaluation.intervals[metric])
    return f"{short_number(evaluation.metrics[metric])} [{low}, {high}]"


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
