"""From a source to an encoder and back to a folder: nothing changes on the way, and what cannot be used says why."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.modeling.encoder import EncoderSpec
from e5ft.modeling.loading import load_description, load_encoder, load_weights, save_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import make_encoder, make_tokenizer
from tests.modeling.test_encoder import random_texts

SHAPE = {
    "model_type": "bert", "vocab_size": 210, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
SHORT = {"query_max_length": 32, "passage_max_length": 32}


@pytest.fixture
def folder(tmp_path):
    encoder = make_encoder(seed=3)
    encoder.spec = EncoderSpec("last", TextSpec("ask: ", "text: ", 20, 40))
    save_encoder(encoder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tokenizer_folder(tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_saved_encoder_comes_back_bit_for_bit(tmp_path, family, padded):
    encoder = make_encoder(family, padded=padded, pooling="cls").eval()
    encoder.spec = EncoderSpec("cls", TextSpec("ask: ", "", 20, 40))
    pooler = encoder.pooler[0].dense.weight.clone()
    before = encoder.encode(random_texts(), "query")
    save_encoder(encoder, tmp_path / "model")
    assert (encoder.encode(random_texts(), "query") == before).all()  # saving leaves the encoder as it was
    found = load_encoder(ModelSource(path=str(tmp_path / "model"), attention="padded" if padded else "auto"))
    assert found.spec == encoder.spec and found.padded == padded and not found.training
    assert found.backbone.state_dict().keys() == encoder.backbone.state_dict().keys()
    assert all(torch.equal(t, encoder.backbone.state_dict()[name]) for name, t in found.backbone.state_dict().items())
    assert torch.equal(found.pooler[0].dense.weight, pooler)
    assert (found.encode(random_texts(), "query") == before).all()
    assert not any("pooler" in name for name, _ in found.named_parameters())  # DDP would wait for its gradient
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


def test_weights_have_the_mode_of_their_neighbours(folder):
    """safetensors writes them for their owner alone."""
    modes = {file.name: oct(file.stat().st_mode) for file in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"] == modes["tokenizer.json"] and len(set(modes.values())) == 1


def test_plain_automodel_loads_the_folder(tmp_path):
    """That its vectors are the same is what every export compares."""
    encoder = make_encoder("xlm-roberta").eval()
    save_encoder(encoder, tmp_path / "model")
    backbone = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert backbone.config._attn_implementation != encoder.config._attn_implementation
    assert AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == 48
    assert torch.equal(backbone.pooler.dense.weight, encoder.pooler[0].dense.weight)


def test_explicit_settings_win_over_recorded_ones_and_those_over_e5s(folder, tmp_path):
    recorded = load_encoder(ModelSource(path=str(folder)))
    assert recorded.spec == EncoderSpec("last", TextSpec("ask: ", "text: ", 20, 40))
    told = ModelSource(
        path=str(folder), pooling="mean", text={"query_prefix": "", "passage_max_length": 10, "passage_prefix": None}
    )
    assert load_encoder(told).spec == EncoderSpec("mean", TextSpec("", "text: ", 20, 10))
    config = json.loads((folder / "config.json").read_text())
    del config["e5ft"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_encoder(ModelSource(path=str(folder), text=SHORT)).spec == EncoderSpec("mean", TextSpec(**SHORT))


def test_dropouts_are_taken_or_set(folder):
    own = load_encoder(ModelSource(path=str(folder)))
    assert own.config.hidden_dropout_prob == own.config.attention_probs_dropout_prob == 0
    told = load_encoder(ModelSource(path=str(folder), dropout=0.3, attention_dropout=0.2))
    layer = told.backbone.encoder.layer[0]
    assert (layer.output.dropout.p, layer.attention.self.dropout.p) == (0.3, 0.2)


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_a_dropout_that_a_family_has_under_another_name_is_refused(tmp_path, field):
    AutoConfig.for_model("distilbert", vocab_size=210, dim=32, n_layers=1, n_heads=4, hidden_dim=64).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=f"model.{field}=0.1: must be null, since distilbert has no "):
        load_description(ModelSource(path=str(tmp_path), pooling="mean", text=SHORT, **{field: 0.1}))


def test_random_weights_depend_on_the_seed_alone(tokenizer_folder):
    def weights(seed):
        source = ModelSource(init="random", shape=SHAPE, tokenizer=tokenizer_folder, text=SHORT, seed=seed)
        return load_encoder(source).backbone.embeddings.word_embeddings.weight

    state = torch.random.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(weights(1), first) and not torch.equal(weights(2), first)


def test_random_weights_in_the_shape_of_a_folder(folder):
    encoder = load_encoder(ModelSource(path=str(folder), init="random"))
    assert encoder.config.hidden_size == 32 and encoder.spec.pooling == "last"
    saved = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert not torch.equal(encoder.backbone.embeddings.word_embeddings.weight, saved)


def sentence_transformers_folder(tmp_path, *, pooling="cls", prompts=None):
    from sentence_transformers import SentenceTransformer, models

    save_encoder(make_encoder(), tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign" / "config.json").read_text())
    del config["e5ft"]
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config))
    modules = [models.Transformer(str(tmp_path / "foreign")), models.Pooling(32, pooling_mode=pooling), models.Normalize()]
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save(str(tmp_path / "sentence-transformers"))
    return model, str(tmp_path / "sentence-transformers")


@pytest.mark.parametrize(("theirs", "ours"), [("cls", "cls"), ("lasttoken", "last"), ("mean", "mean")])
def test_a_foreign_sentence_transformers_folder_is_taken_over(tmp_path, theirs, ours):
    model, folder = sentence_transformers_folder(tmp_path, pooling=theirs, prompts={"query": "Q: ", "document": "D: "})
    encoder = load_encoder(ModelSource(path=folder, text=SHORT))
    assert encoder.spec == EncoderSpec(ours, TextSpec("Q: ", "D: ", 32, 32))
    texts = random_texts(5, longest=20)
    for role, prompt in (("query", "query"), ("passage", "document")):
        wanted = torch.from_numpy(model.encode(texts, prompt_name=prompt))
        torch.testing.assert_close(torch.from_numpy(encoder.encode(texts, role)), wanted, rtol=0, atol=1e-6)


LEGACY = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"), False)


@pytest.mark.parametrize(("written", "pooling"), [
    ({**LEGACY, "pooling_mode_mean_tokens": True}, "mean"),
    ({**LEGACY, "pooling_mode_cls_token": True}, "cls"),
    ({**LEGACY, "pooling_mode_lasttoken": True}, "last"),
])  # fmt: skip
def test_pooling_as_older_releases_write_it(tmp_path, written, pooling):
    folder = sentence_transformers_folder(tmp_path)[1]
    with open(f"{folder}/1_Pooling/config.json", "w") as file:
        json.dump({"word_embedding_dimension": 32, **written}, file)
    assert load_encoder(ModelSource(path=folder, text=SHORT)).spec.pooling == pooling


@pytest.mark.parametrize("written", [
    {"pooling_mode": "max"},
    {"pooling_mode": ["cls", "mean"]},
    {**LEGACY, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    {**LEGACY, "pooling_mode_max_tokens": True},
])  # fmt: skip
def test_a_foreign_pooling_that_is_not_ours_is_refused(tmp_path, written):
    folder = sentence_transformers_folder(tmp_path)[1]
    with open(f"{folder}/1_Pooling/config.json", "w") as file:
        json.dump({"word_embedding_dimension": 32, **written}, file)
    with pytest.raises(ConfigurationError, match="model.pooling=.*mean, cls, last"):
        load_encoder(ModelSource(path=folder, text=SHORT))
    assert load_encoder(ModelSource(path=folder, text=SHORT, pooling="mean")).spec.pooling == "mean"


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="model.path=.*no such folder"):
        ModelSource(path=str(tmp_path / "nowhere"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        load_encoder(ModelSource(path=str(tmp_path)))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, family, tokenizer_folder):
    """transformers makes one that knows five special tokens: every text would be a row of unknowns."""
    save_encoder(make_encoder(family), tmp_path / "model")
    for file in (tmp_path / "model").glob("token*"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="tokenizer"):
        load_encoder(ModelSource(path=str(tmp_path / "model")))
    assert len(load_encoder(ModelSource(path=str(tmp_path / "model"), tokenizer=tokenizer_folder)).tokenizer) == 206


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="no model.safetensors, and other weights"):
        load_encoder(ModelSource(path=str(folder)))


def test_damaged_weights_are_refused(folder):
    encoder = load_encoder(ModelSource(path=str(folder)))
    os.truncate(folder / "model.safetensors", 3000)
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        load_encoder(ModelSource(path=str(folder)))
    with pytest.raises(ConfigurationError, match="model.safetensors: cannot be read"):
        load_weights(encoder, folder)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fill_the_model_are_refused(folder, change):
    """transformers fills the gaps with random numbers."""
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:, :8].contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=name if change == "missing" else "not a usable model folder"):
        load_encoder(ModelSource(path=str(folder)))


def test_weights_without_a_pooler_are_enough(folder):
    tensors = {name: t for name, t in load_file(folder / "model.safetensors").items() if not name.startswith("pooler.")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    load_encoder(ModelSource(path=str(folder)))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tokenizer_folder):
    source = ModelSource(init="random", shape={**SHAPE, "vocab_size": 205}, tokenizer=tokenizer_folder, text=SHORT)
    with pytest.raises(ConfigurationError, match="206 pieces, the model 205.*model.tokenizer"):
        load_encoder(source)
    fits = ModelSource(init="random", shape={**SHAPE, "vocab_size": 206}, tokenizer=tokenizer_folder, text=SHORT)
    assert load_encoder(fits).config.vocab_size == 206


def test_a_length_beyond_the_positions_is_refused(folder):
    with pytest.raises(ConfigurationError, match="model.text.query_max_length=65.*at most 64"):
        load_encoder(ModelSource(path=str(folder), text={"query_max_length": 65}))


def test_an_unreachable_hub_names_both_ways_out(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match="e5ft-tests/absent could not be fetched.*model.path=DIR.*model=e5_small_q4"):
        load_encoder(ModelSource(hub="e5ft-tests/absent", revision="0" * 40))


@pytest.mark.parametrize(("values", "message"), [
    ({"init": "scratch"}, "model.init='scratch'"),
    ({"attention": "flash"}, "model.attention='flash'"),
    ({"dropout": 1.0}, "model.dropout=1.0"),
    ({"dropout": -0.1}, "model.dropout=-0.1"),
    ({"attention_dropout": "a little"}, "model.attention_dropout='a little'"),
    ({"attention_dropout": float("nan")}, "model.attention_dropout=nan"),
    ({"hub": None}, "model.path=DIR"),
    ({"hub": None, "init": "random"}, "model.path=DIR"),
    ({"hub": None, "init": "random", "shape": SHAPE}, "model.tokenizer=null"),
])  # fmt: skip
def test_bad_values_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=message):
        ModelSource(**{"hub": "intfloat/multilingual-e5-small", **values})


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "nosuch"}, "model.shape: .*nosuch"),
    ({"model_type": None}, "model.shape"),
    ({"num_hidden_layer": 3}, "model.shape.num_hidden_layer=3: bert has no such field"),
    ({"hidden_size": 33}, "model.shape: .*33"),
])  # fmt: skip
def test_bad_shapes_are_refused(tokenizer_folder, change, message):
    with pytest.raises(ConfigurationError, match=message):
        load_encoder(ModelSource(init="random", shape={**SHAPE, **change}, tokenizer=tokenizer_folder, text=SHORT))


def test_load_weights_reads_what_save_encoder_wrote(folder):
    other = make_encoder(seed=9)
    load_weights(other, folder)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in other.backbone.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "too many", "shape", "no file"])
def test_load_weights_is_strict(folder, change):
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["encoder.layer.0.output.dense.bias"]
    elif change == "too many":
        tensors["encoder.layer.2.output.dense.bias"] = torch.zeros(32)
    elif change == "shape":
        tensors["encoder.layer.0.output.dense.bias"] = torch.zeros(16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if change == "no file":
        (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="model.safetensors"):
        load_weights(make_encoder(), folder)


@pytest.mark.parametrize(("values", "label"), [
    ({"hub": "intfloat/multilingual-e5-small"}, "intfloat/multilingual-e5-small"),
    ({"hub": "intfloat/multilingual-e5-small", "init": "random"}, "intfloat/multilingual-e5-small shape, random weights"),
    ({"init": "random", "shape": SHAPE, "tokenizer": "t"}, "mini shape, random weights"),
])  # fmt: skip
def test_labels(values, label):
    assert ModelSource(**values).label == label
