"""What a broken or hostile model folder says for itself, before it is used."""

import json

import pytest
import torch
from transformers import AutoConfig

from e5ft.errors import ConfigurationError
from e5ft.modeling.checks import check_shape, check_vectors, first_line, refuse_adapter
from tests.conftest import make_encoder

SHAPE = dict(vocab_size=210, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 0}, "hidden_size=0: must be a whole number from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"vocab_size": 10**7, "hidden_size": 65_536}, "its weights need"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"hidden_act": "nothing"}, "KeyError: 'nothing'"),
        ({"pad_token_id": 500}, "pad_token_id=500: must be a token id below vocab_size=210"),
        ({"chunk_size_feed_forward": 3}, "chunk_size_feed_forward=3: must be 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_before_memory_is_taken(change, words):
    with pytest.raises(ConfigurationError) as caught:
        check_shape(AutoConfig.for_model("bert", **{**SHAPE, **change}), "place")
    assert str(caught.value).startswith("place: ") and words in str(caught.value)


def test_a_good_shape_is_accepted():
    check_shape(AutoConfig.for_model("bert", **SHAPE), "place")


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ConfigurationError, match="must be a text encoder"):
        check_shape(AutoConfig.for_model("vit"), "place")


def test_an_adapter_is_refused_and_not_followed_to_its_base(tmp_path):
    refuse_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "no/such"}))
    with pytest.raises(ConfigurationError, match="merge it into its base.*AutoPeftModelForFeatureExtraction.*model.path=merged"):
        refuse_adapter(str(tmp_path))


def test_a_run_s_adapter_names_the_merged_model_beside_it(tmp_path):
    for folder, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    with pytest.raises(ConfigurationError, match=f"merged into its base it is model.path={tmp_path}/model$"):
        refuse_adapter(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("encoder.layer.0.output.dense.weight", 0.0, "is zero throughout"),
        ("encoder.layer.0.output.LayerNorm.weight", 0.0, "is zero throughout"),
        ("encoder.layer.0.output.dense.weight", float("nan"), "NaN, infinite or zero"),
        ("embeddings.word_embeddings.weight", float("inf"), "NaN, infinite or zero"),
    ],
)
def test_weights_that_a_cut_file_leaves_are_refused(name, value, words):
    encoder = make_encoder().eval()
    check_vectors(encoder, "place")
    with torch.no_grad():
        encoder.backbone.get_parameter(name).fill_(value)
    with pytest.raises(ConfigurationError, match=words):
        check_vectors(encoder, "place")


@pytest.mark.parametrize("name", ["embeddings.token_type_embeddings.weight", "encoder.layer.0.output.dense.bias"])
def test_what_may_be_zero_is_accepted(name):
    """RoBERTa's converted weights have a token type of zeros."""
    encoder = make_encoder("xlm-roberta").eval()
    with torch.no_grad():
        encoder.backbone.get_parameter(name).zero_()
    check_vectors(encoder, "place")


def test_the_look_changes_neither_random_state_nor_mode():
    encoder = make_encoder(dropout=0.5).train()
    before = torch.get_rng_state()
    check_vectors(encoder, "place")
    assert encoder.training and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad\nmore"), "bad"),
        (ValueError("Validation error for field 'x':\n   TypeError: no"), "Validation error for field 'x': TypeError: no"),
        (KeyError("x"), "KeyError: 'x'"),
        (OSError(), "OSError: "),
        (ValueError("set the option `trust_remote_code=True`"), "it needs code of its own, which is never run here"),
        (RuntimeError("tab\there"), "tab\\there"),
    ],
)
def test_a_librarys_error_in_one_line(error, line):
    assert first_line(error) == line
