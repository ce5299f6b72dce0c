"""Paired comparisons of two evaluations."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.comparison import Scores, paired_differences, score_two
from e5ft.retrieval.evaluation import evaluate_run, score_model
from e5ft.retrieval.hybrid import Weight
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.significance import mean_intervals
from tests.conftest import make_encoder
from tests.retrieval.conftest import make_run, make_set

QRELS = {f"q{i}": {"d1": 1} for i in range(4)}


def evaluation(hits, label="x", qrels=QRELS, cutoffs=(1,), name="small"):
    """An evaluation in which the queries have these values of hit@1."""
    retrieval_set = make_set(qrels, name=name)
    scores = {query: {"d1" if hit else "d2": 1.0} for query, hit in zip(retrieval_set.query_ids, hits, strict=True)}
    return evaluate_run(retrieval_set, make_run(retrieval_set, scores), cutoffs, label, samples=10)


def test_each_query_is_held_against_itself():
    """Differences (1, -1, 0, 0): the mean is 0, and every pattern of signs reaches it; sorted values would differ nowhere."""
    difference = paired_differences(evaluation((1, 0, 1, 0)), evaluation((0, 1, 1, 0)), ["hit@1"])["hit@1"]
    assert (difference.mean, difference.p_value) == (0.0, 1.0)
    assert (difference.low, difference.high) == tuple(mean_intervals(np.array([[1.0], [-1], [0], [0]]), least=-1)[0])
    assert difference.low < 0 < difference.high


def test_it_is_a_minus_b_and_of_every_metric():
    good, poor = evaluation((1, 1, 1, 0), cutoffs=(1, 2)), evaluation((0, 0, 1, 0), cutoffs=(2, 1))
    differences = paired_differences(good, poor)
    assert list(differences) == list(good.metrics) and differences["recall@2"] == differences["hit@1"]
    assert differences["hit@1"].mean == 0.5
    assert differences["hit@1"].p_value == 0.5  # signs of (1, 1, 0, 0): half of all patterns reach |2|
    opposite = paired_differences(poor, good)["hit@1"]
    assert opposite.mean == -0.5 and opposite.p_value == 0.5


def test_what_does_not_compare_is_refused():
    one = evaluation((1, 0, 1, 0), "one")
    with pytest.raises(DataError, match="'q3' is in one only"):
        paired_differences(one, evaluation((1, 0, 1), qrels={f"q{i}": {"d1": 1} for i in range(3)}))
    with pytest.raises(DataError, match="set_name 'small' and 'other'"):
        paired_differences(one, evaluation((1, 0, 1, 0), name="other"))
    with pytest.raises(ConfigurationError, match="no metric 'ndcg@10'"):
        paired_differences(one, one, ["ndcg@10"])


def test_the_names_of_a_set_s_evaluations():
    before, after = evaluation((0, 0, 1, 0), "before"), evaluation((1, 0, 1, 0), "after")
    scores = Scores(before, None, after, {"8d": after})
    assert list(scores.named()) == ["before", "after", "after_8d"] and list(scores.files) == ["base", "final", "after_8d"]
    assert scores.record()["after"] == {"label": "after", "metrics": after.metrics, "intervals": after.intervals}
    assert scores.differences(3)["hit@1"]["mean"] == 0.25


def test_hybrids_have_names_and_their_differences():
    before, after, worse, better = (evaluation(hits) for hits in ((0, 0, 1, 0), (1, 0, 1, 0), (1, 0, 1, 0), (1, 1, 1, 0)))
    for_each = zip((before, after), (worse, better), (0.4, 0.6), strict=True)
    before, after = (
        dataclasses.replace(model, hybrid=dataclasses.replace(mixed, weight=Weight(value, "set")))
        for model, mixed, value in for_each
    )
    scores = Scores(before, None, after)
    assert list(scores.named()) == ["before", "after", "hybrid", "hybrid_before"]
    assert scores.files["hybrid_base"].label == "before, x" and scores.files["hybrid"] is after.hybrid
    record = scores.hybrid_record(0)
    assert (record["weight"], record["weight_before"]["value"]) == ({"value": 0.6, "source": "set", "curve": {}}, 0.4)
    assert [record[name]["hit@1"]["mean"] for name in ("differences", "differences_to_hybrid_before")] == [0.25, 0.25]
    assert Scores(before, None, evaluation((1, 0, 1, 0))).hybrid_record(0) is None


def test_scores_of_some_queries_alone():
    before, after = evaluation((0, 0, 1, 0), "before"), evaluation((1, 0, 1, 0), "after")
    part = Scores(before, None, after, {"8d": after}).of_queries(np.array([0, 2]), samples=10, seed=0)
    assert [part.after.metrics["hit@1"], part.before.metrics["hit@1"], part.small["8d"].metrics["hit@1"]] == [1.0, 0.5, 1.0]
    assert part.bm25 is None and part.differences(0)["hit@1"]["mean"] == 0.5


MANY = {f"q{i:02}": {"d1": 1} for i in range(40)}


def test_the_seed_decides_which_signs_are_drawn():
    before, after = (evaluation(hits, qrels=MANY) for hits in np.random.default_rng(0).random((2, 40)) < [[0.4], [0.6]])
    by_seed = {seed: paired_differences(after, before, seed=seed)["hit@1"] for seed in (0, 1, 3)}
    assert len({difference.p_value for difference in by_seed.values()}) == 3
    assert paired_differences(after, before)["hit@1"] == by_seed[0]
    assert Scores(before, None, after).differences(3)["hit@1"] == dataclasses.asdict(by_seed[3])


def test_two_encoders_are_scored_on_the_same_set():
    ours, theirs = make_encoder(seed=1), make_encoder(seed=2)
    ids, numbers = StringColumn([f"{i:02}" for i in range(30)]), range(30)
    texts = [StringColumn([f"w{i} w{i + 1} w{j * i}" for i in numbers]) for j in (2, 3)]
    retrieval_set = RetrievalSet("words", ids, texts[0], ids, texts[1], {each: {each: 1} for each in ids})
    settings = SimpleNamespace(cutoffs=(1, 10), batch_tokens=512, intervals=20)
    found = score_two(ours, theirs, retrieval_set, settings)
    scores = [score_model(encoder, retrieval_set, settings, "").metrics["ndcg@10"] for encoder in (ours, theirs)]
    assert (found["metric"], found["queries"], found["ours"], found["theirs"]) == ("ndcg@10", 30, *scores)
    assert found["difference"]["mean"] == pytest.approx(scores[0] - scores[1]) != 0
