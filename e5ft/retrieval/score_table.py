"""One table of many models on many sets: aligned text, Markdown, CSV and LaTeX, with intervals and paired differences."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

from e5ft.files import write_text
from e5ft.formatting import harmless, markdown_table
from e5ft.retrieval.comparison import Difference
from e5ft.retrieval.evaluation import Evaluation
from e5ft.retrieval.tables import aligned, difference_text, interval_text

_ESCAPES = {
    **{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A system on a set.

    Attributes:
        evaluation: of it.
        difference: of its main metric to the first system's on the same queries, paired; None of the first itself.
    """

    evaluation: Evaluation
    difference: Difference | None = None


class ScoreTable:
    """The rows of all sets, and what they look like.

    Args:
        rows: set by set, the system that others are compared to first.
        metrics: name@K, the columns.
        main: the one of them whose differences are shown.
    """

    def __init__(self, rows: Sequence[Row], metrics: Sequence[str], main: str):
        self.rows, self.metrics, self.main = rows, list(metrics), main
        evaluations = [row.evaluation for row in rows]
        self._sets = len({each.set_name for each in evaluations}) > 1
        self._sizes = len({each.bytes_per_passage for each in evaluations} - {None}) > 1
        self._differ = any(row.difference for row in rows)
        self.text_columns = 1 + self._sets

    def cells(self) -> list[list[str]]:
        """The head, and a row a system: set (of several), model, bytes a passage (where they differ), metrics, difference and p."""
        head = ["set"] * self._sets + ["model"] + ["bytes"] * self._sizes + self.metrics
        cells = [head + [f"{self.main} to the first", "p"] * self._differ]
        for row in self.rows:
            each, found = row.evaluation, row.difference
            size = "-" if each.bytes_per_passage is None else f"{each.bytes_per_passage:,}"
            figures = [interval_text(each.metrics[name], each.intervals[name]) for name in self.metrics]
            change = ["", ""] if found is None else [difference_text(found.mean, found.low, found.high), f"{found.p_value:.2g}"]
            cells.append([each.set_name] * self._sets + [each.label] + [size] * self._sizes + figures + change * self._differ)
        return cells

    def text(self) -> str:
        """For a terminal."""
        return aligned(self.cells(), text_columns=self.text_columns)

    def latex(self) -> str:
        """A tabular with booktabs' rules; a document with Korean names needs XeLaTeX or LuaLaTeX."""
        head, *rows = [" & ".join(map(_latex, line)) + r" \\" for line in self.cells()]
        columns = "l" * self.text_columns + "r" * (len(self.cells()[0]) - self.text_columns)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
        return "\n".join(["% \\usepackage{booktabs}; intervals at 95 %, differences paired over queries", *lines]) + "\n"

    def csv(self) -> str:
        """A row a system, every figure whole and in a column of its own; empty where there is none."""
        ends, change = ("", " low", " high"), ("mean", "low", "high", "p_value")
        head = ["set", "model", "queries", "passages", "bytes", *(f"{name}{end}" for name in self.metrics for end in ends)]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([*head, *(f"{self.main} to the first{end}" for end in (*ends, " p"))])
        for row in self.rows:
            each = row.evaluation
            figures = [figure for name in self.metrics for figure in (each.metrics[name], *each.intervals[name])]
            found = [None if row.difference is None else getattr(row.difference, name) for name in change]
            facts = [each.set_name, each.label, len(each.scored), each.passages, each.bytes_per_passage]
            writer.writerow([harmless(value) for value in (*facts, *figures, *found)])
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write table.md, table.csv and table.tex."""
        write_text(folder / "table.md", markdown_table(self.cells(), self.text_columns) + "\n")
        write_text(folder / "table.csv", self.csv())
        write_text(folder / "table.tex", self.latex())


def _latex(cell: str) -> str:
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "" for c in cell))
    escaped = "".join(_ESCAPES.get(character, character) for character in line)
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped  # behind \\ a bracket would be its argument
