"""Graphs beside the weights: what they are called and take, that they give the weights' vectors, and what is refused."""

import itertools

import numpy as np
import pytest
import torch

from e5ft.exporting import onnx as graphs
from e5ft.exporting.folder import ExportError, export_model
from e5ft.files import read_json
from e5ft.retrieval.vectors import digest_of_model
from tests.conftest import make_encoder

TEXTS = ["w1 w2 w3", "w4", " ".join(f"w{i}" for i in range(90)), "w7 w7 w9 w11"]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def exported(request, tmp_path_factory):
    """An encoder, and its export with both ONNX files."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    encoder, folder = make_encoder(request.param), tmp_path_factory.mktemp("export") / "model"
    if request.param == "xlm-roberta":  # the real ones have one type of token
        encoder.config.type_vocab_size = 1
        encoder.backbone.embeddings.token_type_embeddings = torch.nn.Embedding(1, 32)
    export_model(encoder, folder, "card", formats=("onnx", "onnx_int8"))
    return encoder, folder


def test_onnxruntime_and_tokenizers_alone_give_the_encoder_s_vectors(exported):
    import onnxruntime
    from tokenizers import Tokenizer

    encoder, folder = exported
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx")
    types = ["token_type_ids"] if encoder.config.model_type == "bert" else []
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask", *types]
    assert [each.name for each in session.get_outputs()] == ["last_hidden_state"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    padding = encoder.tokenizer.pad_token_id
    tokenizer.enable_padding(pad_id=padding, pad_token="<pad>")
    for number in (1, len(TEXTS)):  # both axes are free
        cut = tokenizer.encode_batch([f"query: {text}" for text in TEXTS[:number]])
        feed = {"input_ids": np.array([e.ids for e in cut]), "attention_mask": np.array([e.attention_mask for e in cut])}
        feed |= {name: np.zeros_like(feed["input_ids"]) for name in types}
        hidden, mask = session.run(None, feed)[0], feed["attention_mask"][..., None]
        vectors = (hidden * mask).sum(1) / mask.sum(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS[:number], "query"), atol=1e-5)


def test_old_runtimes_can_read_it_and_it_names_no_folder_of_this_machine(exported):
    import onnx

    _, folder = exported
    for name in ("model.onnx", "model_quantized.onnx"):
        model = onnx.load(folder / "onnx" / name)
        assert {each.domain: each.version for each in model.opset_import if not each.domain} == {"": 18} and model.ir_version == 8
        content = (folder / "onnx" / name).read_bytes()
        assert b"site-packages" not in content and str(folder.parent).encode() not in content
    assert sorted(file.name for file in (folder / "onnx").iterdir()) == ["model.onnx", "model_quantized.onnx", "quantised.json"]


def test_int8_is_close_and_its_weights_are_whole_numbers_of_seven_bits(exported):
    import onnx

    encoder, folder = exported
    quantised = graphs.encoder_of(encoder, folder / "onnx/model_quantized.onnx")
    cosine = (quantised.encode(TEXTS, "passage") * encoder.encode(TEXTS, "passage")).sum(1)
    assert 0.99 < cosine.min() < 1 - 1e-7
    recorded = read_json(folder / "onnx/quantised.json")["cosine"]
    assert 0.99 < recorded["lowest"] <= recorded["mean"] < 1 - 1e-7
    weights = [
        onnx.numpy_helper.to_array(each)
        for each in onnx.load(folder / "onnx/model_quantized.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2
    ]
    assert len(weights) > 10 and max(np.abs(each.astype(int)).max() for each in weights) == 64


def test_an_encoder_of_a_file_is_told_from_another_s_and_runs_in_several_threads(exported):
    encoder, folder = exported
    files = [folder / "onnx/model.onnx", folder / "onnx/model_quantized.onnx"]
    assert len({digest_of_model(each) for each in (encoder, *(graphs.encoder_of(encoder, file) for file in files))}) == 3
    texts = [f"w{i} w{j}" for i, j in itertools.product(range(20), range(15))]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        vectors = graphs.encoder_of(encoder, files[0]).encode(texts, "passage")
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(vectors, encoder.encode(texts, "passage"), atol=1e-5)


def test_large_weights_stand_beside_the_graph(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(graphs, "_LARGEST", 1000)
    export_model(make_encoder(), tmp_path / "model", "card", formats=("onnx",))
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "model/onnx").iterdir()}
    assert sizes.keys() == {"model.onnx", "model.onnx_data"} and sizes["model.onnx_data"] > 40_000


def test_what_is_made_on_the_way_is_not_left(tmp_path):
    pytest.importorskip("onnxscript")
    export_model(make_encoder(), tmp_path / "model", "card", formats=("onnx_int8",))
    found = {file.relative_to(tmp_path / "model").as_posix() for file in (tmp_path / "model").rglob("*onnx*")}
    assert found == {"onnx", "onnx/model_quantized.onnx"}


def test_openvino_gives_the_same_vectors(tmp_path):
    for package in ("onnxscript", "openvino"):
        pytest.importorskip(package)
    encoder, folder = make_encoder(), tmp_path / "model"
    export_model(encoder, folder, "card", ("openvino",))
    assert {file.name for file in (folder / "openvino").iterdir()} == {"openvino_model.xml", "openvino_model.bin"}
    assert not (folder / "onnx").exists()
    vectors = graphs.encoder_of(encoder, folder / "openvino/openvino_model.xml").encode(TEXTS, "query")
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, "query"), atol=1e-5)


def test_a_graph_with_other_vectors_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def wrong(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask | 1, token_type_ids=token_type_ids).last_hidden_state

    monkeypatch.setattr(graphs._HiddenStates, "forward", wrong)
    with pytest.raises(ExportError, match=r"^export: onnx/model.onnx gives other query vectors \(difference"):
        export_model(make_encoder(), tmp_path / "model", "card", formats=("onnx",))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_write_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def fails(*_, **__):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ExportError, match=r"^formats: torch.onnx cannot write a bert model \(no such operator\)$"):
        export_model(make_encoder(), tmp_path / "model", "card", formats=("onnx",))
    assert list(tmp_path.iterdir()) == []
