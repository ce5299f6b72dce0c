"""A guide's vectors of all texts: looked up by identity, equal to encoding them, never another model's."""

import dataclasses

import numpy as np
import pytest
import torch

from e5ft.data.collator import TrainingRows, collate
from e5ft.data.settings import Columns, Mix, Source
from e5ft.data.sources import join_rows
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.data.text import text_id
from e5ft.retrieval.guide import guide_vectors
from e5ft.training.distillation import Regularised
from e5ft.training.losses import InfoNCE
from tests.conftest import make_encoder, make_rows


@pytest.fixture
def store(write_rows, tmp_path):
    return load_rows(write_rows(make_rows(30)), Columns(), tmp_path / "cache")


def texts_of(store) -> dict[str, list[str]]:
    queries = {row.query for row in store}
    return {"query": sorted(queries), "passage": sorted({t for row in store for t in (*row.positives, *row.negatives)})}


def test_every_text_of_the_data_has_the_vector_that_encoding_it_gives(store, tmp_path):
    encoder = make_encoder()
    guide = guide_vectors(encoder, store, tmp_path / "cache")
    for role, texts in texts_of(store).items():
        ids = np.array([text_id(text) for text in texts])
        np.testing.assert_allclose(guide.of(role, ids), encoder.encode(texts, role), atol=1e-6)
        assert guide.of(role, ids[:0]).shape == (0, encoder.dimension)


def test_a_query_and_a_passage_of_the_same_text_have_vectors_of_their_own(write_rows, tmp_path):
    store = load_rows(
        write_rows([{"query": "w1 w2", "document": "w3"}, {"query": "w3", "document": "w1 w2"}]), Columns(), tmp_path
    )
    encoder = make_encoder()
    guide, ids = guide_vectors(encoder, store, tmp_path), np.array([text_id("w1 w2")])
    np.testing.assert_allclose(guide.of("query", ids), encoder.encode(["w1 w2"], "query"), atol=1e-6)
    np.testing.assert_allclose(guide.of("passage", ids), encoder.encode(["w1 w2"], "passage"), atol=1e-6)
    assert abs(guide.of("query", ids) - guide.of("passage", ids)).max() > 1e-3


def test_a_text_that_the_data_does_not_hold_is_told(store, tmp_path):
    guide = guide_vectors(make_encoder(), store, tmp_path / "cache")
    with pytest.raises(KeyError, match="passage .* no vector"):
        guide.of("passage", np.array([text_id("nowhere in the data")]))


def test_the_base_reads_each_source_of_a_mix_as_it_is_trained_on(write_rows, tmp_path):
    """So the model before training is at no distance from itself, whatever prefixes a source has."""
    stores = [load_rows(write_rows(make_rows(12, seed=seed), f"{seed}.jsonl"), Columns(), tmp_path) for seed in range(2)]
    mix = Mix(tuple(Source(name=f"s{seed}", train_file=f"{seed}.jsonl", columns=Columns()) for seed in range(2)))
    encoder, store = make_encoder().eval(), join_rows(mix, stores, 0)
    formats = [encoder.spec.text, dataclasses.replace(encoder.spec.text, query_prefix="w7 w8 w9 ", passage_prefix="")]
    tokens = tokenize_rows(store, encoder.tokenizer, formats, tmp_path)
    distances = []
    for read_as in (formats, ()):
        rows = TrainingRows(store, tokens, vectors={"base": guide_vectors(encoder, store, tmp_path, formats=read_as)})
        batch, loss = (
            collate([rows[row, 0] for row in range(len(store.rows))], rows.vectors),
            Regularised(InfoNCE(0.05), 2.0, 0.01),
        )
        with torch.no_grad():
            loss(encoder(batch.input_ids, batch.lengths), batch.step)
        distances.append(float(loss.statistics["kl_to_base"]))
    assert distances[0] == pytest.approx(0, abs=1e-5) and distances[1] > 0.01
    assert encoder.spec.text == formats[0]
