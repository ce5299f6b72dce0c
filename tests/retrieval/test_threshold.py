"""The threshold on the score of the first passage: against a count of every candidate by hand, and what it does."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.threshold import TARGETS, calibrated, effect, first_found, is_of_few, lacks, lowest, threshold_line
from tests.retrieval.conftest import make_run, make_set

SCORES = st.one_of(st.integers(7000, 10000).map(lambda k: k / 10000), st.floats(-1, 1, width=32), st.just(-np.inf))
PAIRS = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=40)


def arrays(pairs):
    return np.array([score for score, _ in pairs], float), np.array([right for _, right in pairs], bool)


def by_hand(pairs, target) -> float | None:
    """Every threshold of four decimals at which the answers change, tried one by one."""
    qualified = []
    for value in {math.floor(score * 10_000) / 10_000 for score, _ in pairs if score > -math.inf}:
        answered = [right for score, right in pairs if score >= value]
        if answered and Fraction(sum(answered), len(answered) + 1) >= Fraction(str(target)):
            qualified.append(value)
    return min(qualified, default=None)


@given(PAIRS, st.sampled_from([0.5, *TARGETS]))
def test_the_lowest_threshold_is_that_of_trying_each(pairs, target):
    assert lowest(*arrays(pairs), target) == by_hand(pairs, target)


@given(PAIRS, st.floats(-1, 1))
def test_precision_and_recall_are_counted(pairs, threshold):
    found = effect(*arrays(pairs), threshold)
    answered = [right for score, right in pairs if score >= threshold]
    assert (found["queries"], found["answered"]) == (len(pairs), len(answered) / len(pairs))
    assert found["recall"] == sum(answered) / len(pairs)
    if answered:
        low, high = found["precision_interval"]
        assert found["precision"] == sum(answered) / len(answered)
        assert 0 <= low <= found["precision"] + 1e-12 and found["precision"] <= high + 1e-12 and high <= 1 and low < high
    else:
        assert found["precision"] is None and found["precision_interval"] is None


def test_the_highest_target_that_is_reached_decides_and_luck_does_not():
    """Eight right answers in a row are too few for .9, and nine are enough; where half are wrong there is no threshold."""
    scores = np.linspace(0.99, 0.8, 20)
    for right, target in ((8, 0.8), (9, 0.9), (2, None)):
        found = calibrated((scores, np.arange(20) < right), (scores, np.arange(20) < right))
        assert (found and found["target"]) == target
    nine = calibrated((scores, np.arange(20) < 9), (scores, np.arange(20) < 5))
    assert (
        nine["value"] == math.floor(scores[8] * 10_000) / 10_000 and nine["dev"]["answered"] == nine["test"]["answered"] == 9 / 20
    )
    assert nine["dev"]["precision"] == 1 and nine["test"]["precision"] == pytest.approx(5 / 9) and nine["test"]["recall"] == 0.25
    assert threshold_line(nine) == (
        "score 0.9100 (chosen on dev for 90 % right, from 9 of 20 queries only): 9 of 20 test queries reach it, .556 [.267, .811] of them right"
    )
    assert threshold_line(calibrated((scores, np.arange(20) < 9), (scores - 1, scores > 2))).endswith("no test query reaches it")


@pytest.mark.parametrize(
    ("right", "why", "said"),
    [
        ([False] * 30, "never", "none: at no score are 70 % of the first passages right (30 dev queries)"),
        ([True] * 2, "few", "none: 70 % of the first passages are right only at scores that too few of the 2 dev queries reach"),
        ([True, False, False] * 10, "few", "none: 70 % of the first passages are right only at scores that too few of the 30"),
        ([False, True, True, False] * 9, "never", "none: at no score"),
        ([True] + [False, True] * 50, "never", "none: at no score"),  # the first of many is right by chance
    ],
)
def test_why_there_is_no_threshold_is_either_the_scores_or_too_few_queries(right, why, said):
    scores, right = np.linspace(0.9, 0.8, len(right)), np.array(right)
    assert calibrated((scores, right), (scores, right)) is None
    assert lacks(scores, right) == {"why": why, "queries": len(right)}
    assert threshold_line(None, lacks(scores, right)).startswith(said)


def test_equal_scores_are_answered_together_and_what_found_nothing_never():
    """One right answer among two of the same score, and one query that found nothing: no score has 70 % right."""
    assert lacks(np.array([0.9, 0.9, -np.inf]), np.array([True, False, True]))["why"] == "never"


@pytest.mark.parametrize(("queries", "share", "few"), [(99, 1.0, True), (100, 1.0, False), (400, 1.0, False), (400, 0.05, True)])
def test_a_threshold_of_few_queries_or_a_wide_interval_is_called_one(queries, share, few):
    scores = np.linspace(0.9, 0.8, queries)
    right = (np.arange(queries) < share * queries) & (np.arange(queries) % 8 > 0)
    found = calibrated((scores, right), (scores, right))
    assert is_of_few(found) == few and ("queries only" in threshold_line(found)) == few


def test_what_was_found_first_and_whether_it_answers():
    retrieval_set = make_set({"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2}, "q3": {"d4": 1}, "q4": {"d4": 0}})
    run = make_run(retrieval_set, {"q1": {"d2": 0.9, "d1": 0.8}, "q2": {"d3": 0.5, "d4": 0.5}, "q4": {"d1": 1.0}})
    scored = evaluate_run(retrieval_set, run, [1], "model", samples=2).scored
    scores, right = first_found(retrieval_set, run, scored)
    assert scores[:2].tolist() == pytest.approx([0.9, 0.5]) and scores[2] == -np.inf  # of q1 d2, which does not answer it
    assert right.tolist() == [False, True, False]  # nothing was found for q3
