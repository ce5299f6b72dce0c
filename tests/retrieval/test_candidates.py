"""Numbering of texts, and what each source finds."""

import numpy as np
import pytest

from e5ft.data.rows import Row
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.candidates import (
    bm25_finder,
    bm25_scorer,
    dense_scorer,
    fused_finder,
    make_index,
    random_finder,
    remembered,
)

ROWS = [
    Row("서울의 인구", ("서울 인구는 천만 명이다.", "서울에는 사람이 많다.")),
    Row("부산의 바다", ("부산 해운대 바다는 넓다.",)),
    Row("서울의  인구", ("수도의 인구 통계이다.",)),  # the same query, but for white space
]


def texts_of(problem, numbers):
    return [problem.passages[int(number)] for number in numbers]


def test_numbers_lead_back_to_texts():
    problem = make_index(ROWS, None)
    assert list(problem.queries) == ["서울의 인구", "부산의 바다"] and problem.query_of.tolist() == [0, 1, 0]
    assert problem.positive_row.tolist() == [0, 0, 1, 2]
    assert texts_of(problem, problem.positive_passage) == [text for row in ROWS for text in row.positives]
    known = {(int(q), problem.passages[int(p)]) for q, p in zip(problem.known_query, problem.known_passage, strict=True)}
    assert known == {(0, ROWS[0].positives[0]), (0, ROWS[0].positives[1]), (1, ROWS[1].positives[0]), (0, ROWS[2].positives[0])}
    assert problem.candidates == len(problem.passages) == 4


def test_candidates_are_in_the_order_of_their_identities_whatever_that_of_the_rows():
    one, other = make_index(ROWS, None), make_index(ROWS[::-1], None)
    assert list(one.passages) == list(other.passages)
    ids = [text_id(text) for text in one.passages]
    assert ids == sorted(ids)


def test_a_corpus_held_out_passages_and_other_rows():
    corpus = ["무관한 글이다.", ROWS[1].positives[0], "다른 글이다.", "다른  글이다."]
    held_out = {text_id("다른 글이다."), text_id(ROWS[0].positives[1]), text_id("아무 데도 없는 글")}
    other = [Row("부산의 바다", ("광안리 바다.",)), Row("제주의 산", ("한라산.",))]
    problem = make_index(ROWS, corpus, held_out, all_rows=other)
    assert set(list(problem.passages)[: problem.candidates]) == {"무관한 글이다.", ROWS[1].positives[0]}
    assert (problem.excluded, problem.overlap) == (1, 1)
    assert texts_of(problem, problem.positive_passage) == [text for row in ROWS for text in row.positives]
    assert len(problem.queries) == 2  # 제주의 산 is not mined for
    known = {(int(q), problem.passages[int(p)]) for q, p in zip(problem.known_query, problem.known_passage, strict=True)}
    of_rows = {(0, text) for row in (ROWS[0], ROWS[2]) for text in row.positives} | {(1, ROWS[1].positives[0])}
    assert known == of_rows | {(1, "광안리 바다.")}


def test_nothing_to_mine_from_or_for():
    with pytest.raises(DataError, match="no rows"):
        make_index([], None)
    with pytest.raises(DataError, match="no candidate is left"):
        make_index(ROWS, ["글"], {text_id("글")})


@pytest.fixture
def problem():
    return make_index(ROWS, ["서울 지하철", "부산 지하철", "바다 낚시", "인구 절벽"])


def test_bm25_finds_candidates_only(problem):
    """The documents would win: they are in the index, for their scores, but are no candidates."""
    bm25 = BM25(problem.passages)
    found = bm25_finder(bm25, problem)(np.array([0, 1]), 5)
    assert found.shape == (2, 5) and (found < 4).all()
    names = [[problem.passages[int(p)] for p in row if p >= 0] for row in found]
    assert sorted(names[0]) == ["서울 지하철", "인구 절벽"] and sorted(names[1]) == ["바다 낚시", "부산 지하철"]


def test_bm25_scores_pairs_in_any_order(problem):
    bm25 = BM25(problem.passages)
    queries, passages = np.array([1, 0, 1, 0]), np.array([6, 4, 0, 1])
    whole = list(bm25.scores(problem.queries))
    expected = [whole[q][p] for q, p in zip(queries, passages, strict=True)]
    np.testing.assert_array_equal(bm25_scorer(bm25, problem)(queries, passages), np.array(expected, np.float32))
    assert max(expected) > 0


def test_random_candidates_depend_on_seed_and_query_alone(problem):
    find = random_finder(problem, 1)
    both, one = find(np.array([0, 1]), 3), find(np.array([1]), 3)
    np.testing.assert_array_equal(both[1], one[0])
    assert all(len(set(row)) == 3 for row in both.tolist()) and both.min() >= 0
    assert sorted(find(np.array([0]), 6)[0].tolist()) == [-1, -1, 0, 1, 2, 3]  # fewer candidates than asked for
    assert find(np.array([], dtype=np.int64), 3).shape == (0, 3)  # a process without rows
    draws = [tuple(random_finder(problem, seed)(np.array([0]), 3)[0].tolist()) for seed in range(20)]
    assert len(set(draws)) > 5


def test_fusion_by_hand():
    """1/61 + 1/62 for 7 and 1/62 + 1/61 for 8: equal, so by index; then 1/63 for 5 and for 9."""
    first = lambda queries, depth: np.array([[7, 8, 9]])  # noqa: E731
    second = lambda queries, depth: np.array([[8, 7, 5]])  # noqa: E731
    assert fused_finder(first, second)(np.array([0]), 3).tolist() == [[7, 8, 5]]
    short = lambda queries, depth: np.array([[9, -1, -1]])  # noqa: E731
    assert fused_finder(first, short)(np.array([0]), 5).tolist() == [[9, 7, 8, -1, -1]]


def test_dense_scores_are_dot_products():
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    left, right = np.array([0, 1, 2, 0, 1]), np.array([5, 4, 3, 2, 1])
    expected = (rows[left].astype(np.float64) * rows[right]).sum(1).astype(np.float32)
    np.testing.assert_array_equal(dense_scorer(rows, rows, block=2)(left, right), expected)


def test_a_remembered_finder_searches_once():
    calls = []

    def finder(queries, depth):
        calls.append(depth)
        return np.zeros((len(queries), depth))

    find = remembered(finder)
    find(np.array([0, 1]), 3), find(np.array([0, 1]), 3)
    assert calls == [3]
    find(np.array([0, 2]), 3), find(np.array([0, 2]), 4)
    assert calls == [3, 3, 4]
