"""The GGUF file as llama.cpp's loader reads it: the keys of its BERT graph, the tokenizer, every tensor."""

import unicodedata

import numpy as np
import pytest

from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.exporting.settings import GGUF_FILE
from e5ft.exporting.xlm_roberta import xlm_roberta_pieces
from e5ft.modeling.charsmap import _unpacked
from tests.conftest import make_encoder
from tests.exporting.test_xlm_roberta import make_xlmr_encoder

LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down", "layer_output_norm")


@pytest.mark.parametrize(("family", "pooling", "number"), [("bert", "mean", 1), ("xlm-roberta", "cls", 2), ("bert", "last", 3)])
def test_the_file_has_what_llama_cpp_reads(tmp_path, family, pooling, number):
    gguf = pytest.importorskip("gguf")
    encoder = make_xlmr_encoder(family, pooling=pooling)
    export_model(encoder, tmp_path / "model", "card", formats=["gguf"])
    reader = gguf.GGUFReader(tmp_path / "model" / GGUF_FILE)
    value = {name: field.contents() for name, field in reader.fields.items()}
    pieces, charsmap = xlm_roberta_pieces(encoder.tokenizer)
    room = 64 if family == "bert" else 62
    expected = {
        "general.architecture": "bert", "bert.block_count": 2, "bert.context_length": room, "bert.embedding_length": 32,
        "bert.feed_forward_length": 64, "bert.attention.head_count": 4, "bert.attention.causal": False,
        "bert.pooling_type": number, "tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": True, "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.seperator_token_id": 2, "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3, "tokenizer.ggml.mask_token_id": len(pieces) - 1,
        "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
    }  # fmt: skip
    assert {name: value.get(name) for name in expected} == expected
    assert value["bert.attention.layer_norm_epsilon"] == pytest.approx(encoder.backbone.config.layer_norm_eps)
    assert value["tokenizer.ggml.scores"] == pytest.approx([score for _, score in pieces])
    kinds = value["tokenizer.ggml.token_type"]
    assert kinds[:4] == [3, 3, 3, 2] and kinds[-1] == 3 and set(kinds[4:-1]) == {1}
    table = _unpacked(bytes(value["tokenizer.ggml.precompiled_charsmap"]))
    assert table[unicodedata.normalize("NFD", "한")] == "한" and _unpacked(charsmap).items() <= table.items()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {"token_embd.weight", "position_embd.weight", "token_types.weight", "token_embd_norm.weight", "token_embd_norm.bias"}
    assert tensors.keys() == names | {f"blk.{i}.{part}.{kind}" for i in range(2) for part in LAYER for kind in ("weight", "bias")}
    state = {name: tensor.numpy() for name, tensor in encoder.backbone.state_dict().items()}
    assert np.array_equal(
        tensors["token_embd.weight"].data, state["embeddings.word_embeddings.weight"][: len(pieces)].astype("f2")
    )
    rows = state["embeddings.position_embeddings.weight"][0 if family == "bert" else 2 :]
    assert np.array_equal(tensors["position_embd.weight"].data, rows)
    assert np.array_equal(
        tensors["token_types.weight"].data.reshape(-1, 32)[0], state["embeddings.token_type_embeddings.weight"][0]
    )
    assert value["tokenizer.ggml.token_type_count"] == tensors["token_types.weight"].data.size // 32
    assert np.array_equal(tensors["blk.1.ffn_down.bias"].data, state["encoder.layer.1.output.dense.bias"])
    assert np.array_equal(tensors["blk.1.attn_v.weight"].data, state["encoder.layer.1.attention.self.value.weight"].astype("f2"))


def test_what_is_refused_is_refused_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    with pytest.raises(ConfigurationError, match=r"^formats=\[gguf\]: the tokenizer \(WordLevel\) is not XLM-R's[^\n]*$"):
        export_model(make_encoder(), tmp_path / "model", "card", formats=["gguf"])
    encoder = make_xlmr_encoder()
    encoder.backbone.config.hidden_act = "relu"
    with pytest.raises(ConfigurationError, match=r"^formats=\[gguf\]: the model's hidden_act='relu', must be gelu[^\n]*$"):
        export_model(encoder, tmp_path / "model", "card", formats=["gguf"])
    assert not list(tmp_path.iterdir())
