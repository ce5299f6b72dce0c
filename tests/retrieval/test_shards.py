"""Shards are the whole: read as one matrix, searched part by part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft import distributed
from e5ft.errors import ConfigurationError, DataError, NonFiniteError
from e5ft.retrieval.search import merge, rescore, top_k
from e5ft.retrieval.shards import Shards, search_shards
from tests.data.conftest import PROPERTY


def matrix(rows, columns, seed, small):
    """Small integers: every product is exact, and ties are many."""
    generator = np.random.default_rng(seed)
    if small:
        return generator.integers(-2, 3, size=(rows, columns)).astype(np.float32)
    return generator.normal(size=(rows, columns)).astype(np.float32)


def split(vectors, borders):
    return Shards(np.split(vectors, sorted(border % (len(vectors) + 1) for border in borders)))


CASES = dict(
    rows=st.integers(1, 60), borders=st.lists(st.integers(0, 60), max_size=5), k=st.integers(1, 70), seed=st.integers(0, 99),
    small=st.booleans(),
)  # fmt: skip


@PROPERTY
@given(**CASES)
def test_merged_results_of_shards_are_those_of_the_whole(rows, borders, k, seed, small):
    queries, passages = matrix(4, 5, seed, small), matrix(rows, 5, seed + 1, small)
    shards = split(passages, borders)
    expected = top_k(queries, passages, k)
    for found in (search_shards(queries, shards, k), top_k(queries, shards, k)):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)


@PROPERTY
@given(**CASES)
def test_a_shard_that_found_too_few_adds_nothing(rows, borders, k, seed, small):
    queries, passages = matrix(3, 5, seed, small), matrix(rows, 5, seed + 1, small)
    scores, indices = top_k(queries, passages, k)
    none = np.full((3, 2), -np.inf, np.float32), np.full((3, 2), -1)
    for parts in ([(scores, indices), none], [none, (scores, indices)]):
        merged = merge(parts, scores.shape[1])
        np.testing.assert_array_equal(merged[0], scores)
        np.testing.assert_array_equal(merged[1], indices)


def test_scores_of_other_types_are_merged_as_float32():
    parts = [(np.array([[0.5]]), np.array([[7]], np.int32)), (np.array([[0.75]], np.float32), np.array([[3]]))]
    scores, indices = merge(parts, 2)
    assert (scores.tolist(), indices.tolist()) == ([[0.75, 0.5]], [[3, 7]])
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)
    assert merge([(part[0].astype(np.float64), part[1].astype(np.int32)) for part in parts], 2)[1].dtype == np.int64


@PROPERTY
@given(**CASES)
def test_candidates_are_ordered_by_their_true_scores(rows, borders, k, seed, small):
    """All passages as candidates, in any order, some of them none: the exact search."""
    queries, passages = matrix(3, 5, seed, small), matrix(rows, 5, seed + 1, small)
    generator = np.random.default_rng(seed)
    candidates = np.stack([generator.permutation(np.concatenate([np.arange(rows), [-1, -1]])) for _ in range(3)])
    scores, indices = rescore(queries, passages, candidates, k)
    expected = top_k(queries, passages, k)
    held = min(k, rows)
    np.testing.assert_array_equal(scores[:, :held], expected[0])
    np.testing.assert_array_equal(indices[:, :held], expected[1])
    assert (indices[:, held:] == -1).all() and np.isneginf(scores[:, held:]).all()


@PROPERTY
@given(borders=CASES["borders"], start=st.integers(-70, 70), stop=st.integers(-70, 70), seed=st.integers(0, 99))
def test_rows_are_those_of_the_whole(borders, start, stop, seed):
    whole = matrix(40, 3, seed, False)
    shards = split(whole, borders)
    assert shards.shape == whole.shape and len(shards) == 40
    np.testing.assert_array_equal(np.asarray(shards), whole)
    np.testing.assert_array_equal(np.asarray(shards[start:stop]), whole[start:stop])
    np.testing.assert_array_equal(shards[start:stop:3], whole[start:stop:3])
    chosen = np.random.default_rng(seed).integers(-40, 40, size=(7, 2))
    np.testing.assert_array_equal(shards[chosen], whole[chosen])
    np.testing.assert_array_equal(shards[chosen[0, 0]], whole[chosen[0, 0]])


def test_a_slice_copies_nothing_and_there_is_no_row_behind_the_last():
    whole = matrix(10, 3, 0, False)
    shards = Shards([whole[:6], whole[6:]])
    assert all(np.shares_memory(block, whole) for block in shards[2:9].blocks)
    with pytest.raises(IndexError):
        shards[np.array([3, 10])]


def test_truth_values_choose_rows_as_they_do_of_an_array():
    whole = matrix(10, 3, 0, False)
    shards, chosen = Shards([whole[:6], whole[6:]]), np.arange(10) % 3 == 1
    np.testing.assert_array_equal(shards[chosen], whole[chosen])
    with pytest.raises(IndexError):
        shards[chosen[:9]]


def test_what_cannot_be_searched_is_refused_where_no_shard_has_a_row_too():
    queries, none = matrix(2, 3, 0, False), Shards([np.empty((0, 3), np.float32)])
    with pytest.raises(DataError, match="corpus is empty"):
        search_shards(queries, none, 5)
    with pytest.raises(ConfigurationError, match="k=0"):
        search_shards(queries, none, 0)


def test_a_broken_vector_ends_the_search_in_every_process(monkeypatch):
    whole = matrix(10, 3, 0, False)
    monkeypatch.setattr(distributed, "any_process", lambda flag: True)  # as if it was another one's
    with pytest.raises(NonFiniteError, match="another process"):
        search_shards(whole[:2], Shards([whole]), 3)
