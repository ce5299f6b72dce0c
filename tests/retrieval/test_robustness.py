"""Noise in queries: the sets, what is recorded and what is said of it."""

import dataclasses
import unicodedata

import numpy as np
import pytest

from e5ft.data.noise import noised
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.robustness import noise_record, noised_sets, robustness_table
from tests.retrieval.conftest import make_run, make_set

QUERIES = ("대출 기간은 며칠인가요", "iPhone 수리", "주차")


@pytest.fixture
def clean():
    made = make_set({f"q{i}": {"d1": 1} for i in range(3)})
    return dataclasses.replace(made, queries=StringColumn([unicodedata.normalize("NFD", QUERIES[0]), *QUERIES[1:]]))


def test_only_the_queries_are_others_and_those_that_changed_are_counted(clean):
    sets = noised_sets(clean, ["no_spaces", "lower_case", "typos"])
    assert [*sets] == ["no_spaces", "lower_case", "typos"]
    for kind, found in sets.items():
        assert [*found.retrieval_set.queries] == [noised(query, kind) for query in QUERIES]
        same = dataclasses.replace(found.retrieval_set, queries=clean.queries)
        assert all(getattr(same, field.name) is getattr(clean, field.name) for field in dataclasses.fields(clean))
    assert [found.changed for found in sets.values()] == [2, 1, 3]
    assert sets["lower_case"].example == ("iPhone 수리", "iphone 수리")
    assert noised_sets(clean, ()) == {}


def test_a_query_that_is_not_scored_is_not_counted(clean):
    unjudged = dataclasses.replace(clean, qrels={**clean.qrels, "q1": {"d1": 0}})
    found = noised_sets(unjudged, ["lower_case", "typos"])
    assert (found["lower_case"].changed, found["lower_case"].example, found["typos"].changed) == (0, None, 2)


def test_what_is_lost_is_paired_and_said(clean):
    sets = noised_sets(clean, ["lower_case", "nfd"])
    first = evaluate_run(clean, make_run(clean, {f"q{i}": {"d1": 1.0} for i in range(3)}), [1, 10], "model")
    worse = make_run(clean, {"q0": {"d1": 1.0}, "q1": {"d2": 1.0, "d1": 0.5}, "q2": {"d1": 1.0}})
    lower = evaluate_run(sets["lower_case"].retrieval_set, worse, [1, 10], "model, lower_case")
    record = noise_record(sets["lower_case"], first, lower, ["hit@1", "ndcg@10"])
    assert (record["noise"], record["changed"], record["example"]) == ("lower_case", 1, ("iPhone 수리", "iphone 수리"))
    assert record["differences"]["hit@1"]["mean"] == pytest.approx(-1 / 3)
    assert record["differences"]["ndcg@10"]["mean"] == pytest.approx((1 / np.log2(3) - 1) / 3)
    none = noise_record(sets["nfd"], first, first, ["hit@1", "ndcg@10"])
    lines = robustness_table([("model", record), ("model", none)]).splitlines()
    assert lines[0].split() == ["queries", "model", "changed", "ndcg@10", "against", "clean", "ones", "p"]
    assert lines[2].split()[:4] == ["lower_case", "model", "1", "-0.123"]
    assert lines[3].split() == ["nfd", "model", "3", "+0.000", "[+0.000,", "+0.000]", "1"]
    assert lines[4:] == ["lower_case: 'iPhone 수리' became 'iphone 수리'"]
