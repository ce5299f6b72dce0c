"""Soups: who is let in, by hand; what is measured, and how often; the record against single measurements."""

import json

import numpy as np
import pytest
import torch

from e5ft.errors import ConfigurationError
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.soups import greedy_soup, label, make_soup, soup_rows, soup_table
from tests.conftest import make_encoder
from tests.retrieval.conftest import make_run, make_set

QRELS = {f"q{i}": {"d1": 1} for i in range(10)}
SETS = (make_set(QRELS, name="law"), make_set(QRELS, name="wiki"))


@pytest.mark.parametrize(
    ("own", "soups", "kept", "asked"),
    [
        # Each helps: all are in, the best first.
        ({"a": 0.5, "b": 0.6, "c": 0.4}, {"ba": 0.61, "bac": 0.62}, "bac", ["ba", "bac"]),
        # The second lowers the score and is left out; the third is tried without it.
        ({"a": 0.6, "b": 0.5, "c": 0.4}, {"ab": 0.59, "ac": 0.61}, "ac", ["ab", "ac"]),
        # It is the soup so far that must not fall, not the best model alone.
        ({"a": 0.6, "b": 0.5, "c": 0.4}, {"ab": 0.7, "abc": 0.65}, "ab", ["ab", "abc"]),
        # An equal score is no fall.
        ({"a": 0.6, "b": 0.5}, {"ab": 0.6}, "ab", ["ab"]),
        # None helps.
        ({"a": 0.6, "b": 0.5, "c": 0.4}, {"ab": 0.5, "ac": 0.5}, "a", ["ab", "ac"]),
        # Of equal ones the first named is tried first.
        ({"c": 0.5, "b": 0.5, "a": 0.5}, {"cb": 0.4, "ca": 0.5}, "ca", ["cb", "ca"]),
        ({"a": 0.5}, {}, "a", []),
    ],
)
def test_the_greedy_rule_worked_by_hand(own, soups, kept, asked):
    names, tried = greedy_soup(own, lambda names: soups["".join(names)])
    assert "".join(names) == kept and list(tried.values()) == [soups[each] for each in asked]


def bias_of(encoder) -> float:
    return float(encoder.backbone.encoder.layer[0].output.dense.bias[0].detach())


def loaders(*values: float):
    """Models that differ in one number, which measuring sees."""

    def load(value):
        encoder = make_encoder().eval()
        with torch.no_grad():
            encoder.backbone.encoder.layer[0].output.dense.bias.fill_(value)
        return encoder

    return {chr(ord("a") + index): lambda value=value: load(value) for index, value in enumerate(values)}


class Measure:
    """Of ten queries as many are found as the model's number says: on the first set near 5 is best, on the second 0."""

    def __init__(self):
        self.asked = []

    def __call__(self, encoder, name, sets):
        found = []
        for each in sets:
            best = 5 if each.name == "law" else 0
            hits = round(10 - abs(bias_of(encoder) - best))
            scores = {q: {"d1" if i < hits else "d2": 1.0} for i, q in enumerate(each.query_ids)}
            self.asked.append((name, each.name))
            found.append(evaluate_run(each, make_run(each, scores), (1,), name, samples=10))
        return found


def test_uniform_takes_all_and_measures_each_once():
    measure = Measure()
    encoder, found, record = make_soup(loaders(2, 9, 4), "uniform", SETS, measure, "hit@1")
    assert bias_of(encoder) == 5 and record["taken"] == record["members"] == ["a", "b", "c"] and record["rule"] is None
    assert measure.asked == [(name, each.name) for name in ("a", "b", "c", "soup of 3 models") for each in SETS]
    assert [each.metrics["hit@1"] for each in found] == [1.0, 0.5]
    assert {name: sets["law"]["metrics"]["hit@1"] for name, sets in record["own"].items()} == {"a": 0.7, "b": 0.6, "c": 0.9}
    assert record["best"] == "c" and (record["target"], record["keep"]) == ("law", ["wiki"])
    assert record["sets"]["law"]["difference_to_best"]["mean"] == pytest.approx(0.1)
    assert record["sets"]["wiki"]["difference_to_best"]["mean"] == pytest.approx(-0.1)
    assert json.loads(json.dumps(record)).keys() == record.keys()


def test_greedy_measures_the_target_alone_until_it_has_chosen():
    """c alone finds .9; with b it is 5.5, which finds 1.0 and is kept; with a 4.33, .9, which is not."""
    measure = Measure()
    encoder, found, record = make_soup(loaders(2, 7, 4), "greedy", SETS, measure, "hit@1")
    assert record["taken"] == ["c", "b"] and bias_of(encoder) == 5.5 and record["members"] == ["a", "b", "c"]
    assert record["with_it"] == {"b": 1.0, "a": 0.9} and record["rule"]
    alone = [(name, each.name) for name in ("a", "b", "c") for each in SETS]
    tries = [("soup of 2 models", "law"), ("soup of 3 models", "law")]
    assert measure.asked == [*alone, *tries, ("soup of 2 models", "wiki")]
    assert [each.set_name for each in found] == ["law", "wiki"] and found[0].metrics["hit@1"] == 1.0


def test_a_best_model_that_none_improves_is_taken_as_it_is():
    measure = Measure()
    encoder, found, record = make_soup(loaders(5, 9, 9), "greedy", SETS, measure, "hit@1")
    assert record["taken"] == ["a"] and bias_of(encoder) == 5
    assert measure.asked[6:] == [("soup of 2 models", "law")] * 2  # nothing is measured a second time
    assert record["sets"]["law"]["difference_to_best"]["mean"] == 0 and "this one is taken, unchanged" in soup_table(record)
    assert "less a" not in soup_table(record)


def test_without_a_set_nothing_is_measured():
    encoder, found, record = make_soup(loaders(2, 4), "slerp")
    assert found == [] and record == {"how": "slerp", "rule": None, "members": ["a", "b"], "taken": ["a", "b"]}
    np.testing.assert_allclose(bias_of(encoder), 3)


def test_what_does_not_belong_together_is_told_before_anything_is_measured():
    measure = Measure()
    members = {**loaders(1, 2), "other": lambda: make_encoder("xlm-roberta")}
    with pytest.raises(ConfigurationError, match="model_type is 'xlm-roberta' in other, 'bert' in a"):
        make_soup(members, "greedy", SETS, measure, "hit@1")
    assert measure.asked == []


def test_the_table_shows_every_model_and_what_became_of_it():
    record = make_soup(loaders(2, 7, 4), "greedy", SETS, Measure(), "hit@1")[2]
    head, *rows = soup_rows(record)
    assert head == ["model", "law hit@1", "wiki hit@1", "taken"]
    assert [row[0] for row in rows] == ["a", "b", "c", "= soup of 2 models"]
    assert [row[-1] for row in rows] == ["no, .900 with it", "yes, 1.000 with it", "yes", ""]
    assert [row[1][:4] for row in rows] == [".700", ".800", ".900", "1.00"]
    text = soup_table(record)
    assert "law: soup less c +0.100 [" in text and "law, 10 queries: differences below" in text and record["rule"] in text


def test_a_soup_of_one_is_that_model():
    assert (label(["a"]), label(["a", "b"])) == ("a", "soup of 2 models")
