"""What a sentence-transformers model records is what is used, from a folder and from the hub alike, or it is refused by name."""

import json
import shlex
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from hydra.core.override_parser.overrides_parser import OverridesParser
from transformers import AutoConfig

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.files import read_json, write_json
from e5ft.modeling import recorded
from e5ft.modeling.encoder import EncoderSpec
from e5ft.modeling.loading import load_description, load_encoder, save_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import WORDS, make_encoder
from tests.modeling.test_encoder import random_texts

OLD, NEW = "sentence_transformers.models.{}", "sentence_transformers.sentence_transformer.modules.{}"  # of 1 to 5, of 6
REVISION = "1" * 40


def write_model(folder, *, pooling=None, modules=(), kind=OLD, at="1_Pooling", bert=None, st=None, family="bert"):
    """A folder as sentence-transformers leaves it; None leaves a file out."""
    save_encoder(make_encoder(family), folder)
    config = read_json(folder / "config.json")
    del config["e5ft"]
    write_json(folder / "config.json", config)
    parts = [("", "Transformer"), (at, "Pooling"), *modules, ("9_Normalize", "Normalize")]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": kind.format(name) if "." not in name else name}
        for i, (path, name) in enumerate(parts)
    ])  # fmt: skip
    files = {f"{at}/config.json": pooling, "sentence_bert_config.json": bert, "config_sentence_transformers.json": st}
    for name, values in files.items():
        if values is not None:
            write_json(folder / name, {"word_embedding_dimension": 32, **values} if name.startswith(at) else values)
    (folder / "9_Normalize").mkdir(exist_ok=True)
    return folder


def spec(folder, **settings) -> EncoderSpec:
    return load_description(ModelSource(path=str(folder), **settings))[1]


MEAN, CLS = {"pooling_mode_mean_tokens": True}, {"pooling_mode": "cls", "include_prompt": True}
LAST = {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": False}
LENGTH = {"max_seq_length": 12, "do_lower_case": False}
PROMPTS = {"prompts": {"query": "w1 w2 ", "document": "w3 "}, "default_prompt_name": None}
RECORDS = {
    "old cls": (dict(pooling={"pooling_mode_cls_token": True}, bert=LENGTH, st=PROMPTS), ("cls", "w1 w2 ", "w3 ", 12)),
    "new cls": (dict(pooling=CLS, kind=NEW, bert={"transformer_task": "feature-extraction"}, st=PROMPTS), ("cls", "w1 w2 ", "w3 ", 48)),
    "last": (dict(pooling=LAST, bert=LENGTH, st={"prompts": {"query": "", "document": ""}}), ("last", "", "", 12)),
    "prompts {}": (dict(pooling=CLS, bert=LENGTH, st={"prompts": {}}), ("cls", "", "", 12)),
    "no prompts file": (dict(pooling=MEAN, bert={"max_seq_length": None}), ("mean", "", "", 48)),
    "another folder": (dict(pooling=CLS, at="2_MyPooling", bert=LENGTH), ("cls", "", "", 12)),
    "passage": (dict(pooling=CLS, st={"prompts": {"query": "w5 ", "passage": "w6 "}}), ("cls", "w5 ", "w6 ", 48)),
    "corpus": (dict(pooling=CLS, st={"prompts": {"query": "w5 ", "corpus": "w6 "}}), ("cls", "w5 ", "w6 ", 48)),
    "query alone": (dict(pooling=CLS, st={"prompts": {"query": "w5 "}}), ("cls", "w5 ", "", 48)),
    "default for all": (dict(pooling=MEAN, st={"prompts": {"a": "w7 "}, "default_prompt_name": "a"}), ("mean", "w7 ", "w7 ", 48)),
    "other names": (dict(pooling=MEAN, st={"prompts": {"web": "w7 "}}), ("mean", "", "", 48)),
    "too long": (dict(pooling=MEAN, bert={"max_seq_length": 512}), ("mean", "", "", 64)),
    "nothing left out": (dict(pooling={**MEAN, "include_prompt": False}, bert=LENGTH, st={"prompts": {}}), ("mean", "", "", 12)),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_from_folder_and_hub_alike(tmp_path, monkeypatch, name):
    written, (pooling, query, passage, length) = RECORDS[name]
    folder = write_model(tmp_path / "some-model", **written)
    wanted = EncoderSpec(pooling, TextSpec(query, passage, length, length))
    assert spec(folder) == wanted
    hub = tmp_path / "hub" / "models--acme--embedder"
    shutil.copytree(folder, hub / "snapshots" / REVISION)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = AutoConfig.from_pretrained(folder)
    for revision in (None, "main", REVISION):
        found = recorded.spec_of(ModelSource(hub="acme/embedder", revision=revision), config)[0]
        assert found == wanted and found.origin == spec(folder).origin


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "too long"])  # there sentence-transformers fails
def test_vectors_are_those_of_sentence_transformers(tmp_path, name):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = write_model(tmp_path / "some-model", **RECORDS[name][0])
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    encoder, texts = load_encoder(ModelSource(path=str(folder))), random_texts(6, seed=3, longest=30)
    for role, method in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
        # It has prompts "query" and "document" of its own, empty ones, that hide what these records mean.
        prompt = {"default for all": "a", "passage": role, "corpus": {"query": "query", "passage": "corpus"}[role]}.get(name)
        wanted = method(texts, **({} if prompt is None else {"prompt_name": prompt}))
        np.testing.assert_allclose(encoder.encode(texts, role), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_lower_case_is_sentence_transformers_and_stays_when_saved(tmp_path, family):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = write_model(tmp_path / "m", pooling=MEAN, bert={"max_seq_length": 40, "do_lower_case": True}, family=family)
    theirs, encoder = (
        sentence_transformers.SentenceTransformer(str(folder), device="cpu"),
        load_encoder(ModelSource(path=str(folder))),
    )
    texts = [text.upper() for text in random_texts(4)]
    np.testing.assert_allclose(encoder.encode(texts, "query"), theirs.encode(texts), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(encoder.encode(texts, "query"), encoder.encode([t.lower() for t in texts], "query"))
    export_model(encoder, tmp_path / "out", "card")
    again = load_encoder(ModelSource(path=str(tmp_path / "out")))
    np.testing.assert_array_equal(again.encode(texts, "query"), encoder.encode(texts, "query"))


def test_a_tokenizer_that_changes_accents_alone_is_lower_cased_too(tmp_path):
    folder = write_model(tmp_path / "m", pooling=MEAN, bert={"max_seq_length": 40, "do_lower_case": True})
    values = read_json(folder / "tokenizer.json")
    (folder / "tokenizer.json").write_text(json.dumps({**values, "normalizer": {"type": "NFD"}}), encoding="utf-8")
    normaliser = load_encoder(ModelSource(path=str(folder))).tokenizer.backend_tokenizer.normalizer
    assert normaliser.normalize_str("ABÄ") == "aba\u0308"


@pytest.mark.parametrize(("module", "words"), [
    (("2_Dense", "Dense"), r"2_Dense \(Dense\), which e5ft does not have; a model of Transformer, Pooling and Normalize is needed"),
    (("2_LayerNorm", "LayerNorm"), r"2_LayerNorm \(LayerNorm\)"),
    (("1_CNN", "CNN"), r"1_CNN \(CNN\)"),
    (("1_LSTM", "LSTM"), r"1_LSTM \(LSTM\)"),
    (("1_WeightedLayerPooling", "WeightedLayerPooling"), "WeightedLayerPooling"),
    (("", "Asym"), r"2 \(Asym\)"),
    (("", "Router"), r"2 \(Router\)"),
    (("2_Dropout", "Dropout"), r"\(Dropout\)"),
    (("custom", "custom_code.Transformer"), r"custom \(custom_code.Transformer\)"),
    (("2_Pooling", "Pooling"), "lists 2 Pooling modules"),
    (("0_Transformer", "Transformer"), "has its Transformer in 0_Transformer"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [OLD, NEW])
def test_a_module_that_e5ft_does_not_have_is_refused_by_name(tmp_path, module, words, kind):
    folder = write_model(tmp_path / "m", pooling=MEAN, modules=[module], kind=kind)
    with pytest.raises(ConfigurationError, match=words) as refused:
        spec(folder)
    assert str(refused.value).startswith(f"{folder}: modules.json ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(("written", "words"), [
    (dict(pooling={"pooling_mode": "max"}), "model.pooling='max': must be one of mean, cls, last"),
    (dict(pooling={"pooling_mode": ["cls", "mean"]}), r"model.pooling='cls\+mean'"),
    (dict(pooling=None), "1_Pooling/config.json, which says the pooling, is missing; say it: model.pooling=mean"),
    (dict(pooling={**MEAN, "include_prompt": False}, st=PROMPTS), "include_prompt=false .*model.pooling=mean takes them in"),
    (dict(pooling=MEAN, st={"prompts": {"query": 5}}), "prompts.query='5': must be a string"),
    (dict(pooling=MEAN, st={"prompts": ["query"]}), "prompts=.*must be a mapping"),
])  # fmt: skip
def test_what_cannot_be_read_right_is_refused_until_it_is_said(tmp_path, written, words):
    folder = write_model(tmp_path / "m", **written)
    with pytest.raises(ConfigurationError, match=words):
        spec(folder)
    if "prompts=" not in words and "prompts." not in words:
        assert spec(folder, pooling="mean").pooling == "mean"


def test_include_prompt_matters_to_the_mean_alone(tmp_path):
    folder = write_model(tmp_path / "m", pooling={"pooling_mode_cls_token": True, "include_prompt": False}, st=PROMPTS)
    assert spec(folder).pooling == "cls"


E5 = ("query: ", "passage: ")


@pytest.mark.parametrize(("name", "config", "card", "prefixes"), [
    ("multilingual-e5-small", None, None, E5),
    ("e5-base-v2", None, None, E5),
    ("KoE5", None, None, E5),
    ("multilingual-e5-large-instruct", None, None, ("", "")),
    ("e5ft-run", None, None, ("", "")),
    ("bge-m3", None, None, ("", "")),
    ("mine", "intfloat/multilingual-e5-base", None, E5),
    ("mine", None, "---\nbase_model: intfloat/multilingual-e5-small\n---\n", E5),
    ("mine", None, "---\nmodel-index:\n- name: multilingual-e5-small\n  results: []\n---\n", E5),
    ("mine", None, "---\nbase_model:\n- BAAI/bge-m3\n---\n e5-small is worse\n", ("", "")),
])  # fmt: skip
def test_what_is_called_e5_reads_e5s_prefixes_though_it_records_none(tmp_path, name, config, card, prefixes):
    folder = write_model(tmp_path / name, pooling=MEAN, st={"prompts": {}})
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "_name_or_path": config})
    if card is not None:
        (folder / "README.md").write_text(card)
    found = spec(folder)
    assert (found.text.query_prefix, found.text.passage_prefix) == prefixes
    assert ("E5's, since" in found.origin) == (prefixes == E5) and ("none, since" in found.origin) == (prefixes != E5)


def test_where_each_value_comes_from_is_said(tmp_path):
    folder = write_model(tmp_path / "m", pooling=CLS, bert=LENGTH, st=PROMPTS)
    assert str(spec(folder)) == "cls pooling, 'w1 w2 ' / 'w3 ', 12 tokens: recorded by the model"
    told = spec(folder, text={"query_prefix": "", "query_max_length": 8})
    assert str(told) == "cls pooling, '' / 'w3 ', 8 / 12 tokens: pooling recorded by the model, prefixes and length as set"
    (folder / "modules.json").unlink()
    assert str(spec(folder)) == "mean pooling, 'query: ' / 'passage: ', 64 tokens: E5's, since the model records none"
    other = write_model(tmp_path / "n", pooling=CLS, st={"prompts": {"web": "w7 "}})
    assert spec(other).origin.endswith("prefixes none, since the model records none (its prompts are web)")


def stale(folder, **changes):
    """A model of e5ft that sentence-transformers trained on and saved: config.json keeps the old record."""
    config = read_json(folder / "config.json")
    text = {"query_prefix": "query: ", "passage_prefix": "passage: ", "query_max_length": 20, "passage_max_length": 40}
    write_json(folder / "config.json", {**config, "e5ft": {"pooling": "mean", "text": {**text, **changes}}})
    return folder


@pytest.mark.parametrize(("written", "fields"), [
    (dict(pooling=CLS), ["pooling"]),
    (dict(st={"prompts": {"query": "", "document": ""}}), ["query_prefix", "passage_prefix"]),
    (dict(st={"prompts": {}}), ["query_prefix", "passage_prefix"]),
    (dict(st={"prompts": {"query": 'say "ja":\n', "document": "passage: "}}), ["query_prefix"]),
    (dict(bert={"max_seq_length": 30}), ["query_max_length", "passage_max_length"]),
])  # fmt: skip
def test_two_records_that_differ_stop_until_one_is_chosen(tmp_path, written, fields):
    same = dict(pooling=MEAN, bert={"max_seq_length": 40}, st={"prompts": dict(zip(("query", "document"), E5, strict=True))})
    folder = stale(write_model(tmp_path / "m", **{**same, **written}))
    with pytest.raises(ConfigurationError, match="e5ft record and the sentence-transformers files differ") as refused:
        spec(folder)
    message = str(refused.value)
    typed = shlex.split(message.partition("files': ")[2].partition(" (for good")[0].replace("$'", "'"))
    typed = [override.replace("\\n", "\n").replace('\\\\"', '\\"') for override in typed]  # as bash reads $'...'
    pasted = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(typed)}
    assert "\n" not in message and [name.rpartition(".")[2] for name in pasted] == fields
    settings = {"text": {name.removeprefix("model.text."): v for name, v in pasted.items() if ".text." in name}}
    found = spec(folder, pooling=pasted.get("model.pooling"), **settings)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in read_json(folder / "config.json").items() if k != "e5ft"}))
    chosen = {"pooling": found.pooling, **found.text.to_dict()}
    of_files = {"pooling": spec(folder).pooling, **spec(folder).text.to_dict()}
    assert all(chosen[name] == of_files[name] for name in fields)


@pytest.mark.parametrize(
    "text", [TextSpec("query: ", "passage: ", 20, 40), TextSpec("", "", 48, 30), TextSpec("Do:\nquery: ", "", 9, 64)]
)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_an_own_export_raises_no_alarm_nor_after_sentence_transformers_saved_it(tmp_path, text, pooling):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = make_encoder().eval()
    encoder.spec = EncoderSpec(pooling, text)
    export_model(encoder, tmp_path / "model", "card")
    assert spec(tmp_path / "model") == encoder.spec and spec(tmp_path / "model").origin == "recorded by the model"
    sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu").save(str(tmp_path / "again"))
    assert spec(tmp_path / "again") == encoder.spec


def test_a_hub_that_says_nothing_of_modules(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", pooling=CLS, st=PROMPTS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config, source = AutoConfig.from_pretrained(folder), ModelSource(hub="acme/plain", revision=REVISION)
    unknown = "E5's, since the local cache has no record of the model's, and HF_HUB_OFFLINE is set"
    assert recorded.spec_of(source, config)[0].origin == unknown
    known = tmp_path / "hub/models--acme--plain/.no_exist" / REVISION / "modules.json"  # of an earlier answer of the hub's
    known.parent.mkdir(parents=True)
    known.touch()
    assert recorded.spec_of(source, config)[0].origin == "E5's, since the model records none"
    known.unlink()
    asked = []

    def unreachable(name, file, **options):
        asked.append(file)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(recorded, "hf_hub_download", unreachable)
    with pytest.raises(
        ConfigurationError, match="acme/plain: the hub does not say whether there is a modules.json.*HF_HUB_OFFLINE=1"
    ):
        recorded.spec_of(source, config)
    told = ModelSource(hub="acme/plain", revision=REVISION, pooling="mean", text={"query_prefix": WORDS[0], "passage_prefix": ""})
    assert recorded.spec_of(told, config)[0].pooling == "mean"  # all that could be recorded is set
    assert asked == ["modules.json"] * 2  # where that one is absent nothing else is asked for


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no connection"), TimeoutError("timed out"), OSError("503 from the hub")]
)
def test_a_hub_that_answers_no_more_is_not_one_without_prompts(tmp_path, monkeypatch, error):
    folder = write_model(tmp_path / "m", pooling=MEAN, st=PROMPTS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(name, file, **options):
        if file == "config_sentence_transformers.json":
            raise error
        return str(folder / file)

    monkeypatch.setattr(recorded, "hf_hub_download", download)
    source, config = ModelSource(hub="acme/some", revision=REVISION), AutoConfig.from_pretrained(folder)
    with pytest.raises(ConfigurationError, match="does not say whether there is a config_sentence_transformers.json"):
        recorded.spec_of(source, config)
