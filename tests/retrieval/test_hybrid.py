"""Hybrids of dense search and BM25, against plain numpy over the whole score matrices."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import pytrec_eval

from e5ft.retrieval import hybrid
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.hybrid import DevSet, Weight, best_weight, choosing_set, hybrid_runs, sets_beside, weighting
from e5ft.retrieval.runs import bm25_run, dense_run, write_trec
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.shards import Shards
from tests.retrieval.conftest import make_run, make_set

SETTINGS = SimpleNamespace(cutoffs=(1, 10), bm25="words", hybrid_weight="auto")


def random_set(queries: int, passages: int, seed: int = 0, left_out: bool = False) -> RetrievalSet:
    """Texts of a few words out of thirty, so that many queries and passages share some; every seventh passage is a copy."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(f"w{word}" for word in draw.integers(0, 30, draw.integers(1, 9))) for _ in range(queries + passages)]
    names = [f"d{number:04}" for number in range(passages)]
    documents = [texts[queries + number - number % 7] for number in range(passages)]
    asked = [f"q{number:04}" for number in range(queries)]
    judged = {name: {names[int(draw.integers(passages))]: 1} for name in asked}
    own = {name: names[number] for number, name in enumerate(asked)} if left_out else {}
    columns = map(StringColumn, (asked, texts[:queries], names, documents))
    return RetrievalSet("random", *columns, qrels=judged, left_out=own)


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    vectors[np.arange(rows) % 7 != 0] = vectors[(np.arange(rows) - np.arange(rows) % 7)][np.arange(rows) % 7 != 0]  # copies
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def reference(each: RetrievalSet, queries, passages, weight: float, depth: int, k: int) -> list[list[tuple[int, float]]]:
    """The k best of every query by the definition: full score matrices, sets of candidates, one query after another."""
    dense = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    lexical = np.stack(list(BM25(each.passages, tokenisation="words").scores(each.queries)))
    ranked = []
    for query in range(len(queries)):
        allowed = [p for p in range(len(passages)) if p != each.left_out_at[query]]
        by_dense = sorted(allowed, key=lambda p: (-dense[query, p], p))[:depth]
        by_words = sorted((p for p in allowed if lexical[query, p] > 0), key=lambda p: (-lexical[query, p], p))[:depth]
        candidates = sorted({*by_dense, *by_words})
        columns = [
            dense[query, candidates].astype(float),
            np.array([lexical[query, p] if p in by_words else 0.0 for p in candidates], float),
        ]
        columns = [(c - c.mean()) / c.std() if np.ptp(c) else np.zeros(len(c)) for c in columns]
        share = weight if columns[1].any() else 1.0
        sums = (share * columns[0] + (1 - share) * columns[1]).tolist()
        ranked.append(sorted(zip(candidates, sums, strict=True), key=lambda pair: (-round(pair[1], 5), pair[0]))[:k])
    return ranked


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize(("depth", "count"), [(100, 60), (10, 200), (3, 150)])  # all passages, and lists that are cut
def test_scores_and_order_are_those_of_the_definition(depth, count, left_out, monkeypatch):
    monkeypatch.setattr(hybrid, "_BLOCK", 7)  # several blocks, the last one smaller
    each = random_set(20, count, seed=count, left_out=left_out)
    queries, passages = unit(20, 8, 1), unit(count, 8, 2)
    dense, lexical = dense_run(queries, passages, each, depth), bm25_run(each, depth, "words")
    weights = (0.0, 0.3, 0.7, 1.0)
    for weight, (scores, indices) in zip(weights, hybrid_runs(dense, lexical, queries, passages, weights, depth), strict=True):
        expected = reference(each, queries, passages, weight, depth, depth)
        for row, (found, values) in enumerate(zip(indices.tolist(), scores.tolist(), strict=True)):
            there = [p for p in found if p >= 0]
            np.testing.assert_allclose(values[: len(there)], [score for _, score in expected[row]], atol=1e-5)
            assert set(there) <= {p for p, _ in reference(each, queries, passages, weight, depth, 10**6)[row]}
            assert each.left_out_at[row] not in there or each.left_out_at[row] < 0
            pairs = list(zip(values, found, strict=True))[: len(there)]
            assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))  # copies are ties: by id


def test_the_whole_weight_is_dense_search_and_none_is_bm25():
    each = random_set(30, 80, seed=3)
    queries, passages = unit(30, 8, 1), unit(80, 8, 2)
    dense, lexical = dense_run(queries, passages, each, 100), bm25_run(each, 100, "words")
    words, whole = hybrid_runs(dense, lexical, queries, passages, [0.0, 1.0], 10)
    np.testing.assert_array_equal(whole[1], dense[1][:, :10])
    matched = (lexical[1] >= 0).sum(axis=1)
    compared = [row for row in range(30) if matched[row] >= 10]
    assert len(compared) > 20
    np.testing.assert_array_equal(words[1][compared], lexical[1][compared, :10])


def test_without_a_word_in_common_the_ranking_is_the_dense_one():
    each = make_set({"a": {"d1": 1}, "b": {"d2": 1}}, [f"d{number}" for number in range(5)])
    queries, passages = unit(2, 4, 0), np.eye(5, 4, dtype=np.float32)
    dense = dense_run(queries, passages, each, 100)
    none, same = make_run(each, {}), make_run(each, {"a": {f"d{n}": 2.0 for n in range(5)}})
    for lexical in (none, same):  # nothing found, or everything alike: nothing is said
        for weight in (0.0, 0.5, 1.0):
            ((scores, indices),) = hybrid_runs(dense, lexical, queries, passages, [weight], 3)
            np.testing.assert_array_equal(indices, dense[1][:, :3])
            assert np.isfinite(scores).all()


def test_equal_dense_scores_leave_the_ranking_to_bm25():
    each = make_set({"a": {"d1": 1}}, [f"d{number}" for number in range(4)])
    queries, passages = np.full((1, 3), 0.1, np.float32), np.full((4, 3), 0.1, np.float32)
    dense, lexical = dense_run(queries, passages, each, 100), make_run(each, {"a": {"d2": 3.0, "d1": 1.0}})
    ((scores, indices),) = hybrid_runs(dense, lexical, queries, passages, [0.7], 4)
    assert indices.tolist() == [[2, 1, 0, 3]] and scores[0, 2] == scores[0, 3]


def test_one_passage_is_ranked_too():
    each = make_set({"a": {"d1": 1}}, ["d1"])
    vectors = np.ones((1, 2), np.float32)
    dense = dense_run(vectors, vectors, each, 100)
    ((scores, indices),) = hybrid_runs(dense, make_run(each, {"a": {"d1": 3.0}}), vectors, vectors, [0.7], 10)
    assert (scores.tolist(), indices.tolist()) == ([[0.0]], [[0]])


def test_what_bm25_alone_finds_gets_its_dense_score_from_a_map_or_shards():
    """Both lists are one deep and differ: z-scores of two are 1 and -1, the dense one decides at .7 and BM25 at .3."""
    each = make_set({"a": {"d1": 1}}, ["d0", "d1", "d2"])
    queries, passages = np.array([[1, 0]], np.float32), np.array([[0.5, 0], [0.9, 0], [0.2, 0]], np.float32)
    dense = dense_run(queries, passages, each, 1)
    lexical = tuple(part[:, :1] for part in make_run(each, {"a": {"d2": 5.0}}))
    for vectors in (passages, Shards([passages[:2], passages[2:]])):
        mostly_dense, mostly_words = hybrid_runs(dense, lexical, queries, vectors, [0.7, 0.3], 2)
        assert mostly_dense[1].tolist() == [[1, 2]] and mostly_words[1].tolist() == [[2, 1]]
        np.testing.assert_allclose(mostly_dense[0], [[0.4, -0.4]], atol=1e-6)


@pytest.mark.parametrize(
    ("curve", "chosen"),
    [
        ({0.0: 0.1, 0.5: 0.4, 1.0: 0.3}, 0.5),
        ({0.5: 0.4, 0.6: 0.4, 0.9: 0.4}, 0.6),  # of equal ones the nearest to .7
        ({0.6: 0.4, 0.8: 0.4, 0.0: 0.4}, 0.8),  # of two as near the larger
        (dict.fromkeys(hybrid.GRID, 0.0), 0.7),
        ({0.7: 0.4, 0.1: 0.400001}, 0.1),
    ],
)
def test_the_weight_with_the_best_score_is_chosen(curve, chosen):
    assert best_weight(curve) == chosen


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.7, "hybrid (.7 dense + .3 BM25)"), (1.0, "hybrid (1 dense + 0 BM25)"), (0.0, "hybrid (0 dense + 1 BM25)"),
        (0.35, "hybrid (.35 dense + .65 BM25)"),
    ],
)  # fmt: skip
def test_the_label_tells_the_weight(value, label):
    assert Weight(value, "").label == label


def test_who_decides_the_weight():
    dev = random_set(30, 40)
    for off in ({"bm25": None}, {"hybrid_weight": None}):
        assert weighting(SimpleNamespace(**{**vars(SETTINGS), **off}), dev) is None
    fixed = weighting(SimpleNamespace(**{**vars(SETTINGS), "hybrid_weight": 0}), dev)
    assert fixed == Weight(0.0, "as set by evaluation.hybrid_weight")
    none, few = (
        weighting(SETTINGS, None),
        weighting(SETTINGS, dataclasses.replace(dev, qrels={**dev.qrels, "q0000": {"d0001": 0}})),
    )
    assert (none.value, few.value) == (0.7, 0.7) and "no dev set" in none.source and "fewer than 30 queries" in few.source
    chosen = weighting(SETTINGS, dev)
    assert isinstance(chosen, DevSet) and chosen.bm25[1].shape == (30, 40)


def test_a_dev_set_of_the_same_passages_needs_no_vectors_of_its_own():
    whole = random_set(30, 40)
    part = dataclasses.replace(whole, passage_ids=whole.passage_ids.take([3, 8]), passages=whole.passages.take([3, 8]))
    other = dataclasses.replace(part, passages=StringColumn(["x", "y"]))
    alien = dataclasses.replace(part, passage_ids=StringColumn(["d0003", "e"]))
    same, cut, texts, ids = (DevSet(each, None) for each in (whole, part, other, alien))
    assert same.rows_in(whole) == slice(None) and cut.rows_in(whole).tolist() == [3, 8]
    assert texts.rows_in(whole) is None and ids.rows_in(whole) is None
    assert [sets_beside(whole, each) for each in (whole, part, other, None)] == [[], [], [other], []]


def test_a_weight_is_chosen_on_the_whole_dev_set_where_its_vectors_are_there_already(monkeypatch):
    """On the bounded one of few passages BM25 looks better than it is."""
    whole = random_set(30, 40)
    bounded = dataclasses.replace(whole, passage_ids=whole.passage_ids.take([3, 8]), passages=whole.passages.take([3, 8]))
    alien = dataclasses.replace(whole, passages=StringColumn(f"{text} x" for text in whole.passages))
    assert choosing_set(whole, bounded, whole).passages == whole.passages
    assert choosing_set(whole, bounded, alien) is bounded
    monkeypatch.setattr(hybrid, "MOST_QUERIES", 5)
    chosen = choosing_set(whole, bounded, whole, seed=1)
    assert (len(chosen.queries), len(chosen.passages)) == (5, 40)


def test_the_run_file_scores_the_same_in_pytrec_eval(tmp_path):
    """Without copies: trec_eval breaks ties by descending id."""
    from e5ft.retrieval.evaluation import evaluate_run

    each = random_set(25, 60, seed=5)
    each = dataclasses.replace(each, passages=StringColumn(f"{text} w{i % 30}" for i, text in enumerate(each.passages)))
    passages = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32)
    queries = unit(25, 8, 1)
    runs = dense_run(queries, passages, each, 100), bm25_run(each, 100, "words")
    (run,) = hybrid_runs(*runs, queries, passages, [0.6], 10)
    write_trec(tmp_path / "run.trec", each, run, "hybrid (.6 dense + .4 BM25)")
    read: dict[str, dict[str, float]] = {}
    for line in (tmp_path / "run.trec").read_text().splitlines():
        query, _, passage, _, score, tag = line.split()
        read.setdefault(query, {})[passage] = float(score)
        assert tag == "hybrid_(.6_dense_+_.4_BM25)"
    values = pytrec_eval.RelevanceEvaluator(each.qrels, {"ndcg_cut.10", "recall.10"}).evaluate(read)
    ours = evaluate_run(each, run, [10], "x", samples=1).metrics
    assert 0 < ours["ndcg@10"] < 1
    assert ours["ndcg@10"] == pytest.approx(np.mean([v["ndcg_cut_10"] for v in values.values()]))
    assert ours["recall@10"] == pytest.approx(np.mean([v["recall_10"] for v in values.values()]))
