"""Scores of one pair at a time against batches; folders that are no cross-encoder."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from e5ft.errors import ConfigurationError, NonFiniteError
from e5ft.modeling.cross_encoder import CrossEncoder
from e5ft.modeling.loading import save_encoder
from tests.conftest import make_encoder, make_tokenizer

QUERIES = ["w1 w2", "w3", "w4 w5 w6 w7", "w1 w2", "w9"]
PASSAGES = ["w10 w11 w12", "w20 " * 90, "w7", "w3 w4 w5 w6 w7 w8", "w1"]


def save(folder, labels, family="bert"):
    pad = {"bert": 0, "xlm-roberta": 1}[family]
    config = AutoConfig.for_model(
        family, vocab_size=210, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=labels, pad_token_id=pad, type_vocab_size=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_the_model_s_own_pair_by_pair(labels, family, tmp_path):
    model = save(tmp_path, labels, family)
    encoder = CrossEncoder(str(tmp_path), batch_size=2)
    assert encoder.max_length == (64 if family == "bert" else 62)
    tokenizer = make_tokenizer()
    expected = []
    for query, passage in zip(QUERIES, PASSAGES, strict=True):
        batch = tokenizer(query, passage, truncation="longest_first", max_length=encoder.max_length, return_tensors="pt")
        with torch.inference_mode():
            probabilities = model(**batch).logits[0].double()
        expected.append(float(probabilities[0] if labels == 1 else torch.logit(probabilities.softmax(0)[1])))
    np.testing.assert_allclose(encoder.score(QUERIES, PASSAGES), expected, atol=1e-5)
    assert len(set(np.round(expected, 6))) == 5  # different pairs, different scores: the order is tested
    assert encoder.score([], []).shape == (0,)


def test_what_is_no_cross_encoder(tmp_path):
    with pytest.raises(ConfigurationError, match="no such folder"):
        CrossEncoder(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        CrossEncoder(str(tmp_path / "empty"))
    save(tmp_path / "three", 3)
    with pytest.raises(ConfigurationError, match="3 labels"):
        CrossEncoder(str(tmp_path / "three"))


def test_an_embedder_has_no_classifier(tmp_path):
    """transformers would load it, fill the classifier with random numbers and only warn."""
    save_encoder(make_encoder(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "x"}, "label2id": {"x": 0}}))
    with pytest.raises(ConfigurationError, match="classifier"):
        CrossEncoder(str(tmp_path))


def test_a_broken_model_is_named(tmp_path):
    model = save(tmp_path, 1)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    with pytest.raises(NonFiniteError, match="cross_encoder.path"):
        CrossEncoder(str(tmp_path)).score(["w1"], ["w2"])
