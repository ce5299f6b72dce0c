"""The page of one training, made from its record alone: report.html in the run's folder."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from e5ft.formatting import duration, shareable
from e5ft.reporting.curves import training
from e5ft.reporting.html import Block, Code, Details, Facts, Paragraph, Section, render
from e5ft.reporting.outcome import first_sentence, following, outcome
from e5ft.reporting.queries import changed, per_cent, worse, worst
from e5ft.reporting.record import FINAL, Run, read_run
from e5ft.reporting.scores import scores_and_threshold
from e5ft.reporting.words import page_language, words_of

PAGE = "report.html"
_CONFIG = 60_000  # characters of config.yaml that the page holds


def run_page(folder: Path | str, language: str = "auto") -> str:
    """The page of a finished training as one HTML text.

    Args:
        folder: the run's: outputs/NAME, multirun/NAME/NUMBER or a round's.
        language: ko or en; auto: Korean where training rows or test queries are.

    Raises:
        DataError: the folder holds no finished training, or its record is damaged.
    """
    run = read_run(folder)
    if language == "auto":
        language = "ko" if run.summary.get("data", {}).get("language") else page_language(language, _sample(run))
    words = words_of(language, run.summary.get("start_round"))
    sentence, tone = first_sentence(run, words)
    parts = (outcome, following, worse, changed, worst, scores_and_threshold, training, again)
    return render(words["title"].format(name=run.name), language, sentence, [part(run, words) for part in parts], tone=tone)


def again(run: Run, words: Mapping[str, str]) -> Section:
    """What was trained on what, digests and versions, and the command that does it again."""
    summary, made = run.summary, run.summary.get("made", {})
    steps, data = summary.get("training", {}), summary.get("data", {})
    facts = {
        "model": summary.get("model"),
        "data": data.get("source"),
        "rows": f"{data['train_rows']:,}" if "train_rows" in data else None,
        "truncated": per_cent(summary["truncated_share"]) if "truncated_share" in summary else None,
        "steps": _steps(steps, words),
        "time": _time(steps["seconds_in_all"], words) if "seconds_in_all" in steps else None,
        "best": _weights(summary.get("best"), words),
        "digests": _pairs(made.get("digests")),
        "versions": _pairs(made.get("versions")),
    }
    pairs = [(words[name], words["unknown"] if value is None else shareable(value)) for name, value in facts.items()]
    blocks: list[Block] = [Facts(pairs)]
    if "command" in made:
        blocks += [Paragraph(words["again_command"]), Code(shareable(made["command"]))]
    else:
        blocks.append(Paragraph(words["no_command"], "note"))
    if run.config:
        blocks.append(Details(words["settings"], [Code(shareable(run.config[:_CONFIG]))]))
    return Section(words["again"], blocks)


def _sample(run: Run) -> list[str]:
    queries = run.queries(run.summary["test_set"], FINAL).values()
    return [query.text for query in islice(queries, 50) if query.text]


def _steps(steps: Mapping, words: Mapping[str, str]) -> str | None:
    if "steps" not in steps:
        return None
    return words["steps_value"].format(
        steps=f"{steps['steps']:,}", queries=f"{steps['queries_per_step']:,}", epochs=steps.get("epochs", "?")
    )


def _time(seconds: float, words: Mapping[str, str]) -> str:
    text = duration(seconds)
    for unit, name in ((" min", "minutes"), (" h", "hours"), (" s", "seconds")):
        text = text.replace(unit, words[name])
    return text


def _weights(best: Mapping | None, words: Mapping[str, str]) -> str | None:
    if best is None:
        return None
    alpha = best.get("alpha", 1)
    name = "best_base" if not best["step"] or not alpha else "best_step" if alpha == 1 else "best_merged"
    return words[name].format(step=f"{best['step']:,}", alpha=f"{alpha:g}")


def _pairs(values: Mapping | None) -> str | None:
    return None if not values else "\n".join(f"{name}: {value}" for name, value in values.items())
