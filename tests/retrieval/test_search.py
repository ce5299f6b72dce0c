"""Exact search: against brute force, with ties, over any chunking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.errors import ConfigurationError, DataError, NonFiniteError
from e5ft.retrieval import search
from e5ft.retrieval.search import top_k


def brute_force(queries, passages, k):
    scores = np.asarray(queries, dtype=np.float64) @ np.asarray(passages, dtype=np.float64).T
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def unit(generator, rows, dimension):
    vectors = generator.standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 150), st.integers(1, 3)),
    k=st.integers(1, 40),
    chunks=st.tuples(st.integers(1, 7), st.integers(1, 60)),
)
def test_equal_to_brute_force_with_ties_everywhere(seed, shape, k, chunks):
    """Small whole numbers: scores are exact and nearly all tied, also at the k-th place and over chunk borders."""
    generator = np.random.default_rng(seed)
    queries = generator.integers(-1, 2, (shape[0], shape[2])).astype(np.float32)
    passages = generator.integers(-1, 2, (shape[1], shape[2])).astype(np.float32)
    scores, indices = top_k(queries, passages, k, query_chunk=chunks[0], passage_chunk=chunks[1])
    expected_scores, expected_indices = brute_force(queries, passages, k)
    assert scores.dtype == np.float32 and indices.dtype == np.int64
    assert np.array_equal(indices, expected_indices)
    assert np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("chunks", [(512, 16_384), (1, 1), (7, 13), (64, 100), (5, 999)])
def test_scores_and_order_do_not_depend_on_the_chunks(chunks):
    """Products of other shapes differ in their last bits; copies of a vector must tie all the same."""
    generator = np.random.default_rng(0)
    queries, passages = unit(generator, 20, 97), unit(generator, 400, 97)
    passages[[17, 200, 399]] = passages[5]
    scores, indices = top_k(queries, passages, 50, query_chunk=chunks[0], passage_chunk=chunks[1])
    expected_scores, expected_indices = brute_force(queries, passages, 50)
    assert np.array_equal(indices, expected_indices)
    assert np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("spread", [1, 2, 40], ids=["nearly all tied", "many tied", "few tied"])
@pytest.mark.parametrize("chunk", [640, 1024, 1111, 16_384])
@pytest.mark.parametrize("k", [1, 8])
def test_choosing_by_blocks_is_choosing_among_all(spread, chunk, k):
    """Chunks long enough that the largest of each block bounds what is chosen from, whole numbers, the best ones anywhere."""
    generator = np.random.default_rng(chunk + spread)
    queries = generator.integers(-spread, spread + 1, (9, 4)).astype(np.float32)
    passages = generator.integers(-spread, spread + 1, (4_500, 4)).astype(np.float32)
    scores, indices = top_k(queries, passages, k, query_chunk=4, passage_chunk=chunk)
    expected_scores, expected_indices = brute_force(queries, passages, k)
    assert np.array_equal(indices, expected_indices)
    assert np.array_equal(scores, expected_scores)


def test_memory_does_not_grow_with_the_corpus(monkeypatch):
    """No more than a chunk of passages is ever asked for while scanning."""
    sizes, original = [], search._float32

    def recorded(vectors, rows, device="cpu"):
        result = original(vectors, rows, device)
        sizes.append(result.shape[0])
        return result

    monkeypatch.setattr(search, "_float32", recorded)
    monkeypatch.setattr(search, "RESCORED_VALUES", 1)
    generator = np.random.default_rng(2)
    queries, passages = unit(generator, 3, 4), unit(generator, 1000, 4)
    scores, indices = top_k(queries, passages, 2, passage_chunk=50)
    assert max(sizes) <= 50
    assert np.array_equal(indices, brute_force(queries, passages, 2)[1])


def test_more_asked_for_than_there_is_and_no_query():
    queries, passages = np.eye(2, 3, dtype=np.float32), np.eye(3, dtype=np.float32)
    scores, indices = top_k(queries, passages, 10)
    assert indices.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert scores.tolist() == [[1, 0, 0], [1, 0, 0]]
    scores, indices = top_k(np.empty((0, 3), np.float32), np.eye(3, dtype=np.float32), 2)
    assert scores.shape == indices.shape == (0, 2)


def test_autocast_does_not_reach_the_search():
    """Scores 1e-5 apart: bfloat16 would take them all for one and choose by index."""
    passages = np.zeros((500, 2), np.float32)
    passages[:, 0] = 0.5 + 1e-5 * np.arange(500)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, indices = top_k(np.array([[1, 0]], np.float32), passages, 3)
    assert indices.tolist() == [[499, 498, 497]]


def test_precision_settings_of_training_are_put_aside_and_handed_back():
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with search._full_precision("cpu"):
            assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
        assert [backend.fp32_precision for backend in backends] == ["tf32", "bf16"]
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@pytest.mark.parametrize("arguments", [{"k": 0}, {"k": -1}, {"k": 2.0}, {"k": True}, {"query_chunk": 0}, {"passage_chunk": 0}])
def test_numbers_out_of_range(arguments):
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        top_k(vectors, vectors, **{"k": 1, **arguments})


def test_an_empty_corpus_and_shapes_that_do_not_go_together():
    with pytest.raises(DataError, match="empty"):
        top_k(np.eye(3, dtype=np.float32), np.empty((0, 3), np.float32), 1)
    with pytest.raises(ConfigurationError, match=r"\(3, 3\) and passages \(4, 4\)"):
        top_k(np.eye(3, dtype=np.float32), np.eye(4, dtype=np.float32), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_vector_is_named(value):
    vectors, broken = np.eye(30, dtype=np.float32), np.eye(30, dtype=np.float32)
    broken[27, 3] = value
    with pytest.raises(NonFiniteError, match="row 27 of the passages"):
        top_k(vectors, broken, 1, passage_chunk=4)
    with pytest.raises(NonFiniteError, match="row 27 of the queries"):
        top_k(broken, vectors, 1, query_chunk=4)


def test_any_kind_of_array_is_searched_and_none_is_written_to(tmp_path):
    generator = np.random.default_rng(0)
    passages, queries = (generator.standard_normal((n, 8)).astype(np.float32) for n in (50, 3))
    wanted = top_k(queries, passages, 5)
    np.save(tmp_path / "vectors.npy", passages)
    frozen = passages.copy()
    frozen.setflags(write=False)
    backwards = passages[::-1].copy()[::-1]
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for vectors in (mapped, frozen, backwards, torch.from_numpy(passages), torch.from_numpy(passages).double()):
        for one, other in zip(top_k(queries, vectors, 5, passage_chunk=7), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_scores_in_order_are_found_through_many_chunks(order):
    values = np.arange(2000, dtype=np.float32)[::order] // 3  # each score three times
    scores, indices = top_k(np.ones((2, 1), np.float32), values[:, None], 10, passage_chunk=64)
    wanted = np.lexsort((np.arange(2000), -values))[:10]
    np.testing.assert_array_equal(indices, np.stack([wanted, wanted]))
    np.testing.assert_array_equal(scores, values[indices])


@pytest.mark.parametrize("chunk", [66, 80, 99])
def test_chunks_smaller_than_what_is_kept(chunk):
    """The threshold holds only once as many candidates are held as are kept: 100 and SLACK more."""
    generator = np.random.default_rng(chunk)
    queries, passages = unit(generator, 1, 16), unit(generator, 400, 16)
    passages = passages[np.argsort(-(passages @ queries[0]))]  # nothing that comes later is above what is held
    for found, expected in zip(
        top_k(queries, passages, 100, passage_chunk=chunk), brute_force(queries, passages, 100), strict=True
    ):
        assert np.array_equal(found, expected)


def test_near_ties_at_the_last_place_are_decided_by_the_exact_products():
    """Scores 1e-8 apart: their float32 products are equal or in another order, and the best is found among `SLACK` more."""
    generator = np.random.default_rng(0)
    passages = np.tile(unit(generator, 1, 64), (20, 1)) + 3e-8 * generator.standard_normal((20, 64)).astype(np.float32)
    queries = unit(generator, 200, 64) + passages[0]
    for k in (1, 5):
        np.testing.assert_array_equal(top_k(queries, passages, k)[1], brute_force(queries, passages, k)[1])


def test_what_is_held_does_not_grow_with_the_corpus():
    """Rising scores: everything is above what was held, and yet no more than a few times `kept` and one chunk are held."""
    best = search.RunningTopK(torch.ones(2, 1), kept=10)
    for start in range(0, 2010, 15):
        best.merge(torch.arange(start, start + 15, dtype=torch.float32)[:, None], start)
        assert best.scores.shape == best.indices.shape and best.scores.shape[1] <= 2 * 10 + 15
        assert best.threshold is not None  # from the first chunk on, which held ten
    best.choose()
    assert best.indices.tolist() == [list(range(2000, 2010))] * 2


def test_a_threshold_from_blocks_is_below_as_many_scores_as_are_kept():
    scores = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32))
    above = (scores > search.RunningTopK(torch.ones(5, 1), kept=4)._threshold_from_blocks(scores)).sum(dim=1)
    assert (above >= 4).all() and (above < 64).all()
    assert search.RunningTopK(torch.ones(5, 1), kept=5)._threshold_from_blocks(scores) is None  # too few blocks


def test_few_scores_above_the_threshold_are_all_that_is_kept():
    """Up to a quarter of them; where more are above, copying them gains nothing and all are kept."""
    scores = torch.tensor([[1.0, 9, 2, 8, 3, 4, 5, 6], [9.0, 1, 2, 3, 4, 5, 6, 6]])
    chosen, indices = search._candidates_above(scores, 100, torch.tensor([[7.0], [7.0]]))
    assert chosen.tolist() == [[9, 8], [9, -np.inf]] and indices[0].tolist() == [101, 103] and indices[1, 0] == 100
    chosen, indices = search._candidates_above(scores, 100, torch.tensor([[5.5], [5.5]]))
    assert chosen.tolist() == scores.tolist() and indices.tolist() == [list(range(100, 108))] * 2


@pytest.mark.parametrize("count", [1, 2, 30])
def test_of_two_that_tie_at_the_last_place_the_first_is_taken(count):
    generator = np.random.default_rng(count)
    scores = np.stack([generator.permutation(200) for _ in range(300)]).astype(np.float32)
    scores[scores == 199 - count] = 200 - count  # what was the next one ties with the last one that is kept
    expected = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :count], axis=1)
    np.testing.assert_array_equal(search._largest(torch.from_numpy(scores), count).numpy(), expected)


def test_torch_never_shares_an_array_that_must_not_be_written_to():
    frozen = np.ones((4, 2), np.float32)
    frozen.setflags(write=False)
    assert not np.shares_memory(search._float32(frozen, slice(0, 2)).numpy(), frozen)
