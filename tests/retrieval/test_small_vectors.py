"""Small vectors against faiss, sentence-transformers and plain sums: codes, the centre, and what is found by them."""

import json

import numpy as np
import pytest

from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.retrieval import small_vectors
from e5ft.retrieval.runs import OVERSAMPLING, dense_run
from e5ft.retrieval.shards import Shards
from e5ft.retrieval.small_vectors import (
    FILE,
    Centre,
    Kind,
    binary_codes,
    centre_of,
    centre_of_texts,
    centre_words,
    first_components,
    int8_codes,
    quantised,
    signs,
    small_kinds,
)
from tests.conftest import WORDS, make_encoder
from tests.retrieval.conftest import make_set


def crowded(rows: int, dimension: int, seed: int, mean: float = 3.0) -> np.ndarray:
    """Unit vectors around one direction, as those of E5 are."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    vectors += mean * np.sign(np.random.default_rng(99).standard_normal(dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def set_of(queries: np.ndarray, passages: np.ndarray):
    return make_set({f"q{i:03}": {"d000": 1} for i in range(len(queries))}, [f"d{i:03}" for i in range(len(passages))])


def test_bits_are_those_of_sentence_transformers_once_the_centre_is_taken_off():
    from sentence_transformers.util import quantize_embeddings

    vectors = crowded(50, 20, 0)  # 20 bits: the last byte is half empty
    centre = centre_of(vectors, "here").vector
    np.testing.assert_array_equal(binary_codes(vectors, centre), quantize_embeddings(vectors - centre, "ubinary"))
    np.testing.assert_array_equal(binary_codes(vectors, np.zeros(20)), quantize_embeddings(vectors, "ubinary"))
    np.testing.assert_array_equal(signs(binary_codes(vectors, centre), 20), np.where(vectors > centre, 1, -1))


@pytest.mark.parametrize("size", [None, 16])
def test_bits_are_ranked_by_hamming_distance_as_faiss_has_it(size):
    import faiss

    queries, passages = crowded(9, 32, 1), crowded(300, 32, 2)
    centre = centre_of(passages, "here").vector
    first, found, _ = quantised(queries, passages, "binary", size, centre)
    scores, indices = dense_run(first, found, set_of(queries, passages), 20)
    bits = size or 32
    index = faiss.IndexBinaryFlat(bits)
    index.add(np.packbits((passages > centre)[:, :bits], axis=1))
    distances, positions = index.search(np.packbits((queries > centre)[:, :bits], axis=1), 300)
    for row in range(9):
        expected = sorted(zip(distances[row].tolist(), positions[row].tolist(), strict=True))[:20]  # equal ones by index
        assert [(bits - 2 * distance, position) for distance, position in expected] == list(
            zip(scores[row].tolist(), indices[row].tolist(), strict=True)
        )
    assert found.codes.dtype == np.uint8 and found.codes.shape == (300, bits // 8)


def test_float_queries_score_the_candidates_of_bits_again():
    queries, passages = crowded(9, 32, 1), crowded(300, 32, 2)
    centre = centre_of(passages, "here").vector
    first, found, exact = quantised(queries, passages, "binary", None, centre)
    run = dense_run(first, found, set_of(queries, passages), 5, rescored_by=exact)
    codes = np.where(passages > centre, 1, -1)
    for row, query in enumerate(queries):
        distances = (np.where(query > centre, 1, -1) != codes).sum(axis=1)
        candidates = np.lexsort((np.arange(300), distances))[: OVERSAMPLING * 5]
        scores = ((query - centre).astype(np.float64) * codes[candidates]).sum(axis=1).astype(np.float32)
        order = np.lexsort((candidates, -scores))[:5]
        np.testing.assert_array_equal(run[1][row], candidates[order])
        np.testing.assert_array_equal(run[0][row], scores[order])


@pytest.mark.parametrize("size", [None, 16])
def test_bytes_are_within_half_a_step_and_ranked_by_whole_numbers(size):
    queries, passages = crowded(9, 32, 1, mean=0.5), crowded(300, 32, 2, mean=0.5)
    first, found, exact = quantised(queries, passages, "int8", size, None)
    cut = [vectors if size is None else first_components(vectors, size) for vectors in (queries, passages)]
    step = np.abs(cut[1]).max() / 127
    assert found.codes.dtype == np.int8 and found.codes.max() == 127 and found.codes.min() >= -127
    assert np.abs(found.codes * step - cut[1]).max() <= 0.5001 * step
    np.testing.assert_array_equal(exact, cut[0])
    products = first.astype(np.int64) @ found.codes.astype(np.int64).T
    scores, indices = dense_run(first, found, set_of(queries, passages), 20)
    for row in range(9):
        expected = np.lexsort((np.arange(300), -products[row]))[:20]
        np.testing.assert_array_equal(indices[row], expected)
        np.testing.assert_array_equal(scores[row], products[row][expected])


def test_a_query_beyond_the_passages_largest_component_is_held_at_127():
    np.testing.assert_array_equal(int8_codes(np.array([[0.5, -3.0, 0.004]]), 100), [[50, -127, 0]])


def test_about_the_centre_bits_find_what_about_zero_they_do_not():
    passages = crowded(400, 64, 3)
    queries = passages[:100] + 0.02 * np.random.default_rng(4).standard_normal((100, 64)).astype(np.float32)
    found = {}
    for name, centre in (("zero", np.zeros(64, np.float32)), ("centred", centre_of(passages, "here").vector)):
        first, codes, _ = quantised(queries, passages, "binary", None, centre)
        found[name] = (dense_run(first, codes, set_of(queries, passages), 1)[1][:, 0] == np.arange(100)).mean()
    assert found["centred"] > 0.95 > found["zero"] + 0.5


def test_what_lies_in_shards_and_is_read_in_pieces_gives_the_same(monkeypatch):
    queries, passages = crowded(4, 32, 5), crowded(50, 32, 6)
    centre = centre_of(passages, "here")
    whole = {name: quantised(queries, passages, name, 16, centre.vector) for name in ("int8", "binary")}
    monkeypatch.setattr(small_vectors, "_ROWS", 7)
    shards = Shards([passages[:20], passages[20:]])
    np.testing.assert_allclose(centre_of(shards, "here").vector, passages.mean(axis=0, dtype=np.float64), rtol=0, atol=1e-7)
    for name, (first, codes, exact) in whole.items():
        parts = quantised(queries, shards, name, 16, centre.vector)
        np.testing.assert_array_equal(parts[0], first)
        np.testing.assert_array_equal(parts[1].codes, codes.codes)
        np.testing.assert_array_equal(parts[2], exact)


def test_kinds_and_their_bytes():
    kinds = small_kinds([64, 12], ["int8", "binary"])
    assert Kind() not in kinds and len(kinds) == len(set(kinds)) == 14
    told = {kind.key: (kind.words, kind.bytes_per_passage(384)) for kind in kinds}
    assert told["int8"] == (", int8", 384) and told["binary"] == (", binary (centred)", 48)
    assert told["64d"] == (", first 64 dimensions", 256)
    assert told["12d_binary_rescored"] == (", first 12 dimensions, binary (centred), rescored", 2)
    assert Kind().bytes_per_passage(384) == 1536 and small_kinds([], []) == []


def test_a_centre_is_kept_with_the_model_and_only_with_this_one(tmp_path):
    assert Centre.load(tmp_path, 3) is None and "of this set's passages" in centre_words(None)
    centre = Centre(np.array([0.1, -0.2, 1 / 3], np.float32), "말뭉치.jsonl", 12)
    write_json(tmp_path / "centre.json", centre.to_dict())
    again = Centre.load(tmp_path, 3)
    np.testing.assert_array_equal(again.vector, centre.vector)
    assert centre_words(again) == "of 12 passages of 말뭉치.jsonl, kept with the model"
    with pytest.raises(ConfigurationError, match="must hold 4 numbers, the model's dimensions; it has 3"):
        Centre.load(tmp_path, 4)
    for damaged in ('{"texts": "a", "count": 1}', "{", '{"texts": "a", "count": 1, "vector": ["x"]}'):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(ConfigurationError, match="cannot be read; write it again with export.py data.corpus_file=FILE"):
            Centre.load(tmp_path, 3)
    (tmp_path / FILE).write_text(json.dumps({"texts": "a", "count": 1, "vector": [0, None, 1]}))
    with pytest.raises(ConfigurationError, match="must hold 3 numbers"):
        Centre.load(tmp_path, 3)


def test_the_centre_of_texts_is_that_of_a_drawn_part_of_many(monkeypatch):
    encoder, texts = make_encoder(), [f"{WORDS[i]} {WORDS[i + 1]}" for i in range(12)]
    vectors = encoder.encode(texts, "passage").astype(np.float64)
    every = centre_of_texts(encoder, texts, "words", seed=0)
    np.testing.assert_allclose(every.vector, vectors.mean(axis=0), rtol=0, atol=1e-6)
    assert (every.count, every.texts) == (12, "words")
    monkeypatch.setattr(small_vectors, "CENTRE_TEXTS", 5)
    drawn = [centre_of_texts(encoder, texts, "words", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].count == 5 and np.array_equal(drawn[0].vector, drawn[1].vector)
    assert not np.allclose(drawn[0].vector, drawn[2].vector) and not np.allclose(drawn[0].vector, every.vector)
