"""IVF-PQ: what it finds, with which scores, that its index is found again and never stale, and where it is refused."""

import functools
import sys

import numpy as np
import pytest

from e5ft.errors import ConfigurationError
from e5ft.retrieval import approximate
from e5ft.retrieval.approximate import check_method, search
from e5ft.retrieval.search import top_k
from e5ft.retrieval.shards import Shards
from tests.conftest import damage

faiss = pytest.importorskip("faiss")
COUNT, DIMENSION = 10_000, 16
search_ivfpq = functools.partial(search, method="ivfpq")


@pytest.fixture(autouse=True)
def short_codes(monkeypatch):
    """Learning the codes takes most of the time, and grows with their length."""
    monkeypatch.setattr(approximate, "CODE_BYTES", 4)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def passages():
    """Clusters, as texts of topics are."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(200, DIMENSION))
    return unit(centres[generator.integers(0, 200, COUNT)] + 0.5 * generator.normal(size=(COUNT, DIMENSION)))


@pytest.fixture(scope="module")
def queries(passages):
    generator = np.random.default_rng(1)
    return unit(passages[::250] + 0.2 * generator.normal(size=(40, DIMENSION)))


@pytest.fixture
def mapped(passages, tmp_path):
    """The same on disk, in two shards."""

    def write(vectors=passages):
        for name, part in (("a", vectors[:6000]), ("b", vectors[6000:])):
            np.save(tmp_path / f"{name}.npy", part)
        return Shards([np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"])

    return write


def recall(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


def test_most_is_found_with_exact_scores(queries, passages):
    expected = top_k(queries, passages, 10)
    scores, indices = search_ivfpq(queries, passages, 10)
    assert recall(indices, expected[1]) > 0.95
    true = dict(enumerate((queries.astype(np.float64) @ passages.T.astype(np.float64)).astype(np.float32)))
    for row, (values, places) in enumerate(zip(scores, indices, strict=True)):
        np.testing.assert_allclose(values, true[row][places], rtol=0, atol=1e-7)
        assert list(values) == sorted(values, reverse=True)
    # The codes alone would order them worse: what is scored anew is more than what is asked for.
    assert recall(search_ivfpq(queries, passages, 10, probes=1)[1], expected[1]) < recall(indices, expected[1])


def test_memory_disk_and_blocks_give_the_same(queries, passages, mapped, tmp_path, monkeypatch):
    expected = search_ivfpq(queries, passages, 20, seed=3)
    shards = mapped()
    built = search_ivfpq(queries, shards, 20, seed=3, folder=tmp_path, block=4500)
    (folder,) = (path for path in tmp_path.glob("ivfpq-*") if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == ["index", "lists", "manifest.json"]
    monkeypatch.setattr(approximate, "_write", None)  # found again: nothing is built
    again = search_ivfpq(queries, shards, 20, seed=3, folder=tmp_path)
    for found in (built, again):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("name", ["index", "lists"])
def test_a_damaged_index_is_built_again(name, queries, mapped, tmp_path, caplog):
    shards = mapped()
    expected = search_ivfpq(queries, shards, 20, folder=tmp_path)
    (folder,) = (path for path in tmp_path.glob("ivfpq-*") if path.is_dir())
    damage(folder / name, "zeroed")
    again = search_ivfpq(queries, shards, 20, folder=tmp_path)
    np.testing.assert_array_equal(again[1], expected[1])
    assert f"{folder}: damaged ({name} is not what was written (SHA-256)); building it again" in caplog.messages


def test_other_vectors_get_another_index(queries, passages, mapped, tmp_path):
    search_ivfpq(queries, mapped(), 5, folder=tmp_path)
    moved = np.roll(passages, 1, axis=0)
    found = search_ivfpq(queries, mapped(moved), 5, folder=tmp_path)
    assert recall(found[1], top_k(queries, moved, 5)[1]) > 0.9
    search_ivfpq(queries, mapped(moved)[:9_990], 5, folder=tmp_path)  # a part of them is another corpus too
    assert len([path for path in tmp_path.glob("ivfpq-*") if path.is_dir()]) == 3


def test_a_corpus_too_small_to_learn_from_is_searched_exactly(queries, passages):
    for method in ("exact", "ivfpq"):
        for found, expected in zip(
            search(queries, passages[:50], 60, method=method), top_k(queries, passages[:50], 60), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_where_too_few_are_found_the_rest_is_none(queries, passages):
    scores, indices = search_ivfpq(queries, passages, 2000, lists=200, probes=1)
    none = indices == -1
    assert none.any() and np.isneginf(scores[none]).all() and np.isfinite(scores[~none]).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in indices)


def test_refusals(queries, passages, monkeypatch):
    with pytest.raises(ConfigurationError, match="k=0"):
        search_ivfpq(queries, passages, 0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    check_method("exact")
    with pytest.raises(ConfigurationError, match="pip install faiss-cpu"):
        search_ivfpq(queries, passages, 1)
