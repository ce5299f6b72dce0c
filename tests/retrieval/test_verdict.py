"""The verdict and its line, Holm by hand and against paired t tests, and the rule for mergers."""

import re

import numpy as np
import pytest
from scipy import stats

from e5ft.errors import VerdictError
from e5ft.retrieval.verdict import (
    CHOSE,
    TOO_FEW,
    KeepResult,
    check_verdict,
    choose_alpha,
    gain_and_loss,
    keep_results,
    outcome_word,
    overall_verdict,
    set_outcomes,
    verdict_line,
    verdict_of,
)  # fmt: skip


def alternating(mean: float, half: float, count: int = 100) -> np.ndarray:
    """(count, 1) values around a mean whose 95 % interval reaches `half` to each side."""
    deviation = half / stats.t.ppf(0.975, count - 1) * (count - 1) ** 0.5  # of values of two kinds, one above, one below
    return np.array([[mean + deviation], [mean - deviation]] * (count // 2))


def lost(values: dict[str, np.ndarray]) -> set[str]:
    return {name for name, result in keep_results(values).items() if result.lost}


def test_one_keep_set_is_held_at_the_interval_of_every_table():
    assert lost({"a": alternating(-0.0101, 0.01)}) == {"a"}
    assert not lost({"a": alternating(-0.0099, 0.01)}) and not lost({"a": alternating(0.02, 0.01)})  # a gain is no cost
    result = keep_results({"a": alternating(-0.0101, 0.01)})["a"]
    assert (result.queries, result.level) == (100, 0.95)
    assert (result.mean, result.high) == pytest.approx((-0.0101, -0.0001))


def test_of_several_each_step_of_holm_by_hand():
    """With three sets the first is held at 98.33 % (half widths times 1.227), the next at 97.5 % (1.146), the last at 95 %."""
    strong, middle, weak = alternating(-0.0135, 0.01), alternating(-0.0119, 0.01), alternating(-0.0105, 0.01)
    results = keep_results({"weak": weak, "strong": strong, "middle": middle})
    assert list(results) == ["weak", "strong", "middle"] and all(result.lost for result in results.values())
    assert [result.level for result in results.values()] == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
    # Without the strong one nothing begins: each alone would have been called lost.
    same = alternating(0.0, 0.01)
    assert lost({"middle": middle, "weak": weak, "same": same}) == set() and lost({"weak": weak}) == {"weak"}
    assert keep_results({"middle": middle, "weak": weak, "same": same})["weak"].level == pytest.approx(1 - 0.05 / 3)
    assert keep_results({}) == {}


def test_below_200_queries_it_is_holm_on_paired_t_tests():
    """Against p values sorted and stepped down as Holm's paper does it, on sets that lose a little."""
    generator, found = np.random.default_rng(5), set()
    for _ in range(60):
        values = {str(i): generator.normal(-0.02, 0.1, (generator.integers(30, 199), 1)) for i in range(4)}
        p_values = {name: stats.ttest_1samp(v[:, 0], 0).pvalue for name, v in values.items()}
        ordered = sorted(p_values, key=p_values.get)
        levels = [0.05 / (4 - step) for step in range(4)]
        holds = [p_values[name] < level for name, level in zip(ordered, levels, strict=True)]
        if any(abs(p - level) < 0.006 for p in p_values.values() for level in levels):
            continue  # the sign-flip test, which must agree, is as sure as its patterns are many
        expected = {name for name in ordered[: [*holds, False].index(False)] if values[name].mean() < 0}
        assert lost(values) == expected
        found.add(len(expected))
    assert len(found) > 2


def test_several_sets_that_did_not_change_cost_nothing_in_19_of_20_cases():
    """Ten sets by chance: at 95 % each, two runs of five would be told of a cost; together one of forty, since gains are none."""
    generator = np.random.default_rng(1)
    runs = [{str(i): generator.normal(0, 0.1, (50, 1)) for i in range(10)} for _ in range(60)]
    assert sum(bool(lost(run)) for run in runs) <= 5
    alone = sum(any(lost({name: values}) for name, values in run.items()) for run in runs)
    assert alone > 8


DIFFERENCE = {"mean": 0.05, "low": 0.04, "high": 0.06, "p_value": 0.0001}
KEPT = {"wiki": KeepResult(40, -0.01, -0.03, 0.01, 0.95, 0.3, False)}
LOST = {**KEPT, "law": KeepResult(50, -0.1, -0.15, -0.05, 0.975, 0.001, True)}


def told(difference=DIFFERENCE, queries=30, keep=KEPT, **given) -> str:
    record = overall_verdict(difference, queries, keep, **given)
    return verdict_line({**record, "metric": "ndcg@10", "set": "ko-test", "against": "before"})


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.001, 0.1, "BETTER"), (0.0, 0.1, "NO DIFFERENCE"), (-0.1, 0.0, "NO DIFFERENCE"), (-0.1, -0.001, "WORSE")],
)
def test_the_word_is_the_interval_s(low, high, word):
    difference = {"mean": (low + high) / 2, "low": low, "high": high, "p_value": 0.5}
    assert told(difference).startswith(f"VERDICT: {word} (") and told(difference, keep={}).startswith(f"VERDICT: {word} (")
    assert told(difference, keep=LOST).startswith(f"VERDICT: {word}, COSTS ELSEWHERE (")


def test_the_line_has_the_figures():
    assert told(keep=LOST) == (
        "VERDICT: BETTER, COSTS ELSEWHERE (ndcg@10 +0.050 [+0.040, +0.060] against before on ko-test, p = 0.0001; "
        "lost on law: -0.100 [-0.150, -0.050] at 97.5 %)"
    )
    assert "\n" not in told(keep=LOST) and "law" not in told()


def test_when_nothing_is_decided():
    assert told(queries=29).startswith("VERDICT: UNDECIDED (29 test queries, fewer than 30; ndcg@10 +0.050")
    assert re.match(
        r"VERDICT: UNDECIDED \(no test set of its own: .* \(python -m e5ft split .*\); ndcg@10", told(chosen_on_test=True)
    )
    assert told(queries=29, keep=LOST).startswith("VERDICT: UNDECIDED, COSTS ELSEWHERE (")  # those queries are others


def test_a_gain_on_queries_that_were_trained_on_decides_nothing_and_a_loss_does():
    line = "VERDICT: UNDECIDED (these queries were trained on: leave them out of data.train_file; ndcg@10 +0.050"
    assert told(leaks=True).startswith(line)
    for low, high, word in ((-0.1, -0.01, "WORSE"), (-0.1, 0.1, "NO DIFFERENCE")):
        assert told({"mean": 0, "low": low, "high": high, "p_value": 0.1}, leaks=True).startswith(f"VERDICT: {word} (")
    assert told(leaks=True, base_kept=True).startswith("VERDICT: NO DIFFERENCE (")


def test_the_base_itself_is_no_difference_whatever_was_measured():
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    for given in ({"queries": 3}, {"chosen_on_test": True}):
        assert told(zero, base_kept=True, **given).startswith("VERDICT: NO DIFFERENCE (the model is unchanged; ndcg@10 +0.000")
    record = overall_verdict(zero, 30, {}, base_kept=True)
    assert record["base_kept"] and record["reason"] is None and not record["costs_elsewhere"]


@pytest.mark.parametrize("word", ["NO DIFFERENCE", "WORSE", "UNDECIDED"])
def test_better_can_be_demanded(word):
    check_verdict(None, word, "outputs/x")
    check_verdict("better", "BETTER", "outputs/x")
    with pytest.raises(VerdictError, match=f"require=better: the verdict is {word}; the run is complete .outputs/x"):
        check_verdict("better", word, "outputs/x")


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.03, "gained"),
        (-0.03, -0.01, "lost"),
        (-0.01, 0.03, "kept"),
        (0.0, 0.03, "kept"),
        (-0.03, 0.0, "kept"),
        (0, 0, "kept"),
    ],
)
def test_a_change_counts_when_its_interval_excludes_zero(low, high, word):
    difference = {"mean": (low + high) / 2, "low": low, "high": high, "p_value": 0.5}
    assert outcome_word(overall_verdict(difference, 30, {})) == outcome_word({**difference, "lost": high < 0}) == word
    assert outcome_word(overall_verdict(difference, 29, {})) == "undecided"


def entry(name: str, before: float, after: float, low: float, high: float) -> dict:
    scores = {"before": {"metrics": {"ndcg@10": before, "mrr@10": 0}}, "after": {"metrics": {"ndcg@10": after, "mrr@10": 0}}}
    difference = {"mean": after - before, "low": low, "high": high, "p_value": 0.01}
    return {"set": name, "queries": 40, "scores": scores, "differences": {"ndcg@10": difference}}


def recorded(keep: dict[str, KeepResult] | None) -> dict:
    target = {**entry("", 0.5, 0.6, 0.05, 0.15), "test_set": "ko-prec-test"}
    sets = [entry("wiki-test", 0.7, 0.65, -0.07, -0.03), entry("law-test", 0.4, 0.39, -0.019, -0.001)]
    record = {**target, "keep": sets}
    return record if keep is None else record | {"verdict": overall_verdict(target["differences"]["ndcg@10"], 40, keep)}


def test_a_set_is_lost_where_the_verdict_says_so_and_not_by_its_own_interval():
    """At 95 % law-test lost by a hair; together with wiki-test, at 97.5 %, it did not: then no table says that it did."""
    keep = {
        "wiki-test": KeepResult(40, -0.05, -0.075, -0.025, 0.975, 0.001, True),
        "law-test": KeepResult(40, -0.01, -0.021, 0.001, 0.975, 0.04, False),
    }
    rows = [line.split() for line in gain_and_loss(recorded(keep)).splitlines()[2:5]]
    assert rows == [
        ["ko-prec-test", "target", ".500", ".600", "+0.100", "[+0.050,", "+0.150]", "gained"],
        ["wiki-test", "keep", ".700", ".650", "-0.050", "[-0.075,", "-0.025]", "at", "97.5", "%", "lost"],
        ["law-test", "keep", ".400", ".390", "-0.010", "[-0.021,", "+0.001]", "at", "97.5", "%", "kept"],
    ]


def test_an_older_record_without_a_verdict_is_judged_set_by_set():
    assert [each.word for each in set_outcomes(recorded(None))[1]] == ["gained", "lost", "lost"]
    assert verdict_of(recorded(None))["costs_elsewhere"] and not recorded(None).get("verdict")


def test_why_it_is_undecided_is_a_value_also_in_records_that_had_but_a_sentence():
    for given, because in (({"chosen_on_test": True}, CHOSE), ({}, TOO_FEW)):
        record = overall_verdict(DIFFERENCE, 29, {}, **given)
        older = {name: value for name, value in record.items() if name != "because"}
        assert record["because"] == verdict_of({"verdict": older, **given})["because"] == because
    assert overall_verdict(DIFFERENCE, 30, {})["because"] is None


TARGET = {0.0: 0.50, 0.25: 0.55, 0.5: 0.60, 0.75: 0.62, 1.0: 0.61}


@pytest.mark.parametrize(
    ("target", "refuted", "chosen", "asked"),
    [
        # The best on the target holds: nothing else is asked.
        (TARGET, set(), 0.75, [0.75]),
        (TARGET, {1.0, 0.75}, 0.5, [0.75, 1.0, 0.5]),
        # None but the base, of which nobody is asked.
        (TARGET, {0.25, 0.5, 0.75, 1.0}, 0.0, [0.75, 1.0, 0.5, 0.25]),
        # Of equal scores the smaller alpha, in whatever order they stand.
        ({1.0: 0.6, 0.5: 0.6, 0.0: 0.5}, set(), 0.5, [0.5]),
        ({1.0: 0.5, 0.5: 0.5, 0.0: 0.5}, set(), 0.0, []),
        # What holds and is below the base on the target is not taken.
        ({0.0: 0.5, 0.5: 0.4, 1.0: 0.6}, {1.0}, 0.0, [1.0]),
    ],
)
def test_the_rule_for_mergers_worked_by_hand(target, refuted, chosen, asked):
    seen = []
    assert choose_alpha(target, lambda alpha: seen.append(alpha) or alpha in refuted) == chosen and seen == asked
