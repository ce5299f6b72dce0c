"""One line of the result table: what was measured, against what, and whether the goal is met."""

import dataclasses
import statistics
from collections.abc import Sequence


class Void(RuntimeError):
    """Two contenders do not compute the same thing: their times cannot be compared."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A comparison or a single figure.

    Attributes:
        section: of the table.
        case: what was done, in words.
        unit: of the values ("s", "MB", "rows/s", "share").
        ours: measured values, one a repetition.
        against: the name of the other contender, "" where there is none.
        theirs: its values, repetition by repetition beside ours; empty where there is none.
        kind: "speedup" (theirs / ours, larger is better), "cost" (ours / theirs, smaller is better), "at_least" or "at_most"
            (no other contender: the value itself is held against the goal).
        goal: what the ratio or the value should reach; None where nothing was set.
        ours_cpu, theirs_cpu: CPU seconds of all threads, beside the wall seconds.
        note: what a reader must know.
    """

    section: str
    case: str
    unit: str
    ours: tuple[float, ...]
    against: str = ""
    theirs: tuple[float, ...] = ()
    kind: str = "speedup"
    goal: float | None = None
    ours_cpu: tuple[float, ...] = ()
    theirs_cpu: tuple[float, ...] = ()
    note: str = ""

    def __post_init__(self):
        if self.kind not in ("speedup", "cost", "at_least", "at_most"):
            raise ValueError(f"kind={self.kind!r}: must be speedup, cost, at_least or at_most")
        if not self.ours or bool(self.theirs) != (self.kind in ("speedup", "cost")):
            raise ValueError(f"{self.case}: kind={self.kind} with {len(self.ours)} and {len(self.theirs)} values")

    @property
    def ratio(self) -> float | None:
        """The median of single pairs' ratios, or the medians' where there are no pairs; None without another contender."""
        if not self.theirs:
            return None
        return statistics.median(self._pairs() or [self._quotient(statistics.median(self.ours), statistics.median(self.theirs))])

    @property
    def ratio_spread(self) -> tuple[float, float] | None:
        """Smallest and largest ratio of a repetition's pair; None where the repetitions are not paired."""
        pairs = self._pairs()
        return (min(pairs), max(pairs)) if pairs else None

    def _pairs(self) -> list[float]:
        paired = len(self.ours) == len(self.theirs)
        return [self._quotient(o, t) for o, t in zip(self.ours, self.theirs, strict=True)] if paired else []

    def _quotient(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.kind == "speedup" else ours / theirs

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        value = statistics.median(self.ours) if self.ratio is None else self.ratio
        return value >= self.goal if self.kind in ("speedup", "at_least") else value <= self.goal

    def summary(self) -> str:
        """One line of text."""
        ratio = (
            "" if self.ratio is None else f" against {self.against} {_figure(statistics.median(self.theirs))}: {self.ratio:.2f}x"
        )
        goal = "" if self.goal is None else f", goal {self.goal:g} {'met' if self.met else 'not met'}"
        return f"{self.section}: {self.case}: {_figure(statistics.median(self.ours))} {self.unit}{ratio}{goal}"

    def record(self) -> dict:
        """Everything for JSON, the derived figures included."""
        derived = {"ratio": self.ratio, "ratio_spread": self.ratio_spread, "met": self.met}
        return {**dataclasses.asdict(self), **derived}


def check_same(what: str, ours: float, theirs: float, tolerance: float) -> None:
    """Refuse a comparison whose contenders disagree.

    Raises:
        Void: they differ by more than the tolerance, or one is not a number.
    """
    if not abs(ours - theirs) <= tolerance:
        raise Void(f"void: {what}: {ours:.6g} against {theirs:.6g}, more than {tolerance:g} apart")


def check_close(what: str, difference: float, tolerance: float) -> None:
    """As `check_same`, for a difference already taken."""
    check_same(what, difference, 0.0, tolerance)


def markdown(lines: Sequence[Line], machine: dict, failures: Sequence[str] = ()) -> str:
    """The table, a section at a time, headed by the machine's data."""
    parts = ["# Benchmark", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    parts += [
        "Median (smallest..largest). CPU seconds are those of all threads. Ratio: median (smallest..largest) of single pairs.",
        "",
    ]
    for section in dict.fromkeys(line.section for line in lines):
        parts += [
            f"## {section}",
            "",
            "| case | ours | against | theirs | CPU s | ratio | goal | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        parts += [_row(line) for line in lines if line.section == section] + [""]
    parts += [f"- FAILED: {failure}" for failure in failures]
    return "\n".join(parts).rstrip() + "\n"


def _row(line: Line) -> str:
    theirs = _spread(line.theirs, line.unit) if line.theirs else ""
    cpu = " / ".join(f"{statistics.median(values):.2f}" for values in (line.ours_cpu, line.theirs_cpu) if values)
    ratio = ""
    if line.ratio is not None:
        ratio = f"{line.ratio:.2f}x"
        if line.ratio_spread and len(line.ours) > 1:
            ratio += " ({:.2f}..{:.2f})".format(*line.ratio_spread)
    goal, met = "", {True: "met", False: "**not met**", None: ""}[line.met]
    if line.goal is not None:
        sign = "≥" if line.kind in ("speedup", "at_least") else "≤"
        goal = f"{sign} {line.goal:g}" + ("x" if line.theirs else "")
    case = line.case + (f" ({line.note})" if line.note else "")
    return f"| {case} | {_spread(line.ours, line.unit)} | {line.against} | {theirs} | {cpu} | {ratio} | {goal} | {met} |"


def _spread(values: Sequence[float], unit: str) -> str:
    middle, low, high = (_figure(f(values)) for f in (statistics.median, min, max))
    return f"{middle} {unit}" + (f" ({low}..{high})" if len(values) > 1 else "")


def _figure(value: float) -> str:
    """Three significant digits, and whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
