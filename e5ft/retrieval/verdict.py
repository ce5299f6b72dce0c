"""Whether training made a model better and what that cost elsewhere, and the rule by which a merger with the base is taken."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from e5ft.errors import VerdictError
from e5ft.retrieval.significance import LEVEL, SAMPLES, difference_intervals
from e5ft.retrieval.tables import aligned, cutoffs_of, difference_text, main_metric, short_number

FEWEST = 30  # scored queries of the test set below which nothing is decided
ALPHAS = (0.75, 0.5, 0.25)  # the fine-tuned model's share in the mergers that a run tries
BETTER, SAME, WORSE, UNDECIDED = "BETTER", "NO DIFFERENCE", "WORSE", "UNDECIDED"
COSTS = "COSTS ELSEWHERE"
# Why nothing is decided: the test queries chose the weights, are fewer than FEWEST, or, of a gain, were trained on.
CHOSE, TOO_FEW, LEARNT = "chose", "too few", "learnt"
RULE = (
    "of the alphas that no keep set refutes (its paired difference to alpha 0, the base, is a loss: the interval is wholly "
    "below 0, at 95 % by Holm over the keep sets), the one with the largest score on the target; of equal ones the smallest. "
    "Alpha 0 always qualifies"
)


@dataclasses.dataclass(frozen=True)
class KeepResult:
    """What became of a keep set, on one metric.

    Attributes:
        queries: scored ones.
        mean: mean over them of the value after, less the value before.
        low, high: ends of the mean's interval at `level`.
        level: the coverage that Holm's step asks for: .95 of one keep set, more of several.
        p: two-sided p of the sign-flip test, not corrected.
        lost: whether the interval is wholly below 0.
    """

    queries: int
    mean: float
    low: float
    high: float
    level: float
    p: float
    lost: bool


def keep_results(values: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, KeepResult]:
    """Find the keep sets on which one system is worse than another, all of them together at 95 %.

    Holm's procedure in terms of intervals: with m sets undecided, a set is lost if its interval at 1 - .05 / m is wholly below
    0; then the others are looked at again without it. If no set changed, the chance that any is called lost is 5 % at
    most. With one set it is the 95 % interval of every table.

    Args:
        values: set -> (Q, 1), float64: a query's value after, less the one before (`comparison.paired_values`).
        seed: of bootstrap and test.

    Returns:
        Set -> result, in the order given.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    results, found = {}, True
    while found:
        undecided = [name for name in values if name not in results or not results[name].lost]
        found = False
        for name in undecided:
            level = 1 - (1 - LEVEL) / len(undecided)
            # A higher level is farther out in the tails: as many resamples fall beyond it.
            samples = SAMPLES * len(undecided)
            ends, p_values = difference_intervals(values[name], level=level, samples=samples, seed=seed)
            low, high = ends[0].tolist()
            results[name] = KeepResult(
                len(values[name]), float(values[name].mean()), low, high, level, float(p_values[0]), high < 0
            )
            found |= high < 0
    return {name: results[name] for name in values}


def overall_verdict(
    difference: Mapping[str, float],
    queries: int,
    keep: Mapping[str, KeepResult],
    *,
    base_kept: bool = False,
    chosen_on_test: bool = False,
    leaks: bool = False,
    other_leaks: bool = False,
) -> dict:
    """The verdict on a training, as the summary holds it.

    Better and worse: the paired 95 % interval on the target's test is wholly above or below 0. A cost: `keep_results`.

    Args:
        difference: of the headline's metric on the target's test, after less before: mean, low, high and p_value.
        queries: of that test, scored ones.
        keep: of each keep set, by queries that no choice has seen.
        base_kept: the model is the one before training, unchanged: then there is no difference.
        chosen_on_test: the test queries chose the weights: then nothing is decided.
        leaks: they were trained on (`Overlap.leaks`): then a gain shows nothing.
        other_leaks: by what is before, too: then a loss shows nothing.

    Returns:
        word, costs_elsewhere, base_kept, because (`CHOSE`, `TOO_FEW` or `LEARNT`) and reason, a sentence (both None but where it is undecided),
        queries, mean, low, high, p, and keep: set -> `KeepResult` as a mapping.
    """
    low, high = difference["low"], difference["high"]
    is_learnt = (leaks and low > 0) or (other_leaks and high < 0)
    because = CHOSE if chosen_on_test else TOO_FEW if queries < FEWEST else LEARNT if is_learnt else None
    because = None if base_kept else because
    reasons = {
        CHOSE: "no test set of its own: these queries chose the weights (python -m e5ft split makes one)",
        TOO_FEW: f"{queries} test queries, fewer than {FEWEST}",
        LEARNT: "these queries were trained on: leave them out of data.train_file",
    }
    word = SAME if base_kept else UNDECIDED if because else BETTER if low > 0 else WORSE if high < 0 else SAME
    return {
        "word": word,
        "costs_elsewhere": any(result.lost for result in keep.values()),
        "base_kept": base_kept,
        "because": because,
        "reason": reasons.get(because),
        "queries": queries,
        **{name: difference[name] for name in ("mean", "low", "high")},
        "p": difference["p_value"],
        "keep": {name: dataclasses.asdict(result) for name, result in keep.items()},
    }


def verdict_line(verdict: Mapping) -> str:
    """The verdict in one line: VERDICT: BETTER, COSTS ELSEWHERE (the figures).

    Args:
        verdict: as the summary holds it: of `overall_verdict`, with metric, set, and against (what the model is compared to).
    """
    words = verdict_words(verdict)
    change = difference_text(verdict["mean"], verdict["low"], verdict["high"])
    figures = [f"{verdict['metric']} {change} against {verdict['against']} on {verdict['set']}, p = {verdict['p']:.2g}"]
    figures += [f"lost on {name}: {result_text(result)}" for name, result in verdict["keep"].items() if result["lost"]]
    notes = [verdict["reason"]] if verdict["reason"] else ["the model is unchanged"] if verdict["base_kept"] else []
    return f"VERDICT: {words} ({'; '.join([*notes, *figures])})"


def metric_of(summary: Mapping) -> str:
    """The metric by which a record, as summary.json holds it, is judged."""
    return main_metric(cutoffs_of(summary["scores"]["after"]["metrics"]))


def verdict_of(summary: Mapping) -> Mapping:
    """The verdict of a record; of an older one, which had none, by today's rule as far as the record goes.

    Args:
        summary: as summary.json holds it. Where no verdict is in it, each keep set is judged by its own 95 % interval.
    """
    chosen = summary.get("chosen_on_test", False)
    if "verdict" in summary:
        undecided = summary["verdict"]["word"] == UNDECIDED
        because = (CHOSE if chosen else TOO_FEW) if undecided else None
        return {"because": because, "costs_elsewhere": False, "keep": {}, **summary["verdict"]}
    metric = metric_of(summary)
    keep = {entry["set"]: _alone(entry, metric) for entry in summary.get("keep", ())}
    kept = summary.get("best", {}).get("step", 1) == 0
    return overall_verdict(
        summary["differences"][metric], summary.get("queries", FEWEST), keep, base_kept=kept, chosen_on_test=chosen
    )


@dataclasses.dataclass(frozen=True)
class SetOutcome:
    """What a training did to one set, as every table says it.

    Attributes:
        set: the set's name.
        kind: target or keep.
        before, after: scores by the main metric.
        change: mean, low, high and level of the paired difference that decides; its interval is the verdict's.
        word: gained, lost, kept (no change was shown), or undecided.
    """

    set: str
    kind: str
    before: float
    after: float
    change: Mapping[str, float]
    word: str


def set_outcomes(summary: Mapping) -> tuple[str, list[SetOutcome]]:
    """The main metric, and what became of the target and each keep set, the target first: what the verdict says of them.

    Args:
        summary: as summary.json holds it.
    """
    found, outcomes = verdict_of(summary), []
    metric = metric_of(summary)
    for entry in (summary, *summary.get("keep", ())):
        if entry is summary:
            name, kind, change = summary["test_set"], "target", {**summary["differences"][metric], "level": LEVEL}
        else:
            name, kind = entry["set"], "keep"
            change = found["keep"][name] if name in found["keep"] else dataclasses.asdict(_alone(entry, metric))
        scores = (entry["scores"][when]["metrics"][metric] for when in ("before", "after"))
        outcomes.append(SetOutcome(name, kind, *scores, change, outcome_word(found if kind == "target" else change)))
    return metric, outcomes


def outcome_word(found: Mapping) -> str:
    """What a verdict says of its target, or a `KeepResult` as a mapping of its set: gained, lost, kept, or undecided."""
    if "word" in found:
        return {BETTER: "gained", WORSE: "lost", SAME: "kept", UNDECIDED: "undecided"}[found["word"]]
    return "lost" if found["lost"] else "gained" if found["low"] > 0 else "kept"


def outcome_rows(summary: Mapping) -> list[list[str]]:
    """`set_outcomes` as rows of a text table, the head first."""
    metric, outcomes = set_outcomes(summary)
    rows = [
        [each.set, each.kind, short_number(each.before), short_number(each.after), result_text(each.change), each.word]
        for each in outcomes
    ]
    start = "before" if summary.get("start_round") is None else f"round {summary['start_round']}"
    return [["set", "", f"{metric} {start}", "after", "difference", ""], *rows]


def gain_and_loss(summary: Mapping) -> str:
    """The target and the keep sets in one table: a line a set, the main metric before and after, and what the verdict says of it."""
    rows = outcome_rows(summary)
    legend = "\nkept: no change shown, the interval of the paired difference includes 0"
    return aligned(rows, text_columns=2) + legend * any(row[-1] == "kept" for row in rows)


def _alone(entry: Mapping, metric: str) -> KeepResult:
    """What became of a keep set by its own 95 % interval, as an older record has it."""
    found = entry["differences"][metric]
    ends = (found[end] for end in ("mean", "low", "high"))
    return KeepResult(entry.get("queries", 0), *ends, LEVEL, found["p_value"], found["high"] < 0)


def check_verdict(required: str | None, word: str, record: str) -> None:
    """Hold a verdict against the demanded one.

    Args:
        required: better, whatever it cost elsewhere; None: any will do.
        word: of the verdict.
        record: the file that holds it, for the message.

    Raises:
        VerdictError: it is another.
    """
    if required is not None and word != required.upper():
        raise VerdictError(f"require={required}: the verdict is {word}; the run is complete ({record})")


def verdict_words(verdict: Mapping) -> str:
    """The verdict without its figures, as BETTER, COSTS ELSEWHERE."""
    return f"{verdict['word']}, {COSTS}" if verdict["costs_elsewhere"] else verdict["word"]


def result_text(result: Mapping) -> str:
    """What became of a keep set, as -0.034 [-0.051, -0.017], and the interval's level where it is not 95 %."""
    level = "" if result["level"] <= LEVEL + 1e-9 else f" at {100 * result['level']:.4g} %"
    return difference_text(result["mean"], result["low"], result["high"]) + level


def choose_alpha(target: Mapping[float, float], refuted: Callable[[float], bool]) -> float:
    """Apply `RULE`, and ask no more than it needs: the best on the target first.

    Args:
        target: alpha -> score on the target; alpha 0 is among them.
        refuted: whether a keep set refutes an alpha; never asked of 0.

    Returns:
        The chosen alpha.
    """
    ordered = sorted(target, key=lambda alpha: (-target[alpha], alpha))
    return next(alpha for alpha in ordered if alpha == 0 or not refuted(alpha))
