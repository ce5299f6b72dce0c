"""FAISS against the exact search, and where it is not installed."""

import sys

import numpy as np
import pytest

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.approximate import approximate, check_method, search
from e5ft.retrieval.search import top_k


def vectors(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("method", ["exact", "flat"])
def test_the_same_as_top_k(method):
    queries, passages = vectors(20, 0), vectors(300, 1)
    scores, indices = search(queries, passages, 10, method=method)
    expected = top_k(queries, passages, 10)
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)
    np.testing.assert_array_equal(indices, expected[1])
    assert not approximate(method)


@pytest.mark.parametrize("method", ["exact", "flat", "ivf"])
def test_more_asked_for_than_there_is(method):
    scores, indices = search(vectors(3, 0), vectors(5, 1), 50, method=method)
    assert indices.shape == scores.shape == (3, 5)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in indices.tolist())  # with 5 passages every cell is searched


def test_ivf_finds_most_and_never_names_the_last_passage_for_none():
    queries, passages = vectors(50, 0), vectors(2000, 1)
    exact = top_k(queries, passages, 10)[1]
    scores, indices = search(queries, passages, 10, method="ivf")
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices.tolist(), exact.tolist(), strict=True)])
    assert 0.4 < recall < 1 and approximate("ivf")
    np.testing.assert_array_equal(indices, search(queries, passages, 10, method="ivf")[1])
    scores, indices = search(queries, passages, 500, method="ivf", lists=100, probes=1)
    none = indices == -1
    assert none.any() and np.isneginf(scores[none]).all() and np.isfinite(scores[~none]).all()


def test_errors(monkeypatch):
    with pytest.raises(ConfigurationError, match="search='hnsw'"):
        check_method("hnsw")
    with pytest.raises(ConfigurationError, match="k=0"):
        search(vectors(1, 0), vectors(2, 0), 0, method="flat")
    with pytest.raises(DataError, match="empty"):
        search(vectors(1, 0), np.empty((0, 16), np.float32), 1, method="flat")
    monkeypatch.setitem(sys.modules, "faiss", None)
    check_method("exact")
    with pytest.raises(ConfigurationError, match="pip install faiss-cpu"):
        search(vectors(1, 0), vectors(2, 0), 1, method="ivf")
