"""The list of runs: one line a run, as a table for a terminal and as JSON for programs."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from e5ft.formatting import duration, portable
from e5ft.reporting.facts import ENDS, FINISHED, SYSTEMS, RunFacts
from e5ft.retrieval.tables import aligned, difference_text, display_width, short_number

WIDEST = 28  # columns of a name in the table; JSON has the whole


def line_of(facts: RunFacts) -> dict[str, Any]:
    """A run as plain values: what is not known is null."""
    line = {
        "run": relative(facts.folder),
        "state": facts.state,
        "date": datetime.fromtimestamp(facts.date).astimezone().isoformat(timespec="seconds"),
        "seconds": facts.seconds,
        "step": facts.step,
        "data": facts.data or None,
        "base": facts.model or None,
        "error": facts.error,
        **dict.fromkeys(("weights", "set", "queries", "metric", *SYSTEMS, "gain", "verdict")),
    }
    if facts.state != FINISHED:
        return line
    difference = facts.difference
    return line | {
        "weights": facts.weights,
        "set": facts.summary["test_set"],
        "queries": facts.summary.get("queries"),
        "metric": facts.metric,
        **{name: facts.score(name) for name in SYSTEMS},
        "gain": None if difference is None else {end: difference[end] for end in ENDS},
        "verdict": facts.verdict or None,
    }


def json_lines(lines: Sequence[dict[str, Any]]) -> str:
    """A JSON object a line."""
    return "\n".join(json.dumps(line, ensure_ascii=False, allow_nan=False) for line in lines)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as a table for a terminal; names that are too long lose their middle."""
    head = ["run", "ended", "base", "data", "weights", "test", "after", "gain", "verdict"]
    return aligned([head, *(_cells(line) for line in lines)], text_columns=len(head))


def relative(path: Path) -> str:
    """A path as a person in the current folder would type it."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def shortened(text: str, width: int = WIDEST) -> str:
    """A text without its middle where it takes more columns than `width`."""
    if display_width(text) <= width:
        return text
    head, tail = first(text, (width + 1) // 2), text
    while display_width(tail) > width - display_width(head):
        tail = tail[1:]
    return head + tail


def first(text: str, width: int) -> str:
    """The beginning of a text, with three dots where it takes more columns than `width`."""
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _cells(line: dict[str, Any]) -> list[str]:
    gain, after = line["gain"], line["after"]
    when = line["date"][:16].replace("T", " ")
    named = [shortened(" ".join(portable(line[name] or "–").split())) for name in ("base", "data")]
    scored = "–" if after is None else f"{line['metric']} {short_number(after)}"
    figures = [
        line["weights"] or "–",
        shortened(line["set"] or "–", 16),
        scored,
        "–" if gain is None else difference_text(**gain),
    ]
    return [line["run"], when, *named, *figures, line["verdict"] or _ending(line)]


def _ending(line: dict[str, Any]) -> str:
    """How a run without a verdict stands, and why."""
    if line["state"] == FINISHED:
        return "finished"  # an older run, which has no verdict
    at = f" at step {line['step']:,}" if line["step"] else ""
    after = f" after {duration(line['seconds'])}" if line["seconds"] and line["state"] in ("failed", "stopped") else ""
    return first(": ".join(filter(None, [f"{line['state']}{at}{after}", line["error"]])), 2 * WIDEST)
