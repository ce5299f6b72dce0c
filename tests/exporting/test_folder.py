"""What an exported folder says of itself to sentence-transformers; its vectors are compared by the export itself."""

import json

import pytest

from e5ft.data.text import TextSpec
from e5ft.exporting.folder import ExportError, export_model
from e5ft.exporting.golden import read_golden
from e5ft.files import read_json
from e5ft.modeling import tokenizer_files
from e5ft.modeling.encoder import EncoderSpec
from e5ft.modeling.loading import ModelSource, load_encoder, save_encoder
from tests.conftest import make_encoder
from tests.exporting.test_xlm_roberta import make_xlmr_encoder
from tests.weights_file import tiny_source


@pytest.mark.parametrize(("query", "passage"), [(20, 40), (40, 20)])
def test_a_folder_used_as_it_is_cuts_at_the_longer_length_and_compares_by_cosine(tmp_path, query, passage):
    from sentence_transformers import SentenceTransformer

    encoder = make_encoder()
    encoder.spec = EncoderSpec(text=TextSpec("ask: ", "text: ", query, passage))
    export_model(encoder, tmp_path / "model", "card")
    assert read_json(tmp_path / "model/sentence_bert_config.json")["max_seq_length"] == 40
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert model.max_seq_length == 40 and model.similarity_fn_name == "cosine"
    assert model.prompts == {"query": "ask: ", "document": "text: ", "passage": "text: "}


def test_what_points_at_foreign_code_does_not_travel(tmp_path):
    export_model(make_encoder(), tmp_path / "base", "card")
    for name in ("config.json", "tokenizer_config.json"):
        values = read_json(tmp_path / "base" / name)
        values["auto_map"] = {"AutoModel": "attacker/repository--x.M"}
        values["custom_pipelines"] = {"feature-extraction": {"impl": "attacker/repository--x.P"}}
        (tmp_path / "base" / name).write_text(json.dumps(values))
    encoder = load_encoder(ModelSource(path=str(tmp_path / "base")))
    export_model(encoder, tmp_path / "model", "card")
    save_encoder(encoder, tmp_path / "checkpoint")
    for folder in ("model", "checkpoint"):
        assert not [file for file in (tmp_path / folder).rglob("*.json") if "attacker" in file.read_text()]


def test_a_folder_that_reads_nfd_in_another_way_is_refused(tmp_path, monkeypatch):
    encoder = load_encoder(tiny_source(tmp_path))
    assert export_model(encoder, tmp_path / "model", "card") <= 1e-5
    monkeypatch.setattr(tokenizer_files, "preparation", lambda tokenizer, text: [])
    with pytest.raises(ExportError, match="export: transformers.AutoModel gives other query vectors"):
        export_model(encoder, tmp_path / "other", "card")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("added", "architecture", "kinds"), [((), None, ()), ((), "xlm_roberta", ("nfd",)), (("  ",), None, ("spaces",))]
)
def test_the_record_says_what_the_folder_leaves_to_its_clients(tmp_path, added, architecture, kinds):
    """A token of two spaces, as ModernBERT's, keeps our white space out of tokenizer.json; NFC stays in it."""
    encoder = make_xlmr_encoder()
    encoder.tokenizer.add_tokens(list(added))
    export_model(encoder, tmp_path / "model", "card", architecture=architecture)
    assert tuple(read_golden(tmp_path / "model").by_client) == kinds
    golden = tmp_path / "model/golden.json"
    golden.write_text(golden.read_text().replace('"by_client"', '"of_a_later_version"'))  # older exports have none
    assert read_golden(golden).by_client == ()
