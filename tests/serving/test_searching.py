"""Side by side: each column is what evaluation ranks; the judged answer, the highlighted words, NFD."""

import unicodedata

import numpy as np
import pytest

from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.hybrid import CANDIDATES, hybrid_runs
from e5ft.retrieval.runs import bm25_run, dense_run
from e5ft.retrieval.sets import from_passages
from e5ft.serving.searching import MODEL, SideBySide
from tests.conftest import make_encoder
from tests.serving.conftest import PLANTED, make_judged


def by_system(found):
    return {ranking.system: ranking for ranking in found.rankings}


def test_each_column_is_the_run_that_is_measured(searched):
    whole = searched.retrieval_set
    runs, vectors = {}, {}
    for name, encoder in searched.models.items():
        vectors[name] = encoder.encode(whole.queries, "query"), encoder.encode(whole.passages, "passage")
        runs[name] = dense_run(*vectors[name], whole, CANDIDATES)
    runs["bm25"] = bm25_run(whole, CANDIDATES)
    (runs["hybrid"],) = hybrid_runs(runs["model"], runs["bm25"], *vectors["model"], [0.6], CANDIDATES)
    assert searched.systems == tuple(runs)
    for number, query in enumerate(whole.queries):
        found = by_system(searched.search(query, shown=100))
        assert found.keys() == runs.keys()
        for system, (scores, indices) in runs.items():
            hits, there = found[system].hits, indices[number] >= 0
            assert [hit.passage_id for hit in hits] == list(whole.passage_ids.take(indices[number][there])), system
            assert [hit.score for hit in hits] == pytest.approx(scores[number][there].tolist(), abs=1e-6)
            mrr = evaluate_run(whole, runs[system], [100], system, samples=1).values[number, 2]
            rank = found[system].answer_rank
            assert (1 / rank if rank else 0) == pytest.approx(mrr)


def test_a_judged_query_has_its_answers_and_another_has_none(searched):
    found = searched.search("w1 서울")
    assert (found.query_id, found.answers) == ("q1", 2)
    bm25 = by_system(found)["bm25"]
    assert bm25.answer_rank == 1 and bm25.hits[0].passage_id == "d00" and bm25.hits[0].relevance == 2
    assert {hit.relevance for ranking in found.rankings for hit in ranking.hits if hit.passage_id == "d08"} <= {0}
    other = searched.search("w1 부산")
    assert (other.query_id, other.answers) == (None, 0)
    assert all(ranking.answer_rank is None for ranking in other.rankings)
    assert not any(hit.relevance for ranking in other.rankings for hit in ranking.hits)


def test_what_is_left_out_of_a_query_s_ranking_is_not_shown(searched):
    query = searched.retrieval_set.queries[1]
    for shown, there in ((searched.search(query, shown=100), False), (searched.search(query + " w0", shown=100), True)):
        assert all(("d05" in [hit.passage_id for hit in ranking.hits]) == there for ranking in shown.rankings)


def test_hangul_in_nfd_finds_what_nfc_finds(searched):
    assert searched.search(unicodedata.normalize("NFD", " w1  서울")) == searched.search("w1 서울")


def test_pieces_are_the_whole_text_and_its_matching_words_are_marked(searched):
    first = by_system(searched.search("w1 서울"))["bm25"].hits[0]
    assert "".join(text for text, _ in first.pieces) == PLANTED
    assert [text for text, marked in first.pieces if marked] == ["w1", "w1", "서울"]


def test_words_in_common_with_nothing_give_no_hits(searched):
    assert by_system(searched.search("zebra"))["bm25"].hits == ()


@pytest.mark.parametrize(
    ("options", "systems"),
    [
        ({"bm25": None, "weight": 0.5}, ("model",)),
        ({"weight": None}, ("model", "bm25")),
        ({"weight": 1.0}, ("model", "bm25", "hybrid")),
    ],
)
def test_columns_are_what_is_given(options, systems):
    one = SideBySide(make_judged(), {MODEL: make_encoder()}, **options)
    assert one.systems == tuple(by_system(one.search("w1"))) == systems


def test_a_corpus_that_nobody_asked_and_vectors_from_the_cache(tmp_path):
    texts, encoder = ["w1 w2", "w3 w4"], make_encoder()
    for _ in range(2):
        one = SideBySide(from_passages("all", texts), {MODEL: encoder}, weight=0.7, cache=tmp_path)
        found = one.search("w3", shown=5)
        assert found.query_id is None and one.examples(10) == []
        assert by_system(found)["bm25"].hits[0].pieces == (("w3", True), (" w4", False))
    (folder,) = (path for path in tmp_path.glob("vectors-*") if path.is_dir())
    (file,) = folder.glob("*.f32")
    assert np.fromfile(file, np.float32).size == 2 * encoder.dimension


def test_examples_are_spread_over_the_queries(searched):
    assert searched.examples(1) == ["w1 서울"] and len(searched.examples(5)) == 2
